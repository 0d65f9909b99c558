"""Where prepared data is written: a directory of named files that appear whole or not at all.

`LocalStorage` is a directory of this machine or of a shared file system. `beam_pipeline` has one
over whatever Beam can write to.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import uuid
from typing import Protocol

from ofa_jax.lock import LOCK_NAME, DirectoryLock, LocalFile

_PROBE = ".probe-"
# Room for counts, the manifest and the inexactness of estimates.
_SPARE_SHARE = 0.05
_SPARE_BYTES = 1 << 20


class Storage(Protocol):
    """Named files. Names may have one directory in front, `directory/file`."""

    def __str__(self) -> str:
        """The directory, for messages."""
        ...

    def read(self, name: str) -> bytes | None:
        """Contents of a file; None where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Writes or replaces a file, whole or not at all."""
        ...

    def adopt(self, path: pathlib.Path, name: str) -> None:
        """Moves a complete file of this machine here, under a name, whole or not at all."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Names of the files, not in directories, that begin so; sorted."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file, where it exists."""
        ...

    def remove_directory(self, name: str) -> None:
        """Removes a directory with what is in it, where it exists."""
        ...


class LocalStorage:
    """A directory of a local or shared file system.

    Attributes:
      root: the directory.
    """

    def __init__(self, root: str | pathlib.Path):
        self.root = pathlib.Path(root).expanduser()

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        """Contents of a file; None where there is none."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file under a temporary name, then renames it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def adopt(self, path: pathlib.Path, name: str) -> None:
        """Renames a file of the same file system."""
        path.replace(self.root / name)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return (self.root / name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, prefix: str) -> list[str]:
        """Names of the files that begin so; sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name
            for path in self.root.iterdir()
            if path.name.startswith(prefix) and path.is_file()
        )

    def remove(self, name: str) -> None:
        """Removes a file, where it exists."""
        (self.root / name).unlink(missing_ok=True)

    def remove_directory(self, name: str) -> None:
        """Removes a directory with what is in it, where it exists."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def make(self) -> None:
        """Makes the directory where it is not there, and checks that it can be written.

        Raises:
          OSError: it cannot.
        """
        probe = self.root / f"{_PROBE}{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"probe")
            probe.unlink()
        except OSError as error:
            raise OSError(f"cannot write to {self.root}: {error.strerror or error}") from error

    def check_space(self, needed: int) -> None:
        """Fails where files would not find room.

        Args:
          needed: their bytes, about.

        Raises:
          ValueError: too little space; the message says how much there is and must be.
        """
        needed = int(needed * (1 + _SPARE_SHARE)) + _SPARE_BYTES
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise ValueError(
                f"{self.root} has {_readable(free)} free; the shards need about "
                f"{_readable(needed)} more"
            )

    def remove_remains(self, directory: str) -> None:
        """Removes the temporary files that a killed process left, here and in one directory."""
        for pattern in ("*.tmp", f"{_PROBE}*", f"{directory}/*.tmp*"):
            for path in self.root.glob(pattern):
                path.unlink(missing_ok=True)

    def lock(self) -> DirectoryLock:
        """Keeps a second writer out, while it is entered."""
        return DirectoryLock(LocalFile(self.root / LOCK_NAME), f"the directory {self.root}")


def _readable(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
