"""Data that change under a prepared directory: named, never mixed, prepared anew if asked for."""

import json
import os

import pytest

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.preparation import local_engine
from ofa_jax.data.sources import formats, split_paths
from ofa_jax.data.sources.array_record import PreparedSource
from tests.data.preparation.prepared import content, error_of, failure_of
from tests.data.sources import coco_files
from tests.data.sources.photographs import annotated, write_pictures


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.tsv"
    # As an export with a trailing tab writes them: every row has a column too many.
    path.write_text("".join(f"{number}\ttext number {number}\t\n" for number in range(40)))
    return path


def run(rows, *more, out="out"):
    arguments = ["--source=tsv", "--layout=text", f"--paths={rows}"]
    return run_prepare([*arguments, f"--out={rows.parent / out}", "--processes=1", *more])


def repair(rows):
    rows.write_text(rows.read_text().replace("\t\n", "\n"))


def texts(directory):
    records = PreparedSource(str(directory)).open("train")
    return [records[index]["text"] for index in range(len(records))]


def test_a_repaired_file_is_not_taken_for_the_old_one(rows, capsys):
    assert "wrong_column_count 24" in error_of(capsys, run(rows, "--num_shards=4"))
    assert run(rows, "--num_shards=4", "--go_on") == 2
    capsys.readouterr()
    repair(rows)
    message = error_of(capsys, run(rows, "--num_shards=4"))
    assert f"{rows} has changed (" in message
    assert "--overwrite" in message
    assert run(rows, "--num_shards=4", "--overwrite") == 0
    expected = [f"text number {number}" for number in range(40)]
    assert texts(rows.parent / "out") == expected
    assert run(rows, "--num_shards=4") == 0
    assert run(rows, "--num_shards=4", out="fresh") == 0
    assert content(rows.parent / "fresh") == content(rows.parent / "out")


@pytest.mark.parametrize("shards", [["--num_shards=4"], []])
def test_killed_edited_and_continued(rows, capsys, monkeypatch, shards):
    repair(rows)
    with monkeypatch.context() as patch:
        patch.setattr(local_engine.OutputDirectory, "finish", lambda *arguments: 1 / 0)
        assert run(rows, *shards) == 1
    capsys.readouterr()
    begun = content(rows.parent / "out")
    rows.write_text(rows.read_text().replace("text", "line"))
    assert f"{rows} has changed (the same size, other" in error_of(capsys, run(rows, *shards))
    assert content(rows.parent / "out") == begun
    assert run(rows, "--overwrite", *shards) == 0
    assert texts(rows.parent / "out") == [f"line number {number}" for number in range(40)]


def test_edited_while_it_is_prepared(rows, capsys, monkeypatch):
    repair(rows)
    write = local_engine.write_shard

    def edit_behind(*arguments, **options):
        result = write(*arguments, **options)
        rows.write_text(rows.read_text() + "40\tone more\n")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(local_engine, "write_shard", edit_behind)
        message = failure_of(capsys, run(rows))
    assert f"{rows} has changed" in message
    assert "two states" in message
    assert not (rows.parent / "out" / "manifest.json").exists()
    assert run(rows, "--overwrite") == 0
    assert texts(rows.parent / "out")[-1] == "one more"


def test_overwriting_keeps_other_splits_and_goes_on_after_a_kill(rows, monkeypatch, capsys):
    repair(rows)
    paths = f"train={rows} validation={rows.parent / 'validation.tsv'}"
    (rows.parent / "validation.tsv").write_text("v\tanother text\n")
    assert run(paths_of(rows, paths), "--split=train,validation") == 0
    rows.write_text("0\tshorter now\n")
    assert run(paths_of(rows, paths), "--split=train,validation", "--overwrite") == 0
    splits = json.loads((rows.parent / "out" / "manifest.json").read_text())["splits"]
    assert {name: entry["examples"] for name, entry in splits.items()} == {
        "train": 1,
        "validation": 1,
    }
    # Settings are those of all splits of a directory.
    message = error_of(
        capsys, run(paths_of(rows, paths), "--split=train", "--overwrite", "--max_words=7")
    )
    assert "settings.max_words was 1000, now it is 7" in message


class paths_of:
    """A declaration of several splits in the place of one path."""

    def __init__(self, rows, paths):
        self.parent, self._paths = rows.parent, paths

    def __str__(self):
        return self._paths


def test_images_count_as_well(tmp_path, capsys):
    images = write_pictures(tmp_path / "train2014", coco_files.file_name)
    document = {"images": coco_files.image_entries(), "annotations": coco_files.caption_entries()}
    path = coco_files.dump(tmp_path / "captions.json", document)
    command = ["--source=coco_captions", f"--annotations={path}", f"--images={images}"]
    command += [f"--out={tmp_path / 'out'}", "--processes=1"]
    assert run_prepare(command) == 0
    assert run_prepare(command) == 0
    picture = tmp_path / "train2014" / coco_files.file_name(annotated()[0])
    picture.write_bytes(annotated()[1].image)
    message = error_of(capsys, run_prepare(command))
    assert f"{images} has changed (" in message


def test_a_copied_file_is_the_same(rows):
    repair(rows)
    assert run(rows) == 0
    os.utime(rows, ns=(0, 0))
    assert run(rows) == 0


# Every path that a format asks for is known to be read.
@pytest.mark.parametrize("name", [name for name in formats.FORMATS if name != "tfds"])
def test_every_file_of_a_format_counts(tmp_path, name):
    given = {}
    for argument, about in formats.FORMATS[name].arguments.items():
        is_path = about.read is split_paths.parse or argument in ("directory", "label_names")
        if about.required or is_path:
            given[argument] = {"layout": "text", "columns": "text=t", "constants": "type=text"}.get(
                argument, str(tmp_path / argument)
            )
        if is_path and argument == "directory":
            (tmp_path / argument).mkdir()
            (tmp_path / argument / "train-00000-of-00001.array_record").write_bytes(b"x")
        elif is_path and argument == "images":
            (tmp_path / argument).mkdir()
        elif is_path:
            (tmp_path / argument).write_bytes(b"x")
    found = split_paths.of_source(formats.source(name, given), "train")
    assert sorted(path.split("/train-")[0] for path in found) == sorted(
        value for value in given.values() if value.startswith(str(tmp_path))
    )


def test_a_home_directory_is_meant(rows, monkeypatch):
    repair(rows)
    monkeypatch.setenv("HOME", str(rows.parent))
    monkeypatch.chdir(rows.parent)
    command = ["--source=tsv", "--layout=text", "--paths=~/rows.tsv", "--out=~/out", "--strict"]
    assert run_prepare([*command, "--processes=1"]) == 0
    assert not (rows.parent / "~").exists()
    assert len(texts("~/out")) == 40
