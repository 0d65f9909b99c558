"""Prepared data: ArrayRecord shards of examples in the flat schema, read in any order.

`ofa_jax.prepare` writes them, training reads them, from a disk or a bucket. A directory holds
`train-00000-of-00016.array_record` and so on; a record is one example in an encoding of its own:

    4 bytes    b"OFA" and the version, 0x01
    the rest   one MessagePack map, field name -> value

Fields stand in the order of `schema.FIELDS`, then others by name. Strings, bytes, numbers, lists
and dicts with string keys are MessagePack's own; an array is extension type 1 around
[dtype, shape, bytes], little-endian and row-major. Nothing in a record can run code, and equal
examples have equal bytes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from ofa_jax.checkpoint.bucket import is_remote
from ofa_jax.data.sources import bucket_file, locations, schema
from ofa_jax.data.sources.example import Example, FileRecords, Records, check_index, ends_of
from ofa_jax.data.sources.file_cache import cached_by_file
from ofa_jax.data.sources.shard_index import ShardIndexError
from ofa_jax.schema import require_known

MAGIC = b"OFA"
VERSION = 1

_HEADER = MAGIC + bytes([VERSION])
_ARRAY = 1
_ARRAY_KINDS = "biuf"
_ORDER = {name: number for number, name in enumerate(schema.FIELDS)}
_SHARD = re.compile(r"(?P<split>.+)-(?P<index>\d{5,})-of-(?P<count>\d{5,})\.array_record")
_PARTIAL = ".partial"

# One example a group, so that reading one decodes one. Images are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"
# No reading ahead and no threads: examples are read in random order, by several processes.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:1"
# Shards of a bucket whose indexes are read together, and records that are read one after the other.
_OPENED_AT_ONCE = 32
_AHEAD = 64


class RecordError(ValueError):
    """A shard or a record that cannot be written or read."""


def encode_example(example: Example) -> bytes:
    """One example as the bytes of a record.

    Args:
      example: strings, bytes, numbers, booleans, None, arrays of numbers, and lists, tuples and
        dicts of these.

    Returns:
      The record; equal examples give equal bytes, in any order of fields.

    Raises:
      RecordError: a value of another kind; the message names its field.
    """
    packer = msgpack.Packer(use_bin_type=True)
    parts: list[Any] = [_HEADER, packer.pack_map_header(len(example))]
    for name in sorted(example, key=lambda name: (_ORDER.get(name, len(_ORDER)), name)):
        try:
            parts += [packer.pack(name), packer.pack(_plain(example[name]))]
        except (ValueError, OverflowError) as error:  # RecordError and Unicode's among them
            raise RecordError(f"field {name!r} cannot be stored: {error}") from error
    return b"".join(parts)


def _plain(value: Any) -> object:
    """The value in MessagePack's own types, arrays as extensions."""
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _ARRAY_KINDS:
            raise RecordError(f"an array of {value.dtype} is not an array of numbers")
        array = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        content = [array.dtype.str, list(value.shape), array.tobytes()]
        return msgpack.ExtType(_ARRAY, msgpack.packb(content, use_bin_type=True))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(value[key]) for key in sorted(value)}
    raise RecordError(f"a value of type {type(value).__name__}")


def decode_example(record: bytes) -> Example:
    """The inverse of `encode_example`; tuples come back as lists.

    Raises:
      RecordError: not a record of this version, or a damaged one.
    """
    if record[:3] != MAGIC:
        raise RecordError(
            f"the record begins with {record[:4]!r}, not {_HEADER!r}: it was not written by "
            "ofa_jax.prepare"
        )
    if record[3:4] != _HEADER[3:]:
        raise RecordError(
            f"the record has format version {record[3:4].hex() or 'none'}, this program reads "
            f"{VERSION:02x}"
        )
    try:
        example = msgpack.unpackb(
            memoryview(record)[4:], raw=False, strict_map_key=True, ext_hook=_array
        )
    except RecordError:
        raise
    except Exception as error:  # msgpack raises many kinds on damaged data
        raise RecordError(f"the record is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(example, dict):
        raise RecordError("the record is damaged: it holds no fields")
    return example


def _array(code: int, data: bytes) -> np.ndarray:
    if code != _ARRAY:
        raise RecordError(f"the record is damaged: unknown extension {code}")
    name, shape, content = msgpack.unpackb(data, raw=False)
    dtype = np.dtype(name)
    if dtype.kind not in _ARRAY_KINDS:
        raise RecordError(f"the record is damaged: an array of {dtype}")
    # A copy, since the bytes of a record cannot be written into.
    return np.frombuffer(content, dtype).reshape(shape).copy()


def shard_name(split: str, index: int, count: int) -> str:
    """File name of one shard, such as `train-00003-of-00016.array_record`.

    Raises:
      ValueError: an index outside 0 .. count - 1, or a split that would not be one file name.
    """
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count}: the index must be in 0 .. {count - 1}")
    if not re.fullmatch(r"[A-Za-z0-9_.+-]+", split):
        raise ValueError(f"the split {split!r} has characters other than letters, digits and _.+-")
    return f"{split}-{index:05d}-of-{count:05d}.array_record"


