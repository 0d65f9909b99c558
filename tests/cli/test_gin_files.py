"""gin as users of t5x write it: includes, marks, scopes, paths, overrides."""

import pathlib
import re
import shlex

import gin
import pytest

from ofa_jax.cli import bindings, gin_files
from ofa_jax.cli.entry import REQUIRED_MACROS, TRAIN_FILE
from ofa_jax.cli.inference import run_infer
from ofa_jax.convert import main as convert
from ofa_jax.runs.settings import MACROS, DatasetConfig
from ofa_jax.runs.story import train
from ofa_jax.training.schedule import ScheduleConfig
from tests.shared import requires_cases, shared_dir

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = "include 'gin_configs/runs/quickstart.gin'\n"


@pytest.fixture(autouse=True)
def registered():
    yield bindings.register(train)
    gin.clear_config()


def settings(files, *arguments):
    """Macros and bindings of a run by name, as text."""
    others, overrides = gin_files.split_overrides(arguments)
    assert others == []
    known = bindings.registered(train)
    paths = (TRAIN_FILE, *map(str, files))
    gin_files.parse(paths, overrides, known, required=REQUIRED_MACROS, types=MACROS)
    lines = gin_files.resolved().replace("\\\n", " ").splitlines()
    pairs = (line.partition(" = ") for line in lines if " = " in line)
    return {name: " ".join(value.split()) for name, _, value in pairs}


@pytest.mark.parametrize("name", ["own_vqa", "own_captioning", "own_grounding"])
def test_images_of_ones_own_take_the_vocabulary_beside_the_checkpoint(name):
    files = ["gin_configs/models/nano.gin", f"gin_configs/runs/finetune/{name}.gin"]
    places = ('--gin.DATA_DIR="data"', '--gin.MODEL_DIR="runs/own"')
    found = settings(files, *places, '--gin.INITIAL_CHECKPOINT_PATH="start"')
    assert found["VOCAB_DIR"] == "None"
    directories = {"DATA_DIR": "data", "VOCAB_DIR": None}
    lengths = {"inputs": 8, "targets": 8, "image": 32}
    config = DatasetConfig("scenes_vqa", lengths, 4, locations=directories)
    assert config.locations == directories


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.gin"
    path.write_text(f"{BASE}TRAIN_STEPS = 12\n", "utf-8-sig")
    assert settings([path])["TRAIN_STEPS"] == "12"


@pytest.mark.parametrize("include", ["include 'base.gin'", '  include "base.gin"  # ours'])
def test_includes_beside_the_file_that_includes(tmp_path, include):
    """Each file of two directories means its own neighbor."""
    files = []
    for directory, steps in (("a", 11), ("b", 22)):
        written(tmp_path / directory / "base.gin", f"TRAIN_STEPS = {steps}\n")
        files.append(written(tmp_path / directory / "mine.gin", f"{BASE}{include}\n"))
    assert settings([files[0]])["TRAIN_STEPS"] == "11"
    assert settings([files[1]])["TRAIN_STEPS"] == "22"


def test_a_block_may_take_the_place_of_a_macro(tmp_path):
    text = f"{BASE}inputs.DatasetConfig:\n  batch_size = 3\n  seed = 4\n"
    found = settings([written(tmp_path / "a.gin", text)])
    assert (found["DatasetConfig.batch_size"], found["DatasetConfig.seed"]) == ("3", "4")


def test_a_scope_that_nothing_opens(tmp_path):
    text = f"{BASE}train/inputs.DatasetConfig.batch_size = 3\n"
    message = "train/inputs.DatasetConfig.batch_size is set but nothing uses the scope 'train'; wri"
    with pytest.raises(gin_files.ConfigError, match=re.escape(message)):
        settings([written(tmp_path / "a.gin", text)])
    # A scope of one's own works.
    text += "train_script.train.train_dataset_cfg = @train/inputs.DatasetConfig()\n"
    found = settings([written(tmp_path / "a.gin", text)])
    assert found["train/DatasetConfig.batch_size"] == "3"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--gin.TRAIN_STEPS=7", "--gin.RANDOM_SEED=5"],
        ["--gin.TRAIN_STEPS", "7", "--gin.RANDOM_SEED", "5"],
        ["--gin_bindings=TRAIN_STEPS = 7", "--gin_bindings=RANDOM_SEED = 5"],
        ["--gin.TRAIN_STEPS=6", "--gin.TRAIN_STEPS=7", "--gin.RANDOM_SEED=5"],
    ],
)
def test_ways_to_override(arguments):
    found = settings(["gin_configs/runs/quickstart.gin"], *arguments)
    assert (found["TRAIN_STEPS"], found["RANDOM_SEED"]) == ("7", "5")


