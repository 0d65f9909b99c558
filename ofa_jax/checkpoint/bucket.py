"""Runs and checkpoints in a bucket of Google Cloud Storage, gs://bucket/path.

Orbax writes checkpoints into the bucket itself. Object storage cannot append to a file or replace
one in place, so whatever else a run writes goes to a directory of this machine, a `Mirror`, which
is copied there whenever it changes. Needs the package gcsfs.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import logging
import os
import pathlib
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
from etils import epath
from etils.epath import gpath
from fsspec import AbstractFileSystem

from ofa_jax import atomic
from ofa_jax.checkpoint.errors import CheckpointError, one_line
from ofa_jax.lock import LOCK_NAME

logger = logging.getLogger("ofa_jax")

# Seconds between copies to the bucket; checkpoints, exits and ends of runs do not wait for them.
PUSH_PERIOD = 30.0
_ADDRESS = re.compile(r"(\w+)://([^/]+)/*(.*?)/*")
_MOUNTS = {"gs": "gcsfuse {bucket} /mnt/{bucket}", "s3": "mount-s3 {bucket} /mnt/{bucket}"}
_STEP_DIRECTORY = re.compile(r"checkpoint_\d+")
_STATE_DIRECTORY = re.compile(r"(checkpoint|damaged)_\d+")
# Orbax writes it last where directories cannot be renamed.
_COMMITTED = "commit_success.txt"
_UNFINISHED = (".partial", ".unfinished")


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is the address of a bucket, such as gs://bucket/run."""
    return "://" in str(path)


def check_address(address: str, setting: str) -> None:
    """Fails where nothing here can read and write an address.

    Args:
      address: such as gs://bucket/run.
      setting: that it was given for.

    Raises:
      ValueError: another scheme, no path in the bucket, or gcsfs is not installed.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not match[3]:
        raise ValueError(
            f"{setting} {address} is no address of a directory, such as gs://bucket/run"
        )
    scheme, name, rest = match.groups()
    mount = _MOUNTS.get(scheme, "its FUSE driver").format(bucket=name)
    mounted = f"mount it on every host ({mount}) and set {setting}='/mnt/{name}/{rest}'"
    if scheme != "gs":
        raise ValueError(
            f"{setting} {address}: no driver makes {scheme}:// a directory here; {mounted}"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{setting} {address} needs the package gcsfs: pip install 'ofa-jax[gs]'; or {mounted}"
        )


def local_directory(path: str | os.PathLike, setting: str) -> pathlib.Path:
    """A directory that has to be on this machine.

    Args:
      path: as the user gave it.
      setting: that it was given for.

    Raises:
      ValueError: the address of a bucket.
    """
    if is_remote(path):
        raise ValueError(
            f"{setting} {path} must be a directory here; only model_dir and checkpoints may be "
            "gs:// addresses, so mount the bucket (gcsfuse) and give its directory"
        )
    return pathlib.Path(path)


AnyPath = pathlib.Path | epath.Path


def directory_path(directory: str | os.PathLike) -> AnyPath:
    """A directory here, as a whole path, or in a bucket.

    Args:
      directory: path or address.

    Returns:
      A path of pathlib, or of etils with most of its methods.
    """
    if is_remote(directory):
        _use_gcsfs()
        return epath.Path(str(directory).rstrip("/"))
    return pathlib.Path(directory).absolute()


def file_system(**options: object) -> Any:
    """The fsspec file system of gs:// addresses; `options` are those of gcsfs."""
    _use_gcsfs()
    return fsspec.filesystem("gcs", finalize_on_close=True, **options)


def _use_gcsfs() -> None:
    # With TensorFlow installed, etils would take its file system, which has other environment
    # variables and errors. Listings are not kept: TensorStore and other hosts write past them.
    if os.environ.setdefault("EPATH_USE_TF", "0") == "0":
        # TensorFlow Datasets, which is imported before, has made etils look already.
        gpath._is_tf_installed.cache_clear()
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


