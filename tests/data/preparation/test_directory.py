"""The directory of prepared data: what it refuses, what it says, what a second run does."""

import json
import logging
import os
import shutil

import pytest

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.preparation import local_engine
from ofa_jax.data.preparation.plan import make_plan
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.preparation.shards import PreparationError
from ofa_jax.data.preparation.storage import LocalStorage
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.tsv import TsvSource
from tests.data.preparation.prepared import content, error_of, failure_of


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("".join(f"{number}\ttext number {number}\n" for number in range(40)))
    (tmp_path / "validation.tsv").write_text("v\tanother text\n")
    return path


def run(texts, *more, out=None):
    directory = out or texts.parent / "out"
    paths = f"train={texts} validation={texts.parent / 'validation.tsv'}"
    arguments = ["--source=tsv", "--layout=text", "--paths", paths, "--out", str(directory)]
    return run_prepare([*arguments, "--processes=1", *more])


def test_the_manifest_says_everything(texts):
    assert run(texts, "--num_shards=3", "--limit=31", "--max_words=9") == 0
    directory = texts.parent / "out"
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert manifest["settings"]["max_words"] == 9
    entry = manifest["splits"]["train"]
    assert entry["source"]["format"] == "tsv"
    assert entry["source"]["layout"] == "text"
    assert (entry["num_shards"], entry["limit"], entry["num_records"]) == (3, 31, 31)
    assert (entry["records"], entry["examples"], entry["kinds"]) == (31, 31, {"text": 31})
    assert entry["dropped"] == {}
    assert [shard["examples"] for shard in entry["shards"]] == [10, 10, 11]
    names = [shard["name"] for shard in entry["shards"]]
    assert names == [f"train-0000{number}-of-00003.array_record" for number in range(3)]
    assert sorted(content(directory)) == ["manifest.json", *names]
    for shard in entry["shards"]:
        assert shard["bytes"] == (directory / shard["name"]).stat().st_size
    records = PreparedSource(str(directory)).open("train")
    assert [records[index]["image_id"] for index in range(31)] == [str(i) for i in range(31)]


def test_a_second_run_changes_nothing(texts, monkeypatch):
    assert run(texts, "--num_shards=3") == 0
    before = content(texts.parent / "out")
    monkeypatch.setattr(local_engine, "write_shard", None)
    assert run(texts, "--num_shards=3") == 0
    assert content(texts.parent / "out") == before


