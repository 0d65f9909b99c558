"""Prepared shards in a bucket of Google Cloud Storage: directories, whole files and ranges of
files.

A file is named by its address and generation, `gs://bucket/directory/name#generation`, so every
process of a run reads the same state of it, and one that was written anew is noticed. Requests that
fail for a reason that may pass are sent again, after growing times; what is left of others is one
line. Needs the package gcsfs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import logging
import os
import random
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fsspec.asyn import sync

from ofa_jax.checkpoint import bucket
from ofa_jax.checkpoint.errors import one_line
from ofa_jax.data.sources.range_cache import RangeCache
from ofa_jax.data.sources.shard_index import chunk_records, record_offsets

logger = logging.getLogger("ofa_jax")

READ_AHEAD = 64
# Variables rather than arguments, so that worker processes see them.
CACHE_VARIABLE = "OFA_BUCKET_CACHE"
CACHE_SIZE_VARIABLE = "OFA_BUCKET_CACHE_GB"
READ_AHEAD_VARIABLE = "OFA_BUCKET_READ_AHEAD"

# Seconds: of one request, and until a failing one is given up (gcsfs tries for half a minute each).
_REQUEST_TIME = 60.0
_PATIENCE = 300.0
_START_PATIENCE = 30.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0


class BucketError(OSError):
    """A bucket cannot be read, or what it holds has changed: no fault of a record."""


class _ShortAnswerError(ConnectionError):
    """Fewer or more bytes than were asked for."""


def configure(*, cache: str | None, cache_gb: float | None, read_ahead: int | None) -> None:
    """Sets how buckets are read, for this process and its workers; None leaves a value alone."""
    for name, value in (
        (CACHE_VARIABLE, cache),
        (CACHE_SIZE_VARIABLE, cache_gb),
        (READ_AHEAD_VARIABLE, read_ahead),
    ):
        if value is not None:
            os.environ[name] = str(value)


def _setting(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise ValueError(f"the environment variable {name} must be a number of 0 or more: {text!r}")
    return value


@functools.lru_cache(maxsize=2)
def _cache_in(directory: str, limit: int) -> RangeCache:
    return RangeCache(directory, limit)


def _cache() -> RangeCache | None:
    directory, size = os.environ.get(CACHE_VARIABLE), _setting(CACHE_SIZE_VARIABLE, 0)
    return _cache_in(directory, int(size * 1e9)) if directory and size else None


@dataclasses.dataclass(frozen=True)
class _Connection:
    files: Any
    turns: asyncio.Semaphore


@functools.lru_cache(maxsize=1)
def _connection_of(process: int) -> _Connection:
    """The connection of a process; a forked child must not use its parent's."""
    del process
    # What gcsfs logs are tracebacks of errors that become one line here.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    files = bucket.file_system(requests_timeout=_REQUEST_TIME)
    at_once = int(_setting(READ_AHEAD_VARIABLE, READ_AHEAD))
    return _Connection(files, asyncio.Semaphore(max(at_once, 1)))


def _connection() -> _Connection:
    return _connection_of(os.getpid())


_FIELDS = "items(name,size,generation),nextPageToken"


def _is_passing(error: Exception) -> bool:
    from gcsfs.retry import is_retriable  # pyrefly: ignore[missing-import]

    return is_retriable(error) or isinstance(error, TimeoutError | ConnectionError)


async def _patiently(address: str, patience: float, attempt: Callable[[], Awaitable]) -> object:
    """Result of a coroutine function, called again as long as it fails for a passing reason."""
    loop = asyncio.get_running_loop()
    end, wait = loop.time() + patience, _FIRST_WAIT
    while True:
        try:
            return await attempt()
        except Exception as error:
            if not _is_passing(error) or loop.time() > end:
                raise
            logger.info("%s: %s; trying again", address, one_line(error))
        await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(2 * wait, _LONGEST_WAIT)


def _in_words(address: str, error: Exception) -> str:
    """One line about a failed request."""
    name = address.removeprefix("gs://").partition("/")[0]
    text = one_line(error)
    if isinstance(error, FileNotFoundError):
        return f"{address}: there is no bucket {name!r}, or no such file in it any more"
    if "Forbidden" in text or getattr(error, "code", None) in (401, "401"):
        return (
            f"{address}: no permission to read it; log in (gcloud auth application-default login), "
            f"and let the account have the role Storage Object Viewer of the bucket {name!r}"
        )
    return f"{address}: cannot be read ({text})"


def _split(address: str) -> tuple[str, str]:
    name, _, key = address.removeprefix("gs://").partition("/")
    return name, re.sub("/+", "/", key).strip("/")


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """A file of a directory in a bucket.

    Attributes:
      name: without the directory.
      path: address and generation.
      size: bytes.
    """

    name: str
    path: str
    size: int


