"""Saves and restores the train state of a run, and survives being killed at any moment.

The only writer of training checkpoints. Layout (T5X 4): `<run>/checkpoint_<step>/state` is the
tree of `ofa_jax.training.state.to_checkpoint_tree` in orbax's OCDBT format, `dataset/` beside it
holds the input state as JSON, one file per process. A checkpoint is written into a temporary
directory and renamed when complete, so an interrupted save leaves only the older ones. In a bucket,
where nothing can be renamed, a file that is written last says that it is complete.
"""

from __future__ import annotations

import logging
import math
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from ofa_jax import atomic, schema
from ofa_jax.checkpoint.bucket import (
    AnyPath,
    directory_path,
    is_finished,
    is_remote,
    is_step_directory,
)
from ofa_jax.checkpoint.dataset_state import DatasetHandler, DatasetSave, dataset_file
from ofa_jax.checkpoint.errors import CheckpointError, CheckpointStructureError, one_line
from ofa_jax.checkpoint.fingerprint import check_fingerprint, write_fingerprint

__all__ = ["OPTIONAL_SECTIONS", "STEP_PREFIX", "CheckpointManager", "readable_size", "tree_bytes"]

logger = logging.getLogger("ofa_jax")

STEP_PREFIX = "checkpoint"
OPTIONAL_SECTIONS = ("ema",)
_SPACE_MARGIN = 1.05
_SHOWN = 2


