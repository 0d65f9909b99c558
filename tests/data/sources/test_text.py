"""Plain and compressed text, forward and back."""

import bz2
import gzip
import json
import lzma

import pyarrow
import pytest

from ofa_jax.data.sources.errors import Reason, SourceError, reason_of
from ofa_jax.data.sources.text import TextSource
from tests.data.sources.checks import examples_of, same

TEXTS = [f"text {number} with é, 漢字 and\ttab" for number in range(40)]


def objects(key="text"):
    lines = [json.dumps({key: text, "meta": {}}, ensure_ascii=False) for text in TEXTS]
    return ("\n".join(lines) + "\n\n").encode()


def compressed(data, suffix):
    if suffix == ".gz":
        # Two members, as `cat a.gz b.gz` makes them.
        half = data.index(b"\n", len(data) // 2) + 1
        return gzip.compress(data[:half]) + gzip.compress(data[half:])
    if suffix == ".zst":
        return bytes(pyarrow.compress(data, "zstd", asbytes=True))
    return {".bz2": bz2.compress, ".xz": lzma.compress}.get(suffix, bytes)(data)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_json_lines(tmp_path, suffix, mark):
    path = tmp_path / f"00.jsonl{suffix}"
    path.write_bytes(compressed(mark + objects(), suffix))
    examples = examples_of(TextSource(str(path), dataset="pile"))
    for number, (found, text) in enumerate(zip(examples, TEXTS, strict=True)):
        identifier = f"{path.name}:{number}"
        same(found, {"image_id": identifier, "text": text, "dataset": "pile", "type": "text"})
    records = TextSource(str(path)).open("train")
    order = [3, 39, 0, 20, 20, 19]
    assert [records[index]["text"] for index in order] == [TEXTS[index] for index in order]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_over_several_files(tmp_path, suffix):
    for number in (0, 1):
        text = "\r\n".join(TEXTS[20 * number : 20 * number + 20])
        path = tmp_path / f"{number}.txt{suffix}"
        path.write_bytes(compressed(text.encode(), suffix))
    source = TextSource(str(tmp_path / f"*.txt{suffix}"), form="txt")
    assert [one["text"] for one in examples_of(source)] == TEXTS


def test_other_keys_and_mistakes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(objects("content"))
    assert examples_of(TextSource(str(path), key="content"))[1]["text"] == TEXTS[1]
    with pytest.raises(SourceError, match=r"a\.jsonl, text 3: .*under 'text'"):
        TextSource(str(path)).open("train")[2]
    path = tmp_path / "b.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": \n\xff\n')
    records = TextSource(str(path)).open("train")
    with pytest.raises(SourceError, match=r"b\.jsonl, text 2: .*Expecting value"):
        records[1]
    with pytest.raises(SourceError, match=r"b\.jsonl, text 3: 'utf-8' codec"):
        records[2]
    with pytest.raises(ValueError, match=r"form of text 'json'; .*jsonl"):
        TextSource("x", form="json")


@pytest.mark.parametrize("name", ["a.JSONL.GZ", "a.jsonl"])
def test_compression_is_known_by_the_first_bytes(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(objects()))
    assert len(examples_of(TextSource(str(path)))) == len(TEXTS)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_array_is_named_at_once(tmp_path, indent, suffix):
    path = tmp_path / f"a.json{suffix}"
    path.write_bytes(
        compressed(
            json.dumps([{"text": "a"}, {"text": "b"}], indent=indent).encode() + b"\n", suffix
        )
    )
    with pytest.raises(SourceError, match=r"one JSON array, .*jq -c"):
        TextSource(str(path)).open("train")


def test_null_is_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n{"text": null}\n{"text": ["a"]}\n{"text": 5}\n')
    records = TextSource(str(path)).open("train")
    for index, reason in ((1, "empty_text"), (2, "bad_fields")):
        with pytest.raises(SourceError) as error:
            records[index]
        assert reason_of(error.value, Reason.UNREADABLE_RECORD).value == reason
    assert [records[index]["text"] for index in (0, 3)] == ["good", "5"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_damaged_streams_are_named(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    data = compressed(objects(), suffix)
    for content in (data[: len(data) // 2], b"no archive at all"):
        path = tmp_path / f"{len(content)}.jsonl{suffix}"
        path.write_bytes(content)
        with pytest.raises(SourceError, match=rf"{path.name}.*(cut off or damaged|is empty)"):
            TextSource(str(path)).open("train")