def directory_files(address: str, setting: str = "DATA_DIR") -> list[StoredFile]:
    """The files of a directory, not of directories in it; none where nothing has that name.

    Args:
      address: such as gs://bucket/directory.
      setting: that it was given for, in messages.

    Raises:
      ValueError: gcsfs is not installed, another scheme, no such bucket, or it cannot be read.
    """
    address = address.rstrip("/")
    bucket.check_address(address, setting)
    name, key = _split(address)
    query = {"prefix": f"{key}/", "delimiter": "/", "fields": _FIELDS, "json_out": True}

    async def listed() -> list[dict[str, str]]:
        items, page = [], {}
        while True:
            answer = await connection.files._call("GET", "b/{}/o", name, **query, **page)
            items += answer.get("items", [])
            if not answer.get("nextPageToken"):
                return items
            page = {"pageToken": answer["nextPageToken"]}

    connection = _connection()
    try:
        items: Any = sync(connection.files.loop, _patiently, address, _START_PATIENCE, listed)
    except FileNotFoundError as error:
        raise ValueError(f"{setting} gs://{name}: there is no such bucket") from error
    except Exception as error:  # as true of all other directories: a run says it once
        raise ValueError(f"{setting} {_in_words(f'gs://{name}', error)}") from error
    return [
        StoredFile(
            item["name"].rpartition("/")[2],
            f"gs://{name}/{item['name']}#{item['generation']}",
            int(item["size"]),
        )
        for item in items
        if not item["name"].endswith("/")
    ]


def read_file(address: str) -> bytes | None:
    """A whole small file; None where there is none.

    Raises:
      BucketError: it cannot be read.
    """
    directory, _, name = address.rpartition("/")
    try:
        files = directory_files(directory)
    except ValueError as error:  # which would be taken for a bad record, where a worker reads
        raise BucketError(str(error)) from error
    for file in files:
        if file.name == name:
            return BucketFile(file.path, file.size).read(0, file.size) if file.size else b""
    return None


class BucketFile:
    """Reads ranges of one state of a file, some ahead of time.

    Attributes:
      path: address and generation.
      address: without the generation.
      size: bytes.
    """

    def __init__(self, path: str, size: int | None = None):
        """Args: path: address and generation. size: None asks for it.

        Raises:
          BucketError: the file is not there in this state, or cannot be read.
        """
        self.path = path
        self.address, _, self._generation = path.rpartition("#")
        self._place = _split(self.address)
        # Ranges that were asked for, and whether the bucket gives them or the cache had them; who
        # reads one first takes it.
        self._coming: dict[tuple[int, int], tuple[concurrent.futures.Future, bool]] = {}
        if size is None:
            size = int(self._result(self._submit(self._call(json_out=True)))["size"])
        self.size = size

    def request(self, start: int, stop: int) -> None:
        """Starts to fetch the bytes from `start` to `stop`, which `read` then waits for."""
        if (start, stop) not in self._coming:
            self._coming[start, stop] = self._found(start, stop)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, from the cache where it has them.

        Raises:
          BucketError: the file has changed, or the bucket cannot be read.
        """
        coming, is_new = self._coming.pop((start, stop), None) or self._found(start, stop)
        content = self._result(coming)
        if is_new and (cache := _cache()):
            cache.put(f"{self.path}:{start}-{stop}", content)
        return content

    def _found(self, start: int, stop: int) -> tuple[concurrent.futures.Future, bool]:
        cache = _cache()
        content = cache.get(f"{self.path}:{start}-{stop}") if cache else None
        if content is None:
            return self._submit(self._fetch(start, stop)), True
        done: concurrent.futures.Future = concurrent.futures.Future()
        done.set_result(content)
        return done, False

    def _submit(self, work: Coroutine) -> concurrent.futures.Future:
        return asyncio.run_coroutine_threadsafe(work, _connection().files.loop)

    def _result(self, coming: concurrent.futures.Future) -> Any:
        try:
            return coming.result()
        except FileExistsError as error:  # what gcsfs makes of "precondition failed"
            raise BucketError(
                f"{self.address} was written anew while it was read (generation "
                f"{self._generation} is gone); start again, with data that stay as they are"
            ) from error
        except Exception as error:
            raise BucketError(_in_words(self.address, error)) from error

    async def _fetch(self, start: int, stop: int) -> bytes:
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        return await self._call(stop - start, headers=headers, alt="media")

    async def _call(self, length: int | None = None, **options: Any) -> Any:
        """What the bucket answers; of a `length`, where one is expected."""
        connection = _connection()

        async def attempt() -> object:
            async with connection.turns:
                answer = await connection.files._call(
                    "GET", "b/{}/o/{}", *self._place, ifGenerationMatch=self._generation, **options
                )
            if length is None:
                return answer
            _, content = answer
            if len(content) != length:
                raise _ShortAnswerError(f"{len(content)} bytes came of {length}")
            return content

        return await _patiently(self.address, _PATIENCE, attempt)


class BucketShard:
    """The records of a shard in a bucket; has what `PreparedRecords` needs of a reader."""

    def __init__(self, path: str):
        """Args: path: address and generation.

        Raises:
          ShardIndexError: it is cut off or not a shard of `ofa_jax.prepare`.
          BucketError: it cannot be read.
        """
        self._file = BucketFile(path)
        self._offsets = record_offsets(self._file.read, self._file.size)

    def num_records(self) -> int:
        """Number of records."""
        return len(self._offsets) - 1

    def request(self, position: int) -> None:
        """Starts to fetch a record."""
        self._file.request(*self._offsets[position : position + 2].tolist())

    def read(self, positions: list[int]) -> list[bytes]:
        """Records by their positions.

        Raises:
          IndexError: there is no such record.
          ShardIndexError: a damaged one.
          BucketError: the bucket cannot be read.
        """
        found = []
        for position in positions:
            start, stop = self._offsets[position : position + 2].tolist()
            found += chunk_records(self._file.read(start, stop), start)
        return found