def fail_clearly(what: str) -> Callable[[Callable], Callable]:
    """Turns the many exceptions of storage libraries into a `CheckpointError` of one line.

    Args:
      what: is done, as in "cannot read gs://bucket/run".

    Returns:
      A decorator of functions of an address, and of methods of objects with one.
    """

    def wrap(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            except (CheckpointError, FileNotFoundError):
                raise
            except Exception as error:
                address = getattr(arguments[0], "address", arguments[0])
                raise CheckpointError(f"cannot {what} {address} ({one_line(error)})") from error

        return call

    return wrap


class Mirror:
    """A directory of this machine whose files are copied to a bucket when they change.

    Use as a context manager: entering fetches what the bucket has, leaving pushes what is new.
    Checkpoints are left alone. Several hosts may mirror the same address, as long as they write
    files of different names.

    Attributes:
      address: of the directory in the bucket.
      directory: the one here.
    """

    def __init__(self, address: str, directory: pathlib.Path):
        """Args: address: in the bucket. directory: here; made where it does not exist."""
        self.address, self.directory = address.rstrip("/"), directory
        self._files = file_system()
        self._pushed: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._push_now_and_then, daemon=True)

    def __enter__(self) -> Mirror:
        self.fetch()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()
        self.push()

    @fail_clearly("read")
    def fetch(self) -> None:
        """Copies the bucket's files here.

        Raises:
          CheckpointError: the bucket cannot be read.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in _names_below(
            self._files, self.address, lambda top: not _STATE_DIRECTORY.fullmatch(top)
        ):
            if name == LOCK_NAME:
                continue
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(f"{self.address}/{name}", str(path))
        self._pushed = self._there()

    @fail_clearly("write to")
    def push(self) -> None:
        """Copies every file that changed to the bucket, and takes away what is gone here.

        Raises:
          CheckpointError: the bucket cannot be written.
        """
        with self._lock:
            there = self._there()
            for name, stamp in there.items():
                if self._pushed.get(name) != stamp:
                    self._files.put_file(str(self.directory / name), f"{self.address}/{name}")
                    self._pushed[name] = stamp
            for name in self._pushed.keys() - there.keys():
                if self._files.exists(f"{self.address}/{name}"):
                    self._files.rm_file(f"{self.address}/{name}")
                del self._pushed[name]

    def _there(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in sorted(self.directory.rglob("*")):
            if path.is_symlink() or path.name.endswith(_UNFINISHED) or not path.is_file():
                continue
            status = path.stat()
            found[path.relative_to(self.directory).as_posix()] = (
                status.st_mtime_ns,
                status.st_size,
            )
        return found

    def _push_now_and_then(self) -> None:
        while not self._end.wait(PUSH_PERIOD):
            try:
                self.push()
            except (CheckpointError, OSError) as error:
                logger.warning("%s; trying again in %.0f s", error, PUSH_PERIOD)


def best_step_of(scores: object) -> int | None:
    """The step that a run chose by its evaluations, None where it chose none.

    Args:
      scores: content of its `metrics.json`.
    """
    run = scores.get("run") if isinstance(scores, dict) else None
    step = run.get("best_step") if isinstance(run, dict) else None
    return step if type(step) is int else None


def is_step_directory(name: str) -> bool:
    """Whether a directory of that name is a checkpoint."""
    return _STEP_DIRECTORY.fullmatch(name) is not None


def is_finished(checkpoint: AnyPath) -> bool:
    """Whether a checkpoint in a bucket was written to its end."""
    return (checkpoint / _COMMITTED).exists()


def _names_below(
    files: Any, address: str, wanted: Callable[[str], bool] = lambda top: True
) -> Iterator[str]:
    """Paths of the files in a directory of a bucket, relative to it.

    Args:
      files: file system.
      address: of the directory; nothing is found where there is none.
      wanted: whether to go into a top-level directory of that name.
    """
    root = files._strip_protocol(address)
    try:
        entries = files.ls(root, detail=True)
    except FileNotFoundError:
        return
    for entry in entries:
        name = entry["name"].rstrip("/").removeprefix(root).strip("/")
        if not name:
            continue
        if entry["type"] != "directory":
            yield name
        elif wanted(name):
            for path in files.find(entry["name"]):
                if below := path.removeprefix(root).strip("/"):
                    yield below


_FETCHED: dict[str, pathlib.Path] = {}


def local_copy(address: str) -> pathlib.Path:
    """Copies a checkpoint of a bucket to this machine, where it stays until the process ends.

    Args:
      address: of a run's directory (of its checkpoints the best is taken where the run chose one,
        else the last), of one of its checkpoints, of a directory in another format, or of a file.

    Returns:
      The copy; what describes the model lies around it as it does there.

    Raises:
      ValueError: see `check_address`.
      FileNotFoundError: there is nothing.
      CheckpointError: the bucket cannot be read, or the checkpoint was never finished.
    """
    address = address.rstrip("/")
    if address in _FETCHED:
        return _FETCHED[address]
    check_address(address, "checkpoint")
    _FETCHED[address] = _copy_here(address)
    return _FETCHED[address]


@fail_clearly("read")
def _copy_here(address: str) -> pathlib.Path:
    files = file_system()
    if not files.exists(address):
        raise FileNotFoundError(f"{address}: no such file or directory")
    parent, _, name = address.rpartition("/")
    is_file, is_step = files.isfile(address), is_step_directory(name)
    root = parent if is_file or is_step else address
    if is_file:
        beside = (name, "config.json", "config.gin")
        names = [other for other in beside if files.isfile(f"{root}/{other}")]
    else:
        step = name if is_step else _chosen_step(files, root)
        if is_step and not files.exists(f"{address}/{_COMMITTED}"):
            raise CheckpointError(f"{address}: was never finished; take another checkpoint")
        whole = step is None
        names = list(_names_below(files, root, lambda top: whole or top in (step, "vocabulary")))
    temporary = tempfile.mkdtemp(prefix="ofa_jax_checkpoint_")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    home = pathlib.Path(temporary) / root.rpartition("/")[2]
    logger.info("copying %s to this machine", address)
    for entry in names:
        path = home / entry
        path.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(f"{root}/{entry}", str(path))
    return home if root == address else home / name


def _chosen_step(files: AbstractFileSystem, run: str) -> str | None:
    """Name of the directory of a run's best or last finished checkpoint, None where it has none."""
    tops = (entry["name"].rstrip("/").rpartition("/")[2] for entry in files.ls(run, detail=True))
    steps = [
        int(top.removeprefix("checkpoint_"))
        for top in tops
        if is_step_directory(top) and files.exists(f"{run}/{top}/{_COMMITTED}")
    ]
    best = None
    if files.isfile(f"{run}/metrics.json"):
        content = atomic.parsed(files.cat_file(f"{run}/metrics.json"))
        if content is None:
            raise CheckpointError(f"{run}/metrics.json: is not JSON; it says which step is best")
        best = best_step_of(content)
    if not steps:
        return None
    return f"checkpoint_{best if best in steps else max(steps)}"
