"""Prepared shards: every kind of value comes back, bytes are a function of the example."""

import pathlib
import pickle

import numpy as np
import pytest

from ofa_jax.data.sources import array_record
from ofa_jax.data.sources.array_record import (
    PreparedSource,
    RecordError,
    ShardWriter,
    decode_example,
    encode_example,
    shard_name,
    write_shard,
)

EXAMPLE = {
    "image": bytes(range(256)),
    "image_id": "à-1 漢字",
    "captions": ["one", ""],
    "answer_conf": [0.1, 1.0, float("inf")],
    "refexp_box_index": [0, 5],
    "boxes": np.array([[0.25, 1, 2, 3.5], [0, 0, np.nan, 1]], np.float32),
    "image_codes": np.arange(6, dtype=np.int32),
    "empty": np.zeros((0, 4), np.float32),
    "nested": [{"question": "?", "kind": None, "sure": True, "n": -3}],
    "type": "qa",
}


def numbered(count, start=0):
    return [{"image_id": str(start + n), "text": "x" * n, "type": "text"} for n in range(count)]


def test_round_trip():
    found = decode_example(encode_example(EXAMPLE))
    assert set(found) == set(EXAMPLE)
    for name, value in EXAMPLE.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
            assert found[name].flags.writeable
        else:
            assert found[name] == value
            assert type(found[name]) is type(value)


def test_bytes_depend_on_the_values_alone():
    other = dict(reversed(EXAMPLE.items()))
    other["boxes"] = EXAMPLE["boxes"].astype(">f4")
    other["image_codes"] = np.arange(12, dtype=np.int32)[::2] // 2
    other["captions"] = tuple(EXAMPLE["captions"])
    other["refexp_box_index"] = [np.int64(0), np.int32(5)]
    other["nested"] = [dict(reversed(EXAMPLE["nested"][0].items()))]
    assert encode_example(other) == encode_example(EXAMPLE)
    assert encode_example(EXAMPLE | {"type": "caption"}) != encode_example(EXAMPLE)


def test_the_encoding_does_not_change():
    # Prepared data outlives this program: a change here needs a new VERSION.
    example = {"type": "text", "image_codes": np.array([1, 258], np.int32), "text": "a"}
    assert (
        encode_example(example).hex()
        == (
            "4f464101"  # b"OFA", 1
            "83"  # three fields
            "ab696d6167655f636f646573"  # image_codes
            "c71101" + "93a33c693491" + "02c40801000000" + "02010000"
            "a474657874a161"
            "a474797065a474657874"
        )
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "a value of type object"),
        ({1: 2}, "a value of type dict"),
        (np.array(["a"]), "an array of <U1"),
        ("\ud800", "surrogates not allowed"),
        (1 << 70, "too big|out of range"),
    ],
)
def test_values_that_cannot_be_stored_are_named(value, message):
    with pytest.raises(RecordError, match=f"field 'mine' .*({message})"):
        encode_example({"mine": value})


def test_damaged_records_are_refused():
    record = encode_example(EXAMPLE)
    for damaged in (record[:-3], record[:5], record + b"x", record[:4] + b"\xc0"):
        with pytest.raises(RecordError, match="the record is damaged"):
            decode_example(damaged)
    with pytest.raises(RecordError, match=r"version 02, .* 01"):
        decode_example(b"OFA\x02" + record[4:])
    with pytest.raises(RecordError, match=r"not written by ofa_jax.prepare"):
        decode_example(b"\x80\x04K")


def test_shards_read_in_any_order(tmp_path):
    for index, count in enumerate((3, 0, 5)):
        path = tmp_path / shard_name("train", index, 3)
        assert write_shard(path, numbered(count, 10 * index)) == count
    write_shard(tmp_path / shard_name("val", 0, 1), numbered(1, 99))
    source = PreparedSource(str(tmp_path))
    assert list(source.splits()) == ["train", "val"]
    records = source.open("train")
    identifiers = ["0", "1", "2", "20", "21", "22", "23", "24"]
    assert len(records) == 8
    for index in (7, 0, 3, 2):
        assert records[index]["image_id"] == identifiers[index]
    again = pickle.loads(pickle.dumps(records))
    assert [again[n]["image_id"] for n in range(8)] == identifiers
    assert records.place(3) == (str(tmp_path / shard_name("train", 2, 3)), 0)
    for index in (8, -1):
        with pytest.raises(IndexError, match=f"index {index} .* 8 records"):
            records[index]


