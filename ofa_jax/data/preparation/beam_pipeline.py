"""The same preparation as an Apache Beam pipeline, for data beyond one machine.

Shards are the elements, so any runner spreads them over its workers; one shard is written by the
same function as on one machine, so the bytes are the same, and either engine goes on with what the
other began. The workers must be able to read the source and to write the directory: a shared file
system, or a bucket that Beam has an adapter for.

Apache Beam is in the extra `prepare` and is imported when a pipeline is built.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from types import ModuleType
from typing import Any, BinaryIO

from ofa_jax.atomic import JsonObject
from ofa_jax.data.preparation.output_directory import OutputDirectory, temporary_name
from ofa_jax.data.preparation.plan import ConversionPlan, Estimate
from ofa_jax.data.preparation.shards import PreparationError, StrictError, write_shard
from ofa_jax.data.preparation.storage import LocalStorage, Storage
from ofa_jax.errors import SettingsError, started

# What tells a bucket from a directory, for example gs://bucket/data.
_SCHEME = "://"
_COPIED_AT_ONCE = 1 << 20


class MissingBeamError(SettingsError):
    """Apache Beam is not installed; the message says how to install it."""


def require_beam() -> ModuleType:
    """Imports Apache Beam.

    Returns:
      The module `apache_beam`.

    Raises:
      MissingBeamError: it is not installed.
    """
    try:
        return importlib.import_module("apache_beam")
    except ImportError as error:
        raise MissingBeamError(
            "the Beam engine needs apache-beam: pip install -c constraints.txt 'ofa-jax[prepare]'"
        ) from error


class BeamStorage:
    """A directory on a file system that Beam has an adapter for. Implements `storage.Storage`.

    Attributes:
      root: URL of the directory.
    """

    def __init__(self, root: str):
        self.root = root.rstrip("/")

    def __str__(self) -> str:
        return self.root

    def read(self, name: str) -> bytes | None:
        """Contents of a file; None where there is none."""
        files, path = _file_systems(), self._path(name)
        if not files.exists(path):
            return None
        with files.open(path) as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Writes a file under a temporary name, then renames it."""
        self._put(io.BytesIO(data), name)

    def adopt(self, path: pathlib.Path, name: str) -> None:
        """Uploads a file under a temporary name, renames it, and removes it here."""
        with path.open("rb") as file:
            self._put(file, name)
        path.unlink()

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        files, path = _file_systems(), self._path(name)
        if not files.exists(path):
            return None
        return files.get_filesystem(path).size(path)

    def names(self, prefix: str) -> list[str]:
        """Names of the files that begin so; sorted."""
        found = _file_systems().match([self._path(f"{prefix}*")])[0].metadata_list
        return sorted(metadata.path.rsplit("/", 1)[1] for metadata in found)

    def remove(self, name: str) -> None:
        """Removes a file, where it exists."""
        if _file_systems().exists(self._path(name)):
            _file_systems().delete([self._path(name)])

    def remove_directory(self, name: str) -> None:
        """Removes the files of a directory."""
        found = _file_systems().match([self._path(f"{name}/*")])[0].metadata_list
        if found:
            _file_systems().delete([metadata.path for metadata in found])

    def _path(self, name: str) -> str:
        return _file_systems().join(self.root, *name.split("/"))

    def _put(self, source: BinaryIO, name: str) -> None:
        files, path = _file_systems(), self._path(name)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        with files.create(temporary) as target:
            shutil.copyfileobj(source, target, _COPIED_AT_ONCE)
        files.rename([temporary], [path])


def storage_of(out: str) -> Storage:
    """The storage of a path or, where it has a scheme such as `gs://`, of a URL."""
    return BeamStorage(out) if _SCHEME in out else LocalStorage(out)


def prepare(
    plan: ConversionPlan,
    estimate: Estimate,
    out: str,
    *,
    options: Sequence[str] = (),
    storage: Storage | None = None,
) -> JsonObject:
    """Prepares a split, or what is missing of it, on a Beam runner, and waits for the end.

    Args:
      plan: what to do; its source must be readable on every worker.
      estimate: how large it will be.
      out: directory to write, a path that every worker has or a URL.
      options: Beam's own, such as `--runner=DataflowRunner`; none takes the DirectRunner.
      storage: for another storage than `storage_of(out)`.

    Returns:
      The manifest of the directory.

    Raises:
      MissingBeamError: Beam is not installed.
      ValueError: other settings, or too little space.
      OSError: the directory cannot be written.
      PreparationError: the pipeline failed; a StrictError where the plan is strict.
    """
    beam = require_beam()
    storage = storage or storage_of(out)
    directory = OutputDirectory(storage, plan)
    with contextlib.ExitStack() as stack:
        if isinstance(storage, LocalStorage):
            storage.make()
            stack.enter_context(storage.lock())
            storage.remove_remains(directory.work)
        finished = directory.finished_manifest()
        if finished is not None:
            storage.remove_directory(directory.work)
            return finished
        results = directory.results()
        if isinstance(storage, LocalStorage):
            done = sum(result.size for result in results.values())
            storage.check_space(max(0, estimate.stored_bytes - done))
        directory.begin()
        if not plan.strict:
            started()
        missing = [shard for shard in range(plan.num_shards) if shard not in results]
        try:
            with beam.Pipeline(argv=list(options)) as pipeline:
                _ = (
                    pipeline
                    | "ShardNumbers" >> beam.Create(missing)
                    | "Spread" >> beam.Reshuffle()
                    | "WriteShards" >> beam.Map(write_one, directory, plan)
                )
        except Exception as error:  # Runners wrap what happens on their workers in many ways.
            error_type = StrictError if plan.strict else PreparationError
            raise error_type(f"the Beam pipeline failed: {_last_line(error)}") from error
        results = directory.results()
        lost = [plan.shard_name(shard) for shard in missing if shard not in results]
        if lost:
            raise OSError(
                f"{storage}: the pipeline ended without {lost[0]}; does every worker write to "
                "the same directory?"
            )
        return directory.finish([results[shard] for shard in range(plan.num_shards)])


def write_one(shard: int, directory: OutputDirectory, plan: ConversionPlan) -> int:
    """Writes one shard on a worker.

    Args:
      directory: where it goes.

    Returns:
      Number of examples in the shard.
    """
    local = isinstance(directory.storage, LocalStorage)
    with contextlib.ExitStack() as stack:
        # In the directory itself a rename is enough; to a bucket the file is uploaded.
        place = pathlib.Path(str(directory.storage), directory.work)
        if not local:
            place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        temporary = place / temporary_name(plan, shard)
        result = write_shard(plan, shard, temporary)
        directory.commit(shard, temporary, result)
    return result.tally.examples


def _last_line(error: Exception) -> str:
    """The line of a runner's message that says what happened; tracebacks stand above it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _file_systems() -> Any:
    require_beam()
    return importlib.import_module("apache_beam.io.filesystems").FileSystems