def readable_size(size: float) -> str:
    """Bytes as text with a binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all leaves of a tree of arrays or shapes."""
    return sum(math.prod(np.shape(x)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def _leaf_shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {
        "/".join(str(getattr(key, "key", key)) for key in path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _everywhere(succeeded: bool) -> bool:
    """Whether all processes succeeded, so that they agree on what to do next."""
    if jax.process_count() == 1:
        return succeeded
    return bool(np.all(multihost_utils.process_allgather(np.asarray(succeeded))))


class CheckpointManager:
    """Checkpoints of one run.

    Use as a context manager: leaving it waits for the save in progress, also on an exception.

    Attributes:
      directory: the run's directory.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        config: Mapping[str, object] | None = None,
        keep: int = 2,
        best_metric: str | None = None,
        best_mode: str = "max",
        keep_best: int = 1,
        asynchronous: bool = True,
    ) -> None:
        """Opens a run's directory, creating it where missing.

        Args:
          directory: the run's directory, on a disk that all processes share or at a gs:// address.
          config: settings of model and vocabulary that checkpoints depend on, nested and
            JSON-able. Written with the first checkpoint; another run's directory is refused.
          keep: newest checkpoints that stay.
          best_metric: key of the metrics given to `save`; the best checkpoints stay as well.
          best_mode: "max" or "min".
          keep_best: how many of the best stay.
          asynchronous: whether writing goes on in the background after `save` returns.

        Raises:
          ModelMismatchError: the directory holds another model's checkpoints.
          CheckpointError: the directory cannot be written.
          ValueError: impossible settings.
        """
        if keep < 1 or keep_best < 1:
            raise ValueError(f"keep and keep_best must be at least 1, got {keep}, {keep_best}")
        if best_mode not in ("max", "min"):
            raise ValueError(f"best_mode must be 'max' or 'min', got {best_mode!r}")
        self.directory = directory_path(directory)
        self._best_metric, self._best_mode = best_metric, best_mode
        self._make_writable()
        self._config = config
        if config is not None and self._has_checkpoints():
            check_fingerprint(self.directory, config)
        if is_remote(self.directory):
            self._remove_unfinished()
        else:
            self._set_notes_aside()
        policies: list[Any] = [LatestN(keep)]
        if best_metric:
            policies.append(
                BestN(
                    get_metric_fn=self._rank,
                    reverse=best_mode == "min",
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            step_prefix=STEP_PREFIX,
            # In a bucket orbax would take away every directory that is no finished checkpoint,
            # those with logs and reports too.
            cleanup_tmp_directories=not is_remote(self.directory),
            enable_async_checkpointing=asynchronous,
            preservation_policy=AnyPreservationPolicy(policies),
            # The history of metrics decides what is best, also after a restart.
            best_fn=self._rank if best_metric else None,
            best_mode=best_mode,
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(use_ocdbt=True),
            "dataset": DatasetHandler(),
        }
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=handlers
        )

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _rank(self, metrics: Mapping[str, float]) -> float:
        value = float(metrics.get(self._best_metric or "", math.nan))
        if math.isnan(value):
            return -math.inf if self._best_mode == "max" else math.inf
        return value

    def _make_writable(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".writable_{jax.process_index()}"
            probe.write_text("")
            probe.unlink()
        except Exception as error:  # Each file system of a bucket has its own.
            reason = getattr(error, "strerror", None) or one_line(error)
            raise CheckpointError(
                f"cannot write checkpoints to {self.directory}: {reason}"
            ) from error

    def _has_checkpoints(self) -> bool:
        return any(is_step_directory(path.name) for path in self.directory.iterdir())

    def _remove_unfinished(self) -> None:
        """Takes away checkpoints in a bucket whose writing was interrupted."""
        if jax.process_index() == 0:
            for path in self.directory.iterdir():
                if is_step_directory(path.name) and not is_finished(path):
                    logger.info("removing %s, which was never finished", path)
                    epath.Path(path).rmtree()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("unfinished")

    def _set_notes_aside(self) -> None:
        """Renames damaged notes in checkpoints, which orbax would stop at, and needs none of."""
        for step in self.directory.iterdir() if jax.process_index() == 0 else ():
            if not is_step_directory(step.name):
                continue
            if not step.is_dir():
                atomic.set_aside(pathlib.Path(step), "is no checkpoint")
                continue
            for note in (step / "_CHECKPOINT_METADATA", step / "metrics" / "metrics"):
                content = atomic.parsed(note.read_bytes()) if note.is_file() else None
                good = isinstance(content, dict)
                if good and note.name == "metrics":
                    good = all(isinstance(value, (int, float)) for value in content.values())
                if note.exists() and not good:
                    atomic.set_aside(pathlib.Path(note), "is damaged; nothing depends on it")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("notes")

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best metric, or None where none has one."""
        return self._manager.best_step() if self._best_metric else None

    def save(
        self,
        step: int,
        tree: Mapping[str, PyTree],
        *,
        dataset_state: PyTree = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves a checkpoint; a step that is there already is left alone.

        Returns when the arrays are copied, so that they may be donated; writing goes on in the
        background.

        Args:
          step: finished updates.
          tree: from `to_checkpoint_tree`, with arrays.
          dataset_state: JSON-able state of this process's input, or None.
          metrics: of the last evaluation, for keeping the best.

        Raises:
          CheckpointError: too little space, or this or the previous save failed.
        """
        if step in self._manager.all_steps():
            return
        self._check_space(step, tree)
        items: dict[str, ocp.args.CheckpointArgs] = {"state": ocp.args.PyTreeSave(tree)}
        if dataset_state is not None:
            items["dataset"] = DatasetSave(dataset_state)
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        try:
            if self._config is not None:
                replace = not self._manager.all_steps()
                write_fingerprint(self.directory, self._config, replace=replace)
            self._manager.save(
                step, args=ocp.args.Composite(**items), metrics=numbers or None, force=True
            )
        except Exception as error:
            raise CheckpointError(
                f"saving checkpoint {step} to {self.directory} failed: {one_line(error)}"
            ) from error

    def _check_space(self, step: int, tree: Mapping[str, PyTree]) -> None:
        if is_remote(self.directory):
            return
        needed = int(tree_bytes(tree) * _SPACE_MARGIN)
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise CheckpointError(
                f"checkpoint {step} needs {readable_size(needed)}, but {self.directory} has only "
                f"{readable_size(free)} free; make room there and give the same command again"
            )

    def restore(self, step: int, template: PyTree, shardings: PyTree = None) -> dict[str, PyTree]:
        """Reads one checkpoint.

        Args:
          step: which one.
          template: tree of arrays or `jax.ShapeDtypeStruct` as it was saved.
          shardings: tree of shardings like the template, so that arrays are read into place;
            None takes those of the template's leaves, and the default device without any.

        Returns:
          The tree with arrays. The optional section "ema" is left out where the checkpoint has
          none; sections that the template lacks are not read.

        Raises:
          CheckpointError: the checkpoint is unreadable, or fits another tree.
        """
        path = self.directory / f"{STEP_PREFIX}_{step}" / "state"
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True)) as reader:
            try:
                saved = reader.metadata(path).item_metadata.tree
            except Exception as error:
                raise CheckpointError(f"{path} is unreadable ({one_line(error)})") from error
            wanted = {
                name: section
                for name, section in template.items()
                if name in saved or name not in OPTIONAL_SECTIONS
            }
            self._check_structure(path, saved, wanted)
            if shardings is not None:
                shardings = {name: shardings[name] for name in wanted}
            target = _restore_target(wanted, shardings)
            arguments = ocp.checkpoint_utils.construct_restore_args(target)
            try:
                return reader.restore(
                    path,
                    args=ocp.args.PyTreeRestore(
                        item=target, restore_args=arguments, partial_restore=True
                    ),
                )
            except Exception as error:
                raise CheckpointError(f"{path} is unreadable ({one_line(error)})") from error

    def _check_structure(self, path: AnyPath, saved: PyTree, wanted: PyTree) -> None:
        saved = {name: saved[name] for name in wanted if name in saved}
        there, here = _leaf_shapes(saved), _leaf_shapes(wanted)
        differences = {
            "lacks {}": [name for name in here if name not in there],
            "has {} besides": [name for name in there if name not in here],
            "has other shapes of {}": [
                f"{name} ({there[name]} there, {here[name]} here)"
                for name in here
                if name in there and there[name] != here[name]
            ],
        }
        found = []
        for text, names in differences.items():
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            if names:
                found.append(text.format(", ".join(names[:_SHOWN]) + more))
        if found:
            raise CheckpointStructureError(
                f"{path} does not fit this run's model and optimizer: it {'; it '.join(found)}"
            )

    def restore_latest(
        self, template: PyTree, shardings: PyTree = None
    ) -> tuple[int, dict[str, PyTree]] | None:
        """Reads the newest checkpoint; where it is damaged, the one before, and so on.

        A damaged checkpoint is renamed to `damaged_<step>`, so that the run can save that step
        again, and is logged.

        Args:
          template: see `restore`.
          shardings: see `restore`.

        Returns:
          (step, tree), or None where the directory has no checkpoint.

        Raises:
          CheckpointStructureError: the newest readable checkpoint fits another tree.
          CheckpointError: there are checkpoints, and all are damaged.
        """
        steps = self.steps()[::-1]
        failure: CheckpointError | None = None
        for position, step in enumerate(steps):
            tree: dict[str, PyTree] = {}
            try:
                tree = self.restore(step, template, shardings)
            except CheckpointStructureError:
                raise
            except CheckpointError as error:
                failure = error
            if _everywhere(bool(tree)):
                return step, tree
            left = steps[position + 1 :]
            logger.warning(
                "checkpoint %d is damaged and set aside: %s; %s",
                step,
                failure or "another process could not read it",
                f"going back to checkpoint {left[0]}" if left else "there is no older one",
            )
            if left:
                self._set_aside(step)
        if failure is not None:
            raise CheckpointError(
                f"none of the {len(steps)} checkpoints in {self.directory} is readable: {failure}"
            ) from failure
        return None

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            damaged = self.directory / f"damaged_{step}"
            if damaged.exists():
                epath.Path(damaged).rmtree()
            (self.directory / f"{STEP_PREFIX}_{step}").rename(damaged)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"damaged_{step}")
        self._manager.reload()

    def dataset_state(self, step: int) -> PyTree:
        """The input state that this process saved, or None where the checkpoint has none.

        Args:
          step: of the checkpoint.

        Returns:
          What `save` got.
        """
        path = self.directory / f"{STEP_PREFIX}_{step}" / "dataset"
        path = dataset_file(path)
        if not path.exists():
            return None
        try:
            return schema.read_json(path, CheckpointError)
        except (OSError, CheckpointError) as error:
            logger.warning("%s; nothing depends on it", error)
            return None

    def wait(self) -> None:
        """Waits for the save in progress.

        Raises:
          CheckpointError: it failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise CheckpointError(
                f"saving to {self.directory} failed: {one_line(error)}"
            ) from error

    def close(self) -> None:
        """Waits for the save in progress and frees the threads.

        Raises:
          CheckpointError: the save failed.
        """
        try:
            self.wait()
        finally:
            self._manager.close()


def _restore_target(template: PyTree, shardings: PyTree) -> object:
    def of_leaf(leaf, sharding=None):
        if sharding is None:
            sharding = getattr(leaf, "sharding", None)
        if sharding is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    if shardings is None:
        return jax.tree.map(of_leaf, template)
    return jax.tree.map(of_leaf, template, shardings)