def test_paths_are_those_of_a_shell(monkeypatch):
    monkeypatch.setenv("HOME", "/homes/me")
    monkeypatch.setenv("SCRATCH", "/scratch/my runs")
    for given, path in (
        ("~/runs/one", "/homes/me/runs/one"),
        ("$SCRATCH/one", "/scratch/my runs/one"),
        ("${SCRATCH}/one", "/scratch/my runs/one"),
        ("runs/my run", "runs/my run"),
        ("gs://bucket/run", "gs://bucket/run"),
    ):
        found = settings(["gin_configs/runs/quickstart.gin"], f"--gin.MODEL_DIR={given!r}")
        assert found["MODEL_DIR"] == repr(path)
    with pytest.raises(gin_files.ConfigError, match=r"MODEL_DIR: [$]NOWHERE.one: a var"):
        settings(["gin_configs/runs/quickstart.gin"], "--gin.MODEL_DIR='$NOWHERE/one'")


def test_run_files_of_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
    written(tmp_path / "gin" / "steps.gin", "TRAIN_STEPS = 13\n")
    written(tmp_path / "gin" / "mine.gin", f"{BASE}include '~/gin/steps.gin'\n")
    for arguments in (["~/gin/mine.gin"], ["mine.gin", "--gin_search_paths=~/elsewhere,~/gin"]):
        found = settings(
            arguments[:1],
            *arguments[1:],
            "--gin.INITIAL_CHECKPOINT_PATH='~/x.pt'",
            "--gin.train_script.train.model_dir='~/run'",
        )
        assert found["TRAIN_STEPS"] == "13"
        assert found["INITIAL_CHECKPOINT_PATH"] == repr(f"{tmp_path}/x.pt")
        assert found["train.model_dir"] == repr(f"{tmp_path}/run")
    with pytest.raises(gin_files.ConfigError, match=r"there is no gin file ~/gin/min\.gin"):
        settings(["~/gin/min.gin"])


@pytest.mark.parametrize(("given", "right"), [("true", "True"), ("false", "False")])
def test_truth_values_of_other_languages(given, right):
    with pytest.raises(gin_files.ConfigError, match=f"{given} .*gin; write {right}"):
        settings(["gin_configs/runs/quickstart.gin"], f"--gin.log.LogConfig.tensorboard={given}")


def commands():
    """Every training command of the documentation that sets the number of steps."""
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(
            r"^(?:\S*python )?-m ofa_jax\.train .*|.*python -m ofa_jax\.train .*$",
            text,
            re.MULTILINE,
        ):
            if "TRAIN_STEPS" in line and line.lstrip().startswith((".venv", "python")):
                found.append(pytest.param(line.strip(), id=f"{page.name}-{len(found)}"))
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_documentation_have_room_to_warm_up(command):
    words = shlex.split(command, comments=True)
    arguments = words[words.index("ofa_jax.train") + 1 :]
    files = [word.partition("=")[2] for word in arguments if word.startswith("--gin_file=")]
    if any(not (ROOT / file).is_file() for file in files):
        pytest.skip("the page tells its reader to write the file")
    overrides = [word for word in arguments if word.startswith("--gin.")]
    settings(files, *overrides)
    values = {
        name: gin.query_parameter(f"optimizers.ScheduleConfig.{name}")
        for name in ("total_steps", "warmup_steps")
    }
    steps = {name: gin.query_parameter(f"%{value.scopes[-1]}") for name, value in values.items()}
    assert ScheduleConfig(peak=1.0, **steps).total_steps > 0


@requires_cases
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("a/my.gin", "11"),
        ("b.gin", "12"),
        ("c.gin", "13"),
        ("dd.gin", "14"),
        ("e.gin", "15"),
        ("g.gin", "6"),
    ],
)
def test_cases_from_the_field(name, steps):
    assert settings([shared_dir() / "cases" / "gin_quirks" / name])["TRAIN_STEPS"] == steps