class ShardWriter:
    """Writes one shard; the file gets its name only when it is complete.

    Use as a context manager. Until the end the data lie in `<path>.partial`, which is removed
    when the block, or the end of the file, fails. A killed process leaves it behind; the next
    writer overwrites it.

    Attributes:
      path: the shard.
      count: records written so far.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self.count = 0
        self._partial = self.path.with_name(self.path.name + _PARTIAL)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = ArrayRecordWriter(str(self._partial), _WRITER_OPTIONS)

    def write(self, example: Example) -> int:
        """Appends an example.

        Returns:
          Size of its record in bytes.

        Raises:
          RecordError: it cannot be encoded; nothing is written then.
        """
        record = encode_example(example)
        self.write_record(record)
        return len(record)

    def write_record(self, record: bytes) -> None:
        """Appends a record that `encode_example` made."""
        self._writer.write(record)
        self.count += 1

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            if error_type is not None:
                # What the block raised says more than that its file cannot be closed either.
                with contextlib.suppress(Exception):
                    self._writer.close()
                return
            self._writer.close()
            with open(self._partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def write_shard(path: str | os.PathLike[str], examples: Iterable[Example]) -> int:
    """Writes examples to one shard, whole or not at all.

    Returns:
      Number of examples.
    """
    with ShardWriter(path) as writer:
        for example in examples:
            writer.write(example)
    return writer.count


@dataclasses.dataclass(frozen=True)
class PreparedSource:
    """A directory of shards, as `ofa_jax.prepare` writes it.

    Attributes:
      directory: holds the shards of one or more splits; may contain `{DATA_DIR}`, and may be the
        address of a directory in a bucket, gs://bucket/directory.
      types: examples of these types only; empty means all. Choosing reads every record once.
    """

    directory: str
    types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for example_type in self.types:
            require_known("type of example", example_type, schema.TYPES)

    def splits(self) -> dict[str, tuple[str, ...]]:
        """Paths of the shards of every split, in order; in a bucket with their generations.

        Raises:
          ValueError: no such directory, it cannot be read, or shards of a split are missing.
        """
        directory = locations.resolve(self.directory).rstrip("/")
        found: dict[str, dict[tuple[int, int], str]] = {}
        for name, path in _paths_in(directory):
            if match := _SHARD.fullmatch(name):
                place = int(match["count"]), int(match["index"])
                found.setdefault(match["split"], {})[place] = path
        for split, shards in found.items():
            _refuse_gaps(directory, split, shards)
        return {
            split: tuple(shards[place] for place in sorted(shards))
            for split, shards in found.items()
        }

    def data_files(self, split: str) -> tuple[str, ...]:
        """The shards of a split."""
        return self.splits().get(split, ())

    def open(self, split: str) -> PreparedRecords:
        """Opens all shards of a split.

        Raises:
          ValueError: no such directory or split, or shards are missing.
          RecordError: a shard is cut off or not an ArrayRecord file.
        """
        splits = self.splits()
        if split not in splits:
            known = f"only {', '.join(splits)}" if splits else "nor of any other split"
            raise ValueError(
                f"{locations.resolve(self.directory)} holds no shards of split {split!r}, {known}"
            )
        records = PreparedRecords.of(splits[split])
        return records.of_types(self.types) if self.types else records


def _paths_in(directory: str) -> list[tuple[str, str]]:
    """(name, path) of what lies in a directory here or in a bucket."""
    found: list[tuple[str, str]] = []
    if is_remote(directory):
        found = [(file.name, file.path) for file in bucket_file.directory_files(directory)]
        exists = bool(found)  # buckets know no empty directories
    elif exists := os.path.isdir(directory):
        found = [(path.name, str(path)) for path in sorted(pathlib.Path(directory).iterdir())]
    if not exists:
        raise ValueError(f"{directory} does not exist; it should hold prepared shards")
    return found


def _refuse_gaps(directory: str, split: str, shards: dict[tuple[int, int], str]) -> None:
    counts = sorted({count for count, _ in shards})
    if len(counts) > 1:
        raise ValueError(
            f"{directory} mixes shards of split {split!r} that were cut in "
            f"{' and '.join(map(str, counts))} parts; keep those of one preparation"
        )
    missing = [index for index in range(counts[0]) if (counts[0], index) not in shards]
    if missing:
        first = shard_name(split, missing[0], counts[0])
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ValueError(
            f"{directory} lacks {first}{more}; run the same ofa_jax.prepare command again, it "
            "finishes what is missing"
        )


@dataclasses.dataclass(frozen=True)
class PreparedRecords(FileRecords):
    """Random access to the examples of some shards, one after the other.

    Attributes:
      chosen: positions of the records that belong here, or None for all.
    """

    chosen: np.ndarray | None = None

    @classmethod
    def of(cls, paths: Iterable[str]) -> PreparedRecords:
        """Counts the records of shards.

        Raises:
          RecordError: a file is missing, cut off or not an ArrayRecord file.
          BucketError: a bucket cannot be read.
        """
        paths = tuple(paths)
        if any(map(is_remote, paths)):  # which answers many at once
            with concurrent.futures.ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
                list(pool.map(_reader, paths, [os.getpid()] * len(paths)))
        return cls(paths, ends_of(_reader(path, os.getpid()).num_records() for path in paths))

    def of_types(self, types: Iterable[str]) -> PreparedRecords:
        """The records whose `type` is one of some; reads all of them."""
        wanted = set(types)
        indices = in_turn(self, range(len(self)))
        chosen = [index for index in indices if self[index].get("type") in wanted]
        return dataclasses.replace(self, chosen=np.array(chosen, np.int64))

    def place(self, index: int) -> tuple[str, int]:
        """Shard and position in it, from 0, of one example."""
        check_index(index, len(self))
        return super().place(index if self.chosen is None else int(self.chosen[index]))

    def __len__(self) -> int:
        return super().__len__() if self.chosen is None else len(self.chosen)

    def read_ahead(self, indices: Iterable[int]) -> None:
        """Starts to fetch records that are read soon, where they lie in a bucket."""
        for index in indices if self.paths and is_remote(self.paths[0]) else ():
            path, position = self.place(index)
            reader = _reader(path, os.getpid())
            if isinstance(reader, bucket_file.BucketShard):
                reader.request(position)

    def record(self, index: int) -> bytes:
        """The bytes of one record.

        Raises:
          IndexError: an index out of range.
          RecordError: the shard cannot be read there.
          BucketError: the bucket cannot be read, or has another shard by now.
        """
        path, position = self.place(index)
        try:
            return _reader(path, os.getpid()).read([position])[0]
        except (IndexError, ValueError, RuntimeError) as error:
            raise RecordError(f"{path}, record {position}: cannot be read: {error}") from error

    def __getitem__(self, index: int) -> Example:
        record = self.record(index)
        try:
            return decode_example(record)
        except RecordError as error:
            path, position = self.place(index)
            raise RecordError(f"{path}, record {position}: {error}") from error


def in_turn(records: Records, indices: Iterable[int]) -> Iterator[int]:
    """The indices, while those that come next are fetched where the records lie in a bucket."""
    remaining = iter(indices)
    while some := list(itertools.islice(remaining, _AHEAD)):
        if isinstance(records, PreparedRecords):
            records.read_ahead(some)
        yield from some


class Reader(Protocol):
    """What is read of an open shard."""

    def num_records(self) -> int:
        """Number of records."""
        ...

    def read(self, positions: list[int]) -> list[bytes]:
        """Records by their positions."""
        ...


@cached_by_file(1024)
def _reader(path: str, process: int) -> Reader:
    """An open reader; `process` keeps a forked child from using its parent's."""
    del process
    if is_remote(path):
        try:
            return bucket_file.BucketShard(path)
        except ShardIndexError as error:
            raise RecordError(f"{path}: {error}") from error
    if not pathlib.Path(path).is_file():
        raise RecordError(f"{path} does not exist")
    reader = ArrayRecordReader(path, options=_READER_OPTIONS, file_reader_buffer_size=1 << 15)
    if not reader.ok():
        raise RecordError(
            f"{path} is cut off or not an ArrayRecord file ({pathlib.Path(path).stat().st_size} "
            "bytes)"
        )
    return reader
