"""The Beam pipeline writes the same bytes as one machine; without Beam it says what is missing."""

import importlib.util
import pathlib
import pickle
import subprocess
import sys

import pytest

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.preparation import beam_pipeline
from ofa_jax.data.preparation.plan import make_plan
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.preparation.storage import LocalStorage
from ofa_jax.data.sources.tsv import TsvSource
from tests.data.preparation import fault_set

ROOT = pathlib.Path(__file__).resolve().parents[3]
requires_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="needs apache-beam (pip install -c constraints.txt -e '.[prepare]')",
)
SHARDS = 5


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return fault_set.write(tmp_path_factory.mktemp("beam"), records=120, broken=26)


def command(faults, out, *more):
    paths = f"--paths={faults.path}"
    options = ["--resize_short_side=24", f"--num_shards={SHARDS}", "--processes=1"]
    return ["--source=tsv", "--layout=vision_language", paths, f"--out={out}", *options, *more]


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def expected(faults):
    out = faults.path.parent / "local"
    assert run_prepare(command(faults, out)) == 0
    return content(out)


def plan_of(faults):
    source = TsvSource((("train", str(faults.path)),), "vision_language")
    settings = ConversionSettings(resize_short_side=24)
    return make_plan(source, {}, "train", settings=settings, num_shards=SHARDS)


def test_without_beam_the_error_says_how_to_install_it(faults, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert run_prepare(command(faults, tmp_path / "out", "--engine=beam")) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: the Beam engine needs apache-beam: pip install")
    assert not (tmp_path / "out").exists()


def test_the_command_and_its_processes_start_light():
    absent = "apache_beam jax tensorflow tensorflow_datasets seqio grain"
    code = (
        "import sys, ofa_jax.cli.prepare, ofa_jax.data.preparation.local_engine\n"
        f"loaded = sorted(set({absent.split()!r}) & set(sys.modules))\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_one_shard_of_a_worker_is_the_shard_of_one_machine(faults, expected, tmp_path):
    """What a Beam worker calls, without Beam: plan and directory arrive pickled."""
    plan, _ = plan_of(faults)
    directory = beam_pipeline.OutputDirectory(LocalStorage(tmp_path), plan)
    directory.begin()
    directory, plan = pickle.loads(pickle.dumps((directory, plan)))
    counts = [beam_pipeline.write_one(shard, directory, plan) for shard in range(SHARDS)]
    assert sum(counts) == 94
    written = content(tmp_path)
    assert written == {name: data for name, data in expected.items() if name != "manifest.json"}


def test_where_a_directory_is():
    assert isinstance(beam_pipeline.storage_of("some/directory"), LocalStorage)
    found = beam_pipeline.storage_of("gs://bucket/data/")
    assert isinstance(found, beam_pipeline.BeamStorage)
    assert str(found) == "gs://bucket/data"


@requires_beam
def test_the_direct_runner_writes_the_same_bytes(faults, expected, tmp_path):
    out = tmp_path / "out"
    options = "--beam_options=--runner=DirectRunner"
    assert run_prepare(command(faults, out, "--engine=beam", options)) == 0
    assert content(out) == expected


@requires_beam
def test_one_engine_goes_on_with_what_the_other_began(faults, expected, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(beam_pipeline.OutputDirectory, "finish", interrupted)
        assert run_prepare(command(faults, out)) == 75
    kept, lost = (out / f"train-0000{number}-of-00005.array_record" for number in (1, 3))
    lost.unlink()
    before = kept.stat().st_mtime_ns
    assert run_prepare(command(faults, out, "--engine=beam")) == 0
    assert content(out) == expected
    assert kept.stat().st_mtime_ns == before


@requires_beam
def test_a_storage_of_beam_holds_the_same_files(faults, expected, tmp_path):
    """The adapter for buckets, over the only file system that is at hand."""
    plan, estimate = plan_of(faults)
    storage = beam_pipeline.BeamStorage(str(tmp_path / "bucket"))
    assert storage.read("manifest.json") is None
    assert storage.size("manifest.json") is None
    manifest = beam_pipeline.prepare(plan, estimate, storage.root, storage=storage)
    written = content(tmp_path / "bucket")
    assert storage.names("train-") == sorted(name for name in written if name != "manifest.json")
    assert storage.size("manifest.json") == len(written["manifest.json"])
    assert manifest["splits"]["train"]["examples"] == 94
    del written["manifest.json"]
    assert written == {name: data for name, data in expected.items() if name != "manifest.json"}
    assert beam_pipeline.prepare(plan, estimate, storage.root, storage=storage) == manifest


@requires_beam
def test_a_bad_record_of_a_strict_pipeline_is_one_line(faults, tmp_path, capsys):
    arguments = command(faults, tmp_path / "out", "--engine=beam", "--strict")
    assert run_prepare(arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: the Beam pipeline failed: ")
    assert "record" in line