@requires_cases
def test_a_block_of_settings(tmp_path):
    """The case says `utils.DatasetConfig`, as it was called; the block is what it is about."""
    case = (shared_dir() / "cases" / "gin_quirks" / "h.gin").read_text()
    with pytest.raises(gin_files.ConfigError, match=r"it is inputs\.DatasetConfig"):
        settings([written(tmp_path / "old.gin", case)])
    renamed = case.replace("utils.", "inputs.")
    found = settings([written(tmp_path / "new.gin", renamed)])
    assert (found["DatasetConfig.batch_size"], found["DatasetConfig.seed"]) == ("3", "4")
    assert found["TRAIN_STEPS"] == "5000"


@requires_cases
def test_a_missing_include_is_named():
    with pytest.raises(gin_files.ConfigError, match=r"f\.gin: there is no gin file gin_configs"):
        settings([shared_dir() / "cases" / "gin_quirks" / "f.gin"])


def test_paths_of_options(tmp_path, monkeypatch, capsys):
    """Most shells leave the ~ of --checkpoint=~/x alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    missing = ["--checkpoint=~/none", "--instruction=what?", "--without_image"]
    assert run_infer([*missing, "--print_config"]) == 0
    assert f"CHECKPOINT_PATH = '{tmp_path}/none'" in capsys.readouterr().out
    assert convert(["--source=~/none.pt", "--target=~/out", "--target_format=orbax"]) == 2
    assert f"{tmp_path}/none.pt" in capsys.readouterr().err


def test_files_that_include_each_other_are_named(tmp_path):
    (tmp_path / "a.gin").write_text('include "b.gin"\n')
    (tmp_path / "b.gin").write_text('include "a.gin"\n')
    (tmp_path / "own.gin").write_text('include "own.gin"\n')
    for name, chain in (("a.gin", "a.gin includes .*b.gin includes .*a.gin"), ("own.gin", "own")):
        with pytest.raises(gin_files.ConfigError, match=f"deeper than 16: .*{chain}") as caught:
            gin_files.parse([str(tmp_path / name)], [], {})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "name", "text"),
    [
        ("--gin.MODEL_DIR=runs/mine", "MODEL_DIR", "'runs/mine'"),
        ("--gin.MODEL_DIR='runs/mine'", "MODEL_DIR", "'runs/mine'"),
        ("--gin.MODEL_DIR=2026", "MODEL_DIR", "'2026'"),
        ("--gin.INITIAL_CHECKPOINT_PATH=None", "INITIAL_CHECKPOINT_PATH", "None"),
        ("--gin.MIXTURE_OR_TASK_MODULE=tasks.vqa", "MIXTURE_OR_TASK_MODULE", "'tasks.vqa'"),
        ("--gin.MIXTURE_OR_TASK_MODULE=('a', 'b')", "MIXTURE_OR_TASK_MODULE", "('a', 'b')"),
        ("--gin.inputs.DatasetConfig.split=test", "DatasetConfig.split", "'test'"),
        ("--gin.DatasetConfig.on_bad_record=skip", "DatasetConfig.on_bad_record", "'skip'"),
        ("--gin.models.OFA.dtype=bfloat16", "OFA.dtype", "'bfloat16'"),
        (
            "--gin.partitioning.Partitioner.mesh=data=2,model=4",
            "Partitioner.mesh",
            "'data=2,model=4'",
        ),
        ("--gin.BEST_METRIC=", "BEST_METRIC", "''"),
        ("--gin.MODEL_DIR=%MIXTURE_OR_TASK_NAME", "MODEL_DIR", "%MIXTURE_OR_TASK_NAME"),
    ],
)
def test_texts_need_no_quotes_where_the_type_says_text(argument, name, text):
    assert settings(["gin_configs/runs/quickstart.gin"], argument)[name] == text


def test_other_types_are_still_checked():
    for argument, message in (
        ("--gin.TRAIN_STEPS=many", "texts need quotes"),
        ("--gin.MODEL_DIR=None", "MODEL_DIR must be a text"),
        ("--gin.models.OFA.size=%gin.REQUIRED", "include a model file, for example --gin_file="),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            settings(["gin_configs/runs/quickstart.gin"], argument)
