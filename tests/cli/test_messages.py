"""Messages name what the user has: an option, a file, a setting of the other model."""

import dataclasses
import importlib
import logging
import sys

import numpy as np
import pytest

from ofa_jax import plan
from ofa_jax.checkpoint import huggingface, imports
from ofa_jax.checkpoint.imports import CheckpointMismatchError
from ofa_jax.cli import entry, gin_files, inference, prepare
from ofa_jax.data.sources import locations
from ofa_jax.inference.infer import _settings
from ofa_jax.inspect import main as inspect
from ofa_jax.model.config import SIZES
from ofa_jax.report.__main__ import main as report
from ofa_jax.runs import story, tasks
from tests.cli.conftest import QUICKSTART


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """The one line of a command that ends with a mistake in its settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OFA_TRACEBACK", raising=False)
    monkeypatch.delenv("OFA_DATA_DIR", raising=False)

    def run(command, *words):
        assert command(list(words)) == 2
        [line] = [one for one in capsys.readouterr().err.splitlines() if "error: " in one]
        return line.partition("error: ")[2]

    return run


EVAL = {
    "no output": (("--task=vqa",), "--output is missing: give --output=..."),
    "no task": (("--output=o",), "--task is missing: give --task=..."),
    "unknown task": (
        ("--output=o", "--task=vqaa"),
        "--task: no task or mixture named 'vqaa'; did you mean vqa",
    ),
    "unknown module": (
        ("--output=o", "--task=x", "--module=tasks.vqaa"),
        "--module: no module 'tasks.vqaa'",
    ),
}


@pytest.mark.parametrize(("words", "said"), EVAL.values(), ids=EVAL)
def test_eval_names_its_options(refused, words, said):
    assert refused(inference.run_eval, *words).startswith(said)


def test_a_location_is_named_by_the_option_that_gives_it():
    message = ""
    try:
        locations.resolve("{OF_NOBODY}/x.tsv")
    except ValueError as error:
        message = str(error)
    gin_files._start_afresh({"OF_NOBODY": "--data"})
    assert "give --data=DIRECTORY or the environment variable" in gin_files.with_macros(message)
    gin_files._start_afresh(None)
    gin_files.gin.parse_config("OF_NOBODY = None")
    assert "give --gin.OF_NOBODY=DIRECTORY or" in gin_files.with_macros(message)
    gin_files._start_afresh(None)
    assert "set DatasetConfig.locations = {'OF_NOBODY'" in gin_files.with_macros(message)


def test_a_model_file_alone_lacks_its_run_file(refused):
    said = refused(entry.run_train, "--gin_file=gin_configs/models/base.gin")
    assert "add a run file such as --gin_file=gin_configs/runs/quickstart.gin" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [("csv", "--source=table"), ("json", "--source=coco"), ("png", "--source=image_folder")],
)
def test_kinds_of_files_are_no_formats(refused, given, said):
    line = refused(prepare.run_prepare, f"--source={given}", "--out=o")
    assert line.startswith(f"{given!r} is a kind of file, not a format; ")
    assert said in line
    assert "did you mean" not in line


@pytest.mark.parametrize(
    ("decoding", "said"),
    [
        ({"num_beams": 3}, "decoding has no setting 'num_beams'; here it is beam"),
        ({"lenpen": 1.0}, "decoding has no setting 'lenpen'; here it is length_penalty"),
        ({"bean": 3}, "decoding has no setting 'bean'; did you mean beam?"),
        ({"beam": 2.5}, "decoding.beam must be a whole number from 1 to 1,024, got 2.5"),
        ({"samples": 2}, "decoding has no setting 'samples'; "),
    ],
)
def test_settings_of_decoding(decoding, said):
    with pytest.raises(ValueError, match="decoding") as caught:
        _settings(decoding, False, free=True)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_settings_of_decoding_reach_the_search():
    assert _settings({"beam": 2}, False, free=True).beam == 2
    assert _settings({"samples": 2}, True, free=True).samples == 2
    assert _settings(None, False, free=False) is None


def test_decoding_as_a_list(refused):
    said = refused(inference.run_infer, "--without_image", "--gin.DECODING=[5]")
    assert said == "DECODING must be a dictionary of names and values or None, got [5]"


@pytest.mark.parametrize("words", [["--gin_bindings=A = 1"], ["--gin_bindings", "A = 1"]])
def test_bindings_of_t5x(words):
    assert gin_files.split_overrides(["--x", *words, "--y"]) == (["--x", "--y"], ["A = 1"])


def test_search_paths_of_t5x(tmp_path, monkeypatch):
    (tmp_path / "mine.gin").write_text("A = 1\n")
    monkeypatch.setattr(gin_files.gin.config, "_LOCATION_PREFIXES", [""])
    others, bindings = gin_files.split_overrides(["--gin_search_paths", str(tmp_path)])
    assert (others, bindings) == ([], [])
    assert gin_files._located("mine.gin", asked_by="--gin_file") == str(tmp_path / "mine.gin")


def test_a_plan_takes_them_too(monkeypatch):
    taken = []
    monkeypatch.setattr(plan, "simulate_devices", lambda count: None)
    monkeypatch.setattr(
        plan, "_plan_native_run", lambda options, overrides: taken.extend(overrides)
    )
    words = ("--gin_bindings=A = 1", "--gin_bindings", "B = 2", "--gin.C=3")
    assert plan.main([QUICKSTART, "--mesh=data=1", *words]) == 0
    assert taken == ["A = 1", "B = 2", "C = 3"]


def test_another_model_is_told_by_its_settings():
    saved = SIZES["nano"]
    wanted = dataclasses.replace(saved, width=192, encoder_layers=3, dropout=0.3)
    said = imports._differences(saved, wanted)
    assert said == "width is 96 there and 192 here, encoder_layers is 2 there and 3 here"
    assert imports._differences(None, wanted) == ""
    assert imports._differences(saved, dataclasses.replace(saved, dropout=0.3)) == ""


def test_another_model_is_refused_by_name(tmp_path, monkeypatch):
    config = SIZES["nano"]

    def read(path, *, ema, check):
        check({"params": {"other": np.zeros(1)}, "batch_stats": {}})

    monkeypatch.setattr(imports.orbax_weights, "read_model_config", lambda home: config)
    monkeypatch.setattr(imports.orbax_weights, "read_weights", read)
    wanted = dataclasses.replace(config, num_heads=8)
    with pytest.raises(CheckpointMismatchError, match="num_heads is 4"):
        imports._import_own(tmp_path, wanted, None, None)


@pytest.mark.parametrize("setting", ["VOCAB_DIR", "initial"])
def test_vocabulary_of_a_repository(tmp_path, monkeypatch, setting):
    asked = []

    def fetch(repository, **options):
        asked.append((repository, options))
        (tmp_path / "vocab.txt").write_text("x\n")
        return tmp_path

    monkeypatch.setattr(tasks, "fetch_repository", fetch)
    monkeypatch.setattr(tasks, "vocabulary_beside", lambda directory: directory == tmp_path)
    monkeypatch.delenv("OFA_VOCAB_DIR", raising=False)
    given = {"VOCAB_DIR": "OFA-Sys/ofa-base" if setting == "VOCAB_DIR" else None}
    tasks.assign_locations(given, "OFA-Sys/ofa-base" if setting == "initial" else None)
    assert asked == [("OFA-Sys/ofa-base", {"weights": False})]
    assert locations.resolve("{VOCAB_DIR}") == str(tmp_path)
    assert huggingface.is_repository_id("OFA-Sys/ofa-base")
    monkeypatch.delenv("OFA_VOCAB_DIR")


def test_no_more_workers_than_cores(monkeypatch, caplog):
    from ofa_jax.data.preparation import splits

    monkeypatch.setattr(splits, "usable_cores", lambda: 2)
    caplog.set_level(logging.INFO, "ofa_jax")
    assert [story._workers(wanted) for wanted in (0, 2, 8)] == [0, 2, 2]
    assert caplog.messages == [
        "DatasetConfig.num_workers: 2, one for each core here, not 8",
    ]


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(report, ["run"]), (report, ["tables"]), (inspect, ["scenes"])],
    ids=["report", "tables", "inspect"],
)
def test_a_command_without_its_packages_names_the_extra(main, arguments, monkeypatch, capsys):
    for name in [one for one in sys.modules if one.startswith(("ofa_jax.report.", "ofa_jax.insp"))]:
        package, _, module = name.rpartition(".")
        monkeypatch.delattr(importlib.import_module(package), module, raising=False)
        monkeypatch.delitem(sys.modules, name)
    for package in ("matplotlib", "jinja2"):
        monkeypatch.setitem(sys.modules, package, None)
    assert main(arguments) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("it comes with the extra train: pip install 'ofa-jax[train]'")
