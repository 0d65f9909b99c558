"""Identities of files and directories, and the line that names what changed."""

import json
import os

import pytest

from ofa_jax import digest


def note(inputs):
    """Inputs as they come back from the file that they were noted in."""
    return json.loads(json.dumps(inputs))


def test_a_file_is_its_bytes_not_its_time(tmp_path):
    path, copy = tmp_path / "a.tsv", tmp_path / "b.tsv"
    path.write_text("one\n")
    copy.write_text("one\n")
    os.utime(copy, ns=(1, 1))
    assert digest.file_identity(path) == digest.file_identity(copy)
    copy.write_text("two\n")
    assert digest.file_identity(path) != digest.file_identity(copy)


def test_a_large_file_is_its_size_time_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "WHOLE_FILE_BYTES", 1000)
    path = tmp_path / "large"
    path.write_bytes(bytes(300_000))
    os.utime(path, ns=(5, 1_700_000_000_000_000_005))
    before = digest.file_identity(path)
    assert before["bytes"] == 300_000
    assert before["modified"] == "2023-11-14 22:13:20.000000005"
    for change in (
        lambda: os.utime(path, ns=(5, 1_700_000_000_000_000_006)),
        lambda: path.write_bytes(bytes(299_999) + b"x"),
        lambda: path.write_bytes(b"x" + bytes(299_999)),
    ):
        change()
        if path.read_bytes() != bytes(300_000):
            os.utime(path, ns=(5, 1_700_000_000_000_000_005))
        assert digest.file_identity(path) != before


def test_a_directory_is_its_listing(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "deep" / "b.jpg").write_bytes(b"22")
    before = digest.directory_identity(tmp_path)
    assert (before["files"], before["bytes"]) == (2, 3)
    # What preparation writes, and what systems hide, does not count.
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train-00000-of-00001.array_record").write_bytes(b"x")
    (tmp_path / "manifest.json").write_bytes(b"x")
    assert digest.directory_identity(tmp_path) == before
    (tmp_path / "deep" / "b.jpg").rename(tmp_path / "deep" / "c.jpg")
    assert digest.directory_identity(tmp_path) != before


def test_what_changed_is_named(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("a\tb\n")
    before = {"step": 10, "task": "caption", "files": digest.identities([path, tmp_path])}
    same = note(before)
    assert digest.differences(same, before) == []
    assert digest.fingerprint(same) == digest.fingerprint(dict(reversed(before.items())))
    digest.refuse_other("out", same, before, remedy="take another directory")

    path.write_text("a\tb\nc\td\n")
    now = {"step": 20, "task": "caption", "files": digest.identities([path])}
    step, file, directory = digest.differences(same, now)
    assert step == "step was 10, now it is 20"
    assert file == f"{path} has changed (4 bytes before, 8 now)"
    assert directory == f"{tmp_path} is not there"
    path.write_text("a\tb\nc\te\n")
    later = {"files": digest.identities([path, tmp_path])}
    assert digest.differences(now, {**now, **later}) == [
        f"{path} has changed (the same size, other content or times)",
        f"{tmp_path} was not there",
    ]
    with pytest.raises(digest.OtherInputsError) as error:
        digest.refuse_other("out", same, now, remedy="take another directory")
    assert str(error.value) == (
        "out holds the result of other inputs: step was 10, now it is 20 (and 2 more); "
        "take another directory"
    )
    assert digest.fingerprint(now) != digest.fingerprint(before)


def test_lists_and_tuples_are_one(tmp_path):
    assert digest.differences(note({"types": ("a", "b")}), {"types": ("a", "b")}) == []
    assert digest.differences({"a": {"types": ["a"]}}, {"a": {"types": ("a", "b")}}) == [
        'a.types was ["a"], now it is ["a", "b"]'
    ]