def test_types_are_chosen(tmp_path):
    examples = numbered(4)
    examples[1]["type"] = examples[3]["type"] = "caption"
    write_shard(tmp_path / shard_name("train", 0, 1), examples)
    records = PreparedSource(str(tmp_path), ("caption",)).open("train")
    assert [records[n]["image_id"] for n in range(len(records))] == ["1", "3"]
    with pytest.raises(ValueError, match="type of example 'captions'"):
        PreparedSource("x", ("captions",))


def test_files_are_byte_identical_and_whole(tmp_path):
    first, second = tmp_path / "a.array_record", tmp_path / "b.array_record"
    write_shard(first, numbered(20))
    write_shard(second, numbered(20))
    assert first.read_bytes() == second.read_bytes()

    def broken():
        yield from numbered(3)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_shard(tmp_path / "c.array_record", broken())
    with ShardWriter(tmp_path / "d.array_record") as writer:
        assert writer.write(EXAMPLE) == len(encode_example(EXAMPLE))
        with pytest.raises(RecordError):
            writer.write({"mine": object()})
        assert writer.count == 1
        assert not writer.path.exists()
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["a", "b", "d"]


class FullDisk:
    """Takes records, and finds out at the end that they have no room."""

    def __init__(self, path, options):
        self.path = pathlib.Path(path)
        self.path.touch()

    def write(self, record):
        self.path.write_bytes(record)

    def close(self):
        raise RuntimeError("no space left")


def test_a_shard_that_cannot_be_closed_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(array_record, "ArrayRecordWriter", FullDisk)
    with pytest.raises(RuntimeError, match="no space left"):
        write_shard(tmp_path / "a.array_record", numbered(3))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / "b.array_record"):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_missing_and_damaged_shards_are_named(tmp_path):
    directory = PreparedSource(str(tmp_path / "prepared"))
    with pytest.raises(ValueError, match="prepared does not exist"):
        directory.open("train")
    (tmp_path / "prepared").mkdir()
    with pytest.raises(ValueError, match=r"no shards .*'train', nor"):
        directory.open("train")
    for index in (0, 2, 4):
        write_shard(tmp_path / "prepared" / shard_name("train", index, 5), numbered(1))
    with pytest.raises(ValueError, match=r"lacks train-00001-of-00005.array_record .*1 more"):
        directory.open("train")
    for index in (1, 3):
        write_shard(tmp_path / "prepared" / shard_name("train", index, 5), numbered(1))
    with pytest.raises(ValueError, match=r"no shards .*'test', only train"):
        directory.open("test")
    shard = tmp_path / "prepared" / shard_name("train", 3, 5)
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(RecordError, match=r"train-00003-of-00005.array_record .*cut off"):
        directory.open("train")
    write_shard(tmp_path / "prepared" / shard_name("train", 0, 1), numbered(1))
    with pytest.raises(ValueError, match=r"mixes .*'train' .* 1 and 5"):
        directory.open("train")


def test_damaged_records_name_shard_and_position(tmp_path):
    path = tmp_path / shard_name("train", 0, 1)
    with ShardWriter(path) as writer:
        writer.write(EXAMPLE)
        writer.write_record(b"other")
    records = PreparedSource(str(tmp_path)).open("train")
    with pytest.raises(RecordError, match=r"train-00000-of-00001.array_record, record 1: the rec"):
        records[1]


def test_names_of_shards():
    assert shard_name("train", 3, 16) == "train-00003-of-00016.array_record"
    with pytest.raises(ValueError, match=r"shard 3 of 3: .*0 \.\. 2"):
        shard_name("train", 3, 3)
    with pytest.raises(ValueError, match=r"split 'a/b' .*characters"):
        shard_name("a/b", 0, 1)
    assert array_record.VERSION == 1


def test_a_flipped_bit_is_found_and_costs_one_record(tmp_path):
    path = tmp_path / shard_name("train", 0, 1)
    write_shard(path, [{"image": bytes([65 + n]) * 5000, "type": "image"} for n in range(4)])
    data = bytearray(path.read_bytes())
    data[data.index(b"C" * 100) + 50] ^= 1
    path.write_bytes(data)
    records = PreparedSource(str(tmp_path)).open("train")
    with pytest.raises(RecordError, match=r"array_record, record 2: .*Corrupted"):
        records[2]
    assert [records[n]["image"][:1] for n in (0, 1, 3)] == [b"A", b"B", b"D"]
