"""The part of a run in a bucket that is copied: what is pushed, fetched, and chosen.

The bucket is fsspec's file system in memory; runs against the storage protocol are in
tests/integration/test_bucket_runs.py.
"""

import json
import logging
import time

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ofa_jax.checkpoint import bucket
from ofa_jax.checkpoint.errors import CheckpointError
from ofa_jax.checkpoint.orbax_weights import best_step

RUN = "gs://bucket/runs/one"


class MemoryBucket(MemoryFileSystem):
    """Buckets in memory."""

    protocol = ("gs", "gcs")
    cachable = False

    def __init__(self, **settings):
        del settings  # fsspec's own for gs://, where another test has made some
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs:/"))


@pytest.fixture
def files(monkeypatch):
    """The file system in which gs:// addresses are."""
    result = MemoryBucket()
    monkeypatch.setattr(bucket, "file_system", lambda: result)
    monkeypatch.setattr(bucket, "check_address", lambda *arguments: None)
    monkeypatch.setattr(bucket, "_FETCHED", {})
    return result


def put(files, **contents):
    for name, content in contents.items():
        files.pipe_file(f"{RUN}/{name}", content.encode())


def text(files, name):
    return files.cat_file(f"{RUN}/{name}").decode()


def test_leaving_pushes_and_entering_fetches(files, tmp_path):
    with bucket.Mirror(RUN, tmp_path / "first") as mirror:
        (mirror.directory / "metrics.jsonl").write_text("one\n")
        (mirror.directory / "report_files").mkdir()
        (mirror.directory / "report_files" / "plot.svg").write_text("<svg/>")
        (mirror.directory / "metrics.json.partial").write_text("half")
    assert text(files, "metrics.jsonl") == "one\n"
    assert text(files, "report_files/plot.svg") == "<svg/>"
    assert not files.exists(f"{RUN}/metrics.json.partial")
    with bucket.Mirror(RUN, tmp_path / "second") as mirror:
        assert (mirror.directory / "metrics.jsonl").read_text() == "one\n"
        assert (mirror.directory / "report_files" / "plot.svg").read_text() == "<svg/>"


def test_checkpoints_are_left_alone(files, tmp_path):
    put(files, **{"checkpoint_3/state/d": "x", "damaged_2/state/d": "x", "config.gin": "A = 1"})
    with bucket.Mirror(RUN, tmp_path / "run") as mirror:
        assert [path.name for path in mirror.directory.iterdir()] == ["config.gin"]
    assert text(files, "checkpoint_3/state/d") == "x"


def test_only_what_changed_is_pushed(files, tmp_path):
    with bucket.Mirror(RUN, tmp_path / "run") as mirror:
        (mirror.directory / "a").write_text("1")
        (mirror.directory / "b").write_text("1")
        mirror.push()
        # Another host's file of the same run stays, and so does what is not ours to change.
        put(files, a="changed there", other="x")
        with (mirror.directory / "b").open("a") as file:
            file.write("2")
        mirror.push()
        assert text(files, "a") == "changed there"
        assert text(files, "b") == "12"
        (mirror.directory / "b").unlink()
    assert not files.exists(f"{RUN}/b")
    assert text(files, "other") == "x"


def _holds(files, name, expected):
    return files.exists(f"{RUN}/{name}") and text(files, name) == expected


