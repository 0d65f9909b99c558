"""Lines by offset, JSON by items, paths by split: what several sources stand on."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pytest

from ofa_jax.data.sources import json_items, lines, split_paths
from ofa_jax.data.sources.errors import SourceError


@pytest.mark.parametrize("chunk", [1, 3, 1 << 24])
def test_spans_of_lines(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(lines, "_CHUNK", chunk)
    text = b"one\r\n\n\r\ntwo\nthree words\r\n\nlast"
    path = tmp_path / f"{chunk}.txt"
    path.write_bytes(text)
    found = [text[start:end] for start, end in lines.spans(str(path))]
    assert found == [b"one", b"two", b"three words", b"last"]
    assert [lines.line(str(path), n) for n in range(4)] == found
    assert [lines.number(str(path), text.index(one)) for one in found] == [1, 4, 5, 7]
    with pytest.raises(IndexError, match=r"index 4 .* 4 records"):
        lines.line(str(path), 4)


def test_files_of_blank_lines_and_none(tmp_path):
    blank, empty = tmp_path / "blank", tmp_path / "empty"
    blank.write_text("\n\r\n")
    empty.write_text("")
    assert lines.spans(str(blank)).shape == (0, 2)
    assert lines.spans(str(blank)).dtype == np.int64
    with pytest.raises(SourceError, match="empty is empty"):
        lines.spans(str(empty))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_mark_at_the_beginning_is_no_text(tmp_path, end):
    path = tmp_path / "lines"
    path.write_bytes(b"\xef\xbb\xbf" + end.join((b"one", b"", b"two")) + end)
    assert [lines.line(str(path), number) for number in range(2)] == [b"one", b"two"]
    starts = [int(start) for start, _ in lines.spans(str(path))]
    assert [lines.number(str(path), start) for start in starts] == [1, 3]


def test_another_state_of_a_file_is_read_anew(tmp_path):
    path = tmp_path / "lines"
    for text in (b"one\n", b"two\nthree\n"):
        path.write_bytes(text)
        assert len(lines.spans(str(path))) == text.count(b"\n")
        assert lines.line(str(path), 0) == text[:3]


DOCUMENT = {
    "info": {"skipped": [1, 2]},
    "images": [{"id": n, "name": "é" * n} for n in range(5)],
    "subset": "train2014",
    "number": 12345,
    "by id": {"a": 1.5, "b": [None, True]},
    "none": [],
}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_items(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(json_items, "_CHUNK", chunk)
    path = tmp_path / "data.json"
    path.write_text(json.dumps(DOCUMENT, indent=indent, ensure_ascii=False), "utf-8")
    sections = ("images", "subset", "number", "by id", "none")
    found = list(json_items.items(str(path), sections))
    assert [one.value for one in found if one.section == "images"] == DOCUMENT["images"]
    assert [one.value for one in found if one.section == "subset"] == ["train2014"]
    assert [one.value for one in found if one.section == "number"] == [12345]
    assert {one.key: one.value for one in found if one.section == "by id"} == DOCUMENT["by id"]
    assert {one.section for one in found} == {"images", "subset", "number", "by id"}
    assert found[2].place == "images[2]"
    path.write_text(json.dumps(DOCUMENT["images"], indent=indent), "utf-8")
    assert [one.value for one in json_items.items(str(path))] == DOCUMENT["images"]
    path.write_text(json.dumps(DOCUMENT["by id"], indent=indent), "utf-8")
    assert {one.key: one.value for one in json_items.items(str(path))} == DOCUMENT["by id"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"images": [{"id": 1}, {"id": 2', r"at images\[1\]: not JSON"),
        (b'{"images": [{"id": 1}', r"at images\[0\]: the file ends too early"),
        (b'{"images": [1 2]}', r"at images\[0\]: not JSON: ',' is expected, '2' found"),
        (b'{"images": [1, "\xff"]}', "not UTF-8"),
        (b'{"images" 1}', "not JSON: ':' is expected, '1' found"),
        (b"[1]", "does not hold an object with the keys images"),
        (b"{1: 2}", "a key is not a string"),
        (b"", "the file ends too early"),
        (gzip.compress(b'{"images": []}', mtime=0), r"compressed \(gzip\): unpack it"),
        (bz2.compress(b'{"images": []}'), r"compressed \(bzip2\)"),
        (lzma.compress(b'{"images": []}'), r"compressed \(xz\)"),
        ('{"images": []}'.encode("utf-16"), "UTF-16, not UTF-8: convert it"),
        ('{"images": []}'.encode("utf-16-le"), "UTF-16LE, not UTF-8: .* -f UTF-16LE -t UTF-8"),
        ('{"images": ["é"]}'.encode("utf-16-be"), "UTF-16BE, not UTF-8: .* -f UTF-16BE"),
        (b'{"images": ' + b"[" * 100_000, "nested too deeply|the file ends"),
    ],
)
def test_damaged_json_names_the_place(tmp_path, text, message):
    path = tmp_path / "data.json"
    path.write_bytes(text)
    with pytest.raises(SourceError, match=message) as error:
        list(json_items.items(str(path), ("images",)))
    assert str(error.value).startswith(str(path))


def test_paths_of_splits(tmp_path, monkeypatch):
    for name in ("train.txt", "val.txt", "a_2.tar", "a_1.tar"):
        (tmp_path / name).write_text("x")
    (tmp_path / "pictures_train").mkdir()
    monkeypatch.setenv("OFA_TEST_DIR", str(tmp_path))
    template = split_paths.parse("{TEST_DIR}/{split}.txt")
    assert split_paths.file(template, "val", "texts") == str(tmp_path / "val.txt")
    tars = tuple(str(tmp_path / name) for name in ("a_1.tar", "a_2.tar"))
    assert split_paths.files("{TEST_DIR}/*.tar", "train", "tars") == tars
    assert split_paths.files(f"{tars[1]}, {tars[0]}", "train", "tars") == tars[::-1]
    pairs = split_paths.parse("train=a.txt validation={TEST_DIR}/val.txt")
    assert pairs == (("train", "a.txt"), ("validation", "{TEST_DIR}/val.txt"))
    assert split_paths.file(pairs, "validation", "texts") == str(tmp_path / "val.txt")
    directories = split_paths.directories("{TEST_DIR}/pictures_{split}", "train", "pictures")
    assert directories == (str(tmp_path / "pictures_train"),)

    with pytest.raises(ValueError, match=r"no test file .*train, validation"):
        split_paths.file(pairs, "test", "texts")
    with pytest.raises(ValueError, match=r"a\.txt .*not exist; .*texts"):
        split_paths.file(pairs, "train", "texts")
    with pytest.raises(ValueError, match=r"tars .*one file, not 2"):
        split_paths.file("{TEST_DIR}/*.tar", "train", "tars")
    with pytest.raises(ValueError, match=r"pictures_val .*; .* pict"):
        split_paths.directories("{TEST_DIR}/pictures_{split}", "val", "pictures")
    with pytest.raises(ValueError, match=r"'b\.txt' .*SPLIT=PATH"):
        split_paths.parse("train=a.txt b.txt")
    with pytest.raises(ValueError, match="names a split twice"):
        split_paths.parse("train=a.txt train=b.txt")