def test_splits_share_a_directory(texts):
    assert run(texts, "--split=train,validation") == 0
    both = content(texts.parent / "out")
    other = texts.parent / "other"
    assert run(texts, "--split=validation", out=other) == 0
    assert run(texts, "--split=train", out=other) == 0
    assert content(other) == both
    splits = json.loads(both["manifest.json"])["splits"]
    assert {name: split["examples"] for name, split in splits.items()} == {
        "train": 40,
        "validation": 1,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--max_words=7", "settings.max_words was 1000, now it is 7"),
        ("--num_shards=4", "train.num_shards was 2, now it is 4"),
        ("--limit=39", "train.limit was null, now it is 39"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_by_name(texts, capsys, monkeypatch, change, message, finished):
    if not finished:

        def interrupted(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(local_engine.OutputDirectory, "finish", interrupted)
        assert run(texts, "--num_shards=2") == 75
        assert "give the same command again" in capsys.readouterr().err
        monkeypatch.undo()
    else:
        assert run(texts, "--num_shards=2") == 0
    before = content(texts.parent / "out")
    changed = [change] if "shards" in change else ["--num_shards=2", change]
    assert message in error_of(capsys, run(texts, *changed))
    assert content(texts.parent / "out").items() >= before.items()
    assert run(texts, "--num_shards=2") == 0


def test_settings_hold_for_every_split_of_a_directory(texts, capsys):
    assert run(texts) == 0
    message = error_of(capsys, run(texts, "--split=validation", "--max_words=7"))
    assert "settings.max_words was 1000, now it is 7" in message


def test_a_lost_shard_is_written_again_before_the_end(texts, monkeypatch):
    assert run(texts, "--num_shards=4") == 0
    whole = content(texts.parent / "out")
    shutil.rmtree(texts.parent / "out")
    with monkeypatch.context() as patch:
        patch.setattr(local_engine.OutputDirectory, "finish", lambda *arguments: 1 / 0)
        assert run(texts, "--num_shards=4") == 1
    (texts.parent / "out" / "train-00002-of-00004.array_record").write_bytes(b"cut")
    (texts.parent / "out" / "train-00001-of-00004.array_record").unlink()
    assert run(texts, "--num_shards=4") == 0
    assert content(texts.parent / "out") == whole


def test_a_lost_shard_after_the_end_is_an_error(texts, capsys):
    assert run(texts, "--num_shards=2") == 0
    (texts.parent / "out" / "train-00001-of-00002.array_record").unlink()
    message = error_of(capsys, run(texts, "--num_shards=2"))
    assert "train-00001-of-00002.array_record is not the file of" in message


def test_strange_shards_are_not_mixed_with(texts, capsys):
    directory = texts.parent / "out"
    directory.mkdir()
    (directory / "train-00000-of-00001.array_record").write_bytes(b"x")
    assert "nothing says how it was made" in error_of(capsys, run(texts))


def test_directories_that_cannot_be_written(texts, capsys):
    message = error_of(capsys, run(texts, out=texts / "below_a_file"))
    assert message.startswith(f"error: cannot write to {texts / 'below_a_file'}: ")


def test_a_full_disk_is_seen_before_work(texts, capsys, monkeypatch):
    usage = shutil.disk_usage(texts.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "has 0.0 MB free; the shards need about 1.1 MB more" in error_of(capsys, run(texts))
    assert not list((texts.parent / "out").glob("*.array_record"))


def test_errors_while_writing_clean_up(texts, capsys, monkeypatch):
    def full(plan, shard, path, **options):
        path.with_name(f"{path.name}.partial").write_bytes(b"half a shard")
        raise RuntimeError("RESOURCE_EXHAUSTED: no space left")

    monkeypatch.setattr(local_engine, "write_shard", full)
    message = failure_of(capsys, run(texts))
    assert message.startswith("OSError: cannot write ")
    assert message.endswith("no space left")
    assert [path.name for path in (texts.parent / "out").rglob("*")] == [
        ".unfinished-train",
        "plan.json",
    ]


def test_two_at_a_time_are_refused(texts, capsys):
    directory = texts.parent / "out"
    directory.mkdir()
    with LocalStorage(directory).lock():
        message = error_of(capsys, run(texts))
        assert f"the directory {directory} is in use by process {os.getpid()} on " in message
    assert run(texts) == 0


def test_verify_finds_damage(texts, capsys, monkeypatch):
    directory = texts.parent / "out"
    assert run_prepare([f"--verify={directory}"]) == 2
    assert run(texts, "--num_shards=2") == 0
    assert run_prepare([f"--verify={directory}"]) == 0
    monkeypatch.setenv("HOME", str(directory.parent))
    assert run_prepare(["--verify=~/out"]) == 0
    path = directory / "train-00001-of-00002.array_record"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "is damaged" in error_of(capsys, run_prepare([f"--verify={directory}"]))
    path.unlink()
    assert "is missing" in error_of(capsys, run_prepare([f"--verify={directory}"]))


def test_nothing_kept_is_an_error(texts, capsys):
    message = error_of(capsys, run(texts, "--min_words=9"))
    assert message == (
        "error: all 24 records that were looked at would be dropped (text_too_short 24), such as "
        "text has 3 words, fewer than 9; --go_on prepares what there is"
    )
    assert not (texts.parent / "out").exists()
    message = error_of(capsys, run(texts, "--min_words=9", "--go_on"))
    assert "every train example was dropped" in message


def test_a_bad_half_is_told_at_the_start(texts, caplog):
    rows = [f"{number}\t{'' if number % 2 else 'good'}\n" for number in range(40)]
    texts.write_text("".join(rows))
    with caplog.at_level(logging.INFO, logger="ofa_jax"):
        assert run(texts) == 0
    lines = [record.getMessage() for record in caplog.records]
    told = next(n for n, line in enumerate(lines) if "would be dropped" in line)
    assert lines[told].startswith("train: of 24 records that were looked at, 13 (empty_text 13)")
    assert told < next(n for n, line in enumerate(lines) if "train: kept 20" in line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=x"], "--source is needed"),
        (["--source=tsv"], "--out is needed"),
        (["--source=tsf", "--out=x"], "unknown format 'tsf'; did you mean tsv?"),
        (["--source=tsv", "--out=x", "--layout=text"], "needs paths"),
        (["--source=tsv", "--out=x", "--layuot=text"], "no argument 'layuot'"),
        (["--source=tsv", "--out=x", "--layout"], "--layout has no value"),
        (["--source=tsv", "--out=x", "text"], "'text' is not --NAME=VALUE"),
        (["--source=tsv", "--out=x", "--layout=a", "--layout=b"], "--layout is given twice"),
        (["--source=tsv", "--out=x", "--processes=0"], "--processes must be at least 1"),
        (["--source=tsv", "--out=x", "--processes=9999"], "at most 1,024, got 9999"),
        (
            ["--source=tsv", "--out=x", "--jpeg_quality=99"],
            "jpeg_quality must be a whole number from 1 to",
        ),
    ],
)
def test_mistakes_in_the_command_are_named(arguments, message, capsys):
    assert message in error_of(capsys, run_prepare(arguments))


def test_numbers_that_cannot_be(texts, capsys):
    for change, message in (
        ("--num_shards=41", "num_shards is 41, but there are only 40 records"),
        ("--num_shards=0", "num_shards must be at least 1"),
        ("--limit=0", "limit must be at least 1"),
        ("--split=test", "test"),
    ):
        assert message in error_of(capsys, run(texts, change))


def test_shards_are_cut_by_size(texts):
    source = TsvSource((("train", str(texts)),), "text")
    settings = ConversionSettings()
    plan, estimate = make_plan(source, {}, "train", settings=settings)
    assert plan.num_shards == 1
    size = estimate.stored_bytes
    assert 40 * 20 < size < 40 * 100
    plan, _ = make_plan(source, {}, "train", settings=settings, shard_bytes=size // 4)
    assert plan.num_shards in (4, 5)
    ranges = [plan.shard_range(shard) for shard in range(plan.num_shards)]
    assert [record for part in ranges for record in part] == list(range(40))
    assert {len(part) for part in ranges} <= {8, 10}


def test_a_worker_that_is_killed_is_reported(texts, monkeypatch):
    source = TsvSource((("train", str(texts)),), "text")
    plan, estimate = make_plan(source, {}, "train", settings=ConversionSettings(), num_shards=2)
    monkeypatch.setattr(
        local_engine.concurrent.futures, "ProcessPoolExecutor", lambda **options: _Broken()
    )
    with pytest.raises(PreparationError, match="a process was killed"):
        local_engine.prepare(plan, estimate, texts.parent / "out", processes=2)


class _Broken:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def submit(self, function, shard):
        future = local_engine.concurrent.futures.Future()
        future.set_exception(local_engine.BrokenProcessPool("terminated abruptly"))
        return future

    def shutdown(self, **options):
        return None


def test_prepared_data_can_be_prepared_again(texts):
    assert run(texts, "--num_shards=3") == 0
    again = texts.parent / "again"
    arguments = ["--source=prepared", "--directory", str(texts.parent / "out"), f"--out={again}"]
    assert run_prepare([*arguments, "--processes=1", "--num_shards=3"]) == 0
    first, second = content(texts.parent / "out"), content(again)
    assert first.keys() == second.keys()
    del first["manifest.json"], second["manifest.json"]
    assert first == second