def test_pushes_in_the_background_and_survives_an_outage(files, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(bucket, "PUSH_PERIOD", 0.02)
    put_file, outages = files.put_file, []

    def sometimes(*arguments, **options):
        if len(outages) < 2:
            outages.append(None)
            raise RuntimeError("the network is down\nand more lines")
        return put_file(*arguments, **options)

    monkeypatch.setattr(files, "put_file", sometimes)
    with caplog.at_level(logging.WARNING, "ofa_jax"), bucket.Mirror(RUN, tmp_path / "r") as mirror:
        (mirror.directory / "a").write_text("1")
        deadline = time.monotonic() + 20
        # A push may find the file before its text is in it; the next one brings the text.
        while not _holds(files, "a", "1") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert text(files, "a") == "1"
    assert caplog.messages[0].startswith(
        f"cannot write to {RUN} (RuntimeError: the network is down); trying again in"
    )


def test_an_outage_at_the_end_is_an_error(files, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no route")

    monkeypatch.setattr(files, "put_file", fail)
    with (
        pytest.raises(CheckpointError, match=f"{RUN} .OSError: no route"),
        bucket.Mirror(RUN, tmp_path / "run") as mirror,
    ):
        (mirror.directory / "a").write_text("1")


STEPS = {
    f"checkpoint_{step}/{name}": f"{step}"
    for step in (2, 4, 6)
    for name in ("state/d", "commit_success.txt")
}
BESIDE = {
    "config.gin": "A = 1",
    "config.json": "{}",
    "vocabulary/vocab.json": "{}",
    "report_files/plot.svg": "<svg/>",
}


@pytest.mark.parametrize(
    ("best", "unfinished", "chosen"),
    [(None, None, 6), (None, 6, 4), (2, None, 2), (6, 6, 4)],
    ids=["the last", "the last finished", "the best", "the best was never finished"],
)
def test_the_checkpoint_of_a_run(files, best, unfinished, chosen):
    put(files, **STEPS, **BESIDE)
    if best:
        put(files, **{"metrics.json": json.dumps({"run": {"best_step": best}})})
    if unfinished:
        files.rm_file(f"{RUN}/checkpoint_{unfinished}/commit_success.txt")
    copy = bucket.local_copy(RUN + "/")
    assert copy.name == "one"
    assert [path.name for path in copy.glob("checkpoint_*")] == [f"checkpoint_{chosen}"]
    assert (copy / f"checkpoint_{chosen}" / "state" / "d").read_text() == str(chosen)
    assert (copy / "config.gin").read_text() == "A = 1"
    assert (copy / "vocabulary" / "vocab.json").is_file()
    assert not (copy / "report_files").exists()
    assert bucket.local_copy(RUN) == copy


def test_one_checkpoint_one_file_another_format(files):
    put(files, **STEPS, **BESIDE, **{"tuned.safetensors": "t"})
    copy = bucket.local_copy(f"{RUN}/checkpoint_2")
    assert copy.name == "checkpoint_2"
    assert (copy / "state" / "d").read_text() == "2"
    assert sorted(path.name for path in copy.parent.iterdir()) == [
        "checkpoint_2",
        "config.gin",
        "config.json",
        "tuned.safetensors",
        "vocabulary",
    ]
    copy = bucket.local_copy(f"{RUN}/tuned.safetensors")
    assert sorted(path.name for path in copy.parent.iterdir()) == [
        "config.gin",
        "config.json",
        copy.name,
    ]
    files.pipe_file("gs://bucket/hub/model.safetensors", b"w")
    files.pipe_file("gs://bucket/hub/sub/vocab.json", b"{}")
    copy = bucket.local_copy("gs://bucket/hub")
    assert (copy / "model.safetensors").is_file()
    assert (copy / "sub" / "vocab.json").is_file()


@pytest.mark.parametrize("scores", ["[]", '{"run": 3}', '{"run": {"best_step": "../x"}}', "{"])
def test_odd_scores_choose_no_checkpoint(files, tmp_path, scores):
    put(files, **STEPS, **{"metrics.json": scores})
    if scores == "{":
        with pytest.raises(CheckpointError, match=r"metrics\.json: is not JSON"):
            bucket.local_copy(RUN)
        return
    assert [p.name for p in bucket.local_copy(RUN).glob("checkpoint_*")] == ["checkpoint_6"]
    (tmp_path / "metrics.json").write_text(scores)
    assert best_step(tmp_path) is None


def test_what_is_not_there(files):
    put(files, **STEPS)
    files.rm_file(f"{RUN}/checkpoint_6/commit_success.txt")
    with pytest.raises(CheckpointError, match=r"checkpoint_6: .*finished"):
        bucket.local_copy(f"{RUN}/checkpoint_6")
    with pytest.raises(FileNotFoundError, match="gs://bucket/none: no such"):
        bucket.local_copy("gs://bucket/none")


def test_other_directories_must_be_here(tmp_path):
    assert bucket.local_directory(tmp_path, "OUTPUT_DIR") == tmp_path
    with pytest.raises(ValueError, match="OUTPUT_DIR gs://b/x"):
        bucket.local_directory("gs://b/x", "OUTPUT_DIR")
