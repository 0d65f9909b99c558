"""One writer at a time in a directory: a lock that says who holds it, and does not outlive it.

The lock is a small file in the directory: machine, process, when it began, and a beat that counts
on while the process lives. A second process on the same machine looks for the first; on another
machine it watches the beat. Nothing depends on clocks that agree. A directory here is locked by a
`LocalFile`, one in a bucket by a `ofa_jax.checkpoint.bucket_lock.BucketFile`.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ofa_jax.errors import OutsideFailure, SettingsError

logger = logging.getLogger("ofa_jax")

LOCK_NAME = ".lock"
# Seconds between beats, and without one after which a lock is stale.
BEAT_PERIOD = 15.0
SILENT_AFTER = 60.0
_POLL_PERIOD = 1.0
# Bytes that are looked at; a lock has a few hundred.
_LONGEST = 1 << 16


class SharedFile(Protocol):
    """A small file that one of several writers may change at a time."""

    def read(self) -> tuple[bytes, Any]:
        """Content (b"" where there is no file), and a mark that changes with it."""
        ...

    def replace(self, content: bytes, mark: Any) -> Any:
        """Writes if the mark is still that of the file; b"" removes it.

        Returns:
          The new mark, or None where another was faster.
        """
        ...


class LocalFile:
    """A `SharedFile` in a directory of this machine or of a file system that machines share."""

    def __init__(self, path: pathlib.Path):
        """Args: path: its directory must exist."""
        self._path = path

    def read(self) -> tuple[bytes, Any]:
        """See `SharedFile`; the mark is the content."""
        try:
            with self._path.open("rb") as file:
                _flock(file.fileno(), fcntl.LOCK_SH)
                content = file.read(_LONGEST)
        except FileNotFoundError:
            content = b""
        return content, content

    def replace(self, content: bytes, mark: Any) -> Any:
        """See `SharedFile`."""
        while True:
            with self._alone() as file:
                if not self._is_still(file):
                    continue
                if os.pread(file, _LONGEST, 0) != mark:
                    return None
                if not content:
                    self._path.unlink()
                else:
                    os.pwrite(file, content, 0)
                    os.ftruncate(file, len(content))
                return content

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """The open file, made where it is missing, which no other process changes meanwhile."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    def _is_still(self, file: int) -> bool:
        """Whether the path leads to the open file, which another process may have removed."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(file))
        except FileNotFoundError:
            return False


def _flock(file: int, operation: int) -> None:
    # Where a network file system has no locks, two may start in the same instant.
    with contextlib.suppress(OSError):
        fcntl.flock(file, operation)


class DirectoryLock:
    """Holds a directory while it is entered.

    A lock whose process is gone from this machine is taken over at once; one of another machine
    after `SILENT_AFTER` seconds without a beat.
    """

    def __init__(
        self,
        file: SharedFile,
        name: str,
        *,
        beat_period: float = BEAT_PERIOD,
        silent_after: float = SILENT_AFTER,
    ):
        """Holds nothing yet.

        Args:
          file: the lock file.
          name: of the directory, for messages, such as "model_dir runs/mine".
          beat_period: seconds between signs of life.
          silent_after: seconds without one after which a holder counts as gone.
        """
        self._file, self._name = file, name
        self._beat_period, self._silent_after = beat_period, silent_after
        self._lost = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="directory lock", daemon=True)
        self._mark: Any = None
        self._holder = _this_process()

    def __enter__(self) -> DirectoryLock:
        """Takes the directory.

        Raises:
          SettingsError: another process holds it; the message says which.
          OSError: the lock cannot be written.
        """
        while self._mark is None:
            content, mark = self._file.read()
            if content:
                self._wait_until_stale(content, mark)
            self._mark = self._file.replace(_as_bytes(self._holder), mark)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()
        if not self._lost:
            # A lock that cannot be removed is stale as soon as this process ends.
            with contextlib.suppress(Exception):
                self._file.replace(b"", self._mark)

    def check(self) -> None:
        """Fails where another process has taken the directory, after this one was silent for long.

        Raises:
          OutsideFailure: with who did.
        """
        if self._lost:
            raise OutsideFailure(self._lost)

    def _wait_until_stale(self, content: bytes, mark: Any) -> None:
        holder = _read(content)
        alive = _is_alive(holder)
        if alive is None:
            logger.info("%s was locked by %s; is that alive?", self._name, _shown(holder))
            alive = self._shows_life(mark)
        if alive:
            raise SettingsError(
                f"{self._name} is in use by {_shown(holder)}; wait for it, end it, or take "
                "another directory"
            )
        logger.info("%s was locked by %s, which is gone; going on", self._name, _shown(holder))

    def _shows_life(self, mark: Any) -> bool:
        until = time.monotonic() + self._silent_after
        while time.monotonic() < until:
            time.sleep(min(_POLL_PERIOD, self._beat_period))
            content, other = self._file.read()
            if other != mark:
                return bool(content)
        return False

    def _beat(self) -> None:
        while not self._end.wait(self._beat_period):
            self._holder["beat"] += 1
            try:
                mark = self._file.replace(_as_bytes(self._holder), self._mark)
                if mark is None:
                    other = _shown(_read(self._file.read()[0]))
                    self._lost = f"{self._name} was taken over by {other}"
                    logger.error("%s", self._lost)
                    return
                self._mark = mark
            except Exception as error:  # Each file system has its own, and most pass.
                logger.warning("%s: no sign of life could be given: %s", self._name, error)


def _this_process() -> dict[str, Any]:
    now = datetime.datetime.now().astimezone()
    return {
        **_this_machine(),
        "process": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "since": now.isoformat(sep=" ", timespec="seconds"),
        "command": os.path.basename(sys.argv[0]) if sys.argv else "",
        "lock": uuid.uuid4().hex,
        "beat": 0,
    }


def _this_machine() -> dict[str, str]:
    """Its name, and what tells boots and containers of equal names apart, where that is known."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        machine = ""
    return {"host": socket.gethostname(), "machine": machine}


def _process_start(process: int) -> str:
    """When a process of this machine began, in ticks since boot.

    Returns:
      "" where that is not known, "dead" for one that has ended and was not waited for.
    """
    try:
        status = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    # The second field is the program's name, which may hold anything.
    state, *fields = status.rpartition(")")[2].split()
    return "dead" if state in "ZX" else fields[18]


def _is_alive(holder: Mapping[str, object]) -> bool | None:
    """Whether a holder lives; None where that cannot be known from here."""
    process, start = holder.get("process"), holder.get("process_start")
    if {**holder, **_this_machine()} != holder or not isinstance(process, int):
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # Another user's, or no process at all.
        pass
    # A number is given again; one with another start is another process.
    now = _process_start(process)
    return now == start if now and start else None


def _shown(holder: Mapping[str, object]) -> str:
    command = f" ({holder['command']})" if holder.get("command") else ""
    since = f" since {holder['since']}" if holder.get("since") else ""
    where = f"process {holder.get('process', '?')} on {holder.get('host', 'an unknown host')}"
    return f"{where}{command}{since}"


def _as_bytes(holder: Mapping[str, object]) -> bytes:
    return json.dumps(holder).encode() + b"\n"


def _read(content: bytes) -> dict[str, object]:
    try:
        holder = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}
