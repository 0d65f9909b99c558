"""Files that a run writes and does not need never stop it: damaged ones are set aside."""

import json
import shutil

import pytest

from ofa_jax import atomic
from ofa_jax.runs.log import LogConfig, RunLog
from ofa_jax.training.goodput import GoodputLedger
from tests.integration.tiny_run import checkpoints

NO_TEXT = b"\xff\xfe\x00\x80 no text"
DEEP = b"[" * 200_000
CONTENTS = {
    "config.gin": NO_TEXT,
    "config.json": NO_TEXT,
    "goodput.json": b'{"sessions": [{"started": "x", "seconds": {}}]}',
    "metrics.json": DEEP,
    "model_config.json": b"[]",
    "source.json": DEEP,
    "placement.txt": NO_TEXT,
    "checkpoint_3/dataset/train_ds-000-of-001.json": NO_TEXT,
    "checkpoint_3/metrics/metrics": NO_TEXT,
}
FILES = (
    "metrics.jsonl",
    "goodput.json",
    "config.gin",
    "config.json",
    "placement.txt",
    "source.json",
)
DIRECTORIES = ("tensorboard", "vocabulary", "profile", "nonfinite", "predictions", "report", "work")


def become_directory(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def become_file(path):
    shutil.rmtree(path, ignore_errors=True)
    path.write_text("a file")


def test_a_run_goes_on_past_everything_that_is_damaged(runs, caplog):
    assert runs.start()[0] == 0
    with (runs.directory / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "time": "soon"}\n{"step": 3, "lo\xffs": 1}\n{"step": 3, "lo')
    for name, content in CONTENTS.items():
        if (path := runs.directory / name).parent.exists():
            path.write_bytes(content)
    status, text = runs.start("--gin.TRAIN_STEPS=4")
    assert status == 0, text
    assert checkpoints(runs.directory)[-1] == 4
    lines = [
        json.loads(line) for line in (runs.directory / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 3, 4], "the good lines stay"
    for name in ("config.gin", "goodput.json", "metrics.json", "metrics.jsonl"):
        assert f"set aside as {name}.damaged" in caplog.text
        assert (runs.directory / f"{name}.damaged").exists()
    assert "metrics.jsonl has 2 damaged lines, which are left out; set aside" in caplog.text

    for name in FILES:
        become_directory(runs.directory / name)
    for name in DIRECTORIES:
        become_file(runs.directory / name)
    status, text = runs.start("--gin.TRAIN_STEPS=5", "--gin.log.LogConfig.tensorboard=True")
    assert status == 0, text
    assert checkpoints(runs.directory)[-1] == 5
    for name in (*FILES, *DIRECTORIES):
        assert list(runs.directory.glob(f"{name}.damaged*")), name
    assert list((runs.directory / "tensorboard").iterdir())


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 50,
        b"\xff",
        DEEP,
        b"[1]",
        b'{"step": 1e999}',
        b'{"step": "1"}',
        b'{"step": 2, "t": []}',
    ],
    ids=["zeros", "bytes", "deep", "list", "endless", "text", "value"],
)
def test_a_damaged_line_of_the_log(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "time": 5.0}\n' + line + b'\n{"step": 2, "time": 7.5}\n{"st')
    before = path.read_bytes()
    log = RunLog(tmp_path, 2, LogConfig(tensorboard=False))
    assert [json.loads(kept) for kept in path.read_text().splitlines()] == [
        {"step": 1, "time": 5.0},
        {"step": 2, "time": 7.5},
    ]
    assert log.seconds >= 7.5
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == before
    # What a kill leaves is no damage.
    path.write_bytes(b'{"step": 1, "time": 5.0}\n{"st')
    RunLog(tmp_path, 2, LogConfig(tensorboard=False))
    assert not (tmp_path / "metrics.jsonl.damaged_2").exists()


SESSION = {
    "started": 1.0, "ended": 3.0, "first_step": 0, "last_step": 4, "seconds": {"step": 2.0}
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"started": "x"}, {"ended": None}, {"seconds": [1]}, {"seconds": {"step": "x"}},
        {"last_step": 1.5}, {"started": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_account(tmp_path, changes):
    path = tmp_path / "goodput.json"
    for sessions, kept in (([SESSION], 1), ([SESSION, SESSION | changes], 0), (7, 0), ([[]], 0)):
        path.write_text(json.dumps({"sessions": sessions}))
        assert GoodputLedger(path, 4).update(5, {"step": 1.0}).sessions == kept + 1
    assert len(list(tmp_path.glob("goodput.json.damaged*"))) == 3


def test_lines_before_a_damaged_one_stay(tmp_path):
    path = tmp_path / "lines.jsonl"
    good = b'{"index": 0}\n{"index": 1}\n'
    for damage in (b"\0\0\n", b"[]\n", b'{"other": 2}\n', b'{"index": \xff}\n'):
        path.write_bytes(good + damage + b'{"index": 3}\n')
        assert atomic.cut_torn_line(path, needs=("index",)) == 2
        assert path.read_bytes() == good
    assert len(list(tmp_path.glob("*.damaged*"))) == 4
    path.write_bytes(good + b'{"ind')
    assert atomic.cut_torn_line(path, needs=("index",)) == 2
    assert len(list(tmp_path.glob("*.damaged*"))) == 4, "a kill is no damage"
