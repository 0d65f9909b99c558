"""The directory of a run: whether it can be written, and what is put there at the start."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np

from ofa_jax import atomic
from ofa_jax.checkpoint.bucket import Mirror, check_address, is_remote
from ofa_jax.checkpoint.bucket_lock import BucketFile
from ofa_jax.checkpoint.errors import CheckpointError
from ofa_jax.checkpoint.manager import CheckpointManager, readable_size, tree_bytes
from ofa_jax.checkpoint.tuned import TUNED_FILE, write_tuned
from ofa_jax.data.tasks.task import TaskSet
from ofa_jax.errors import SettingsError
from ofa_jax.lock import LOCK_NAME, DirectoryLock, LocalFile, SharedFile
from ofa_jax.runs import hosts
from ofa_jax.runs import tasks as run_tasks
from ofa_jax.runs.engine import Engine
from ofa_jax.runs.settings import CheckpointConfig
from ofa_jax.sharding import placement
from ofa_jax.training.state import TrainState, to_checkpoint_tree

logger = logging.getLogger("ofa_jax")


def is_primary() -> bool:
    """Whether this process writes what a run has once: one of all hosts does."""
    return jax.process_index() == 0


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Where a run writes.

    Attributes:
      address: model_dir as given; checkpoints go there.
      files: directory of everything else: the same, or on this machine where model_dir is a bucket.
      mirror: copies `files` to the bucket, or None.
      lock: keeps others out; None on hosts that write nothing by themselves.
    """

    address: str
    files: pathlib.Path
    mirror: Mirror | None = None
    lock: DirectoryLock | None = None

    def check_lock(self) -> None:
        """Fails where another run has taken the directory, while this one was as good as gone.

        Raises:
          OutsideFailure: with who did.
        """
        if self.lock:
            self.lock.check()

    def push(self) -> None:
        """Makes sure that everything written so far is where model_dir is.

        Raises:
          CheckpointError: the bucket cannot be written.
        """
        if self.mirror:
            self.mirror.push()

    def shown(self, path: pathlib.Path) -> str:
        """A path below `files` as the user finds it."""
        if self.mirror is None:
            return str(path)
        return f"{self.address}/{path.relative_to(self.files).as_posix()}"


def check_model_dir(model_dir: str) -> None:
    """Fails at the start where model_dir is an address that nothing here can write to.

    Raises:
      ValueError: with what would help.
    """
    if is_remote(model_dir):
        check_address(model_dir, "model_dir")


@contextlib.contextmanager
def opened(model_dir: str) -> Iterator[RunDirectory]:
    """The directory of a run, for as long as it is used.

    Args:
      model_dir: model_dir, a directory or an address such as gs://bucket/run.

    Raises:
      ValueError: see `check_model_dir`; or another process uses the directory.
      CheckpointError: the bucket cannot be read or written.
    """
    check_model_dir(model_dir)
    address = model_dir.rstrip("/") if is_remote(model_dir) else model_dir
    with contextlib.ExitStack() as stack:
        lock = None
        with hosts.agreed("the directory is locked"):
            if is_primary():
                try:
                    lock = stack.enter_context(_lock_of(address))
                except OSError as error:
                    reason = error.strerror or error
                    raise SettingsError(
                        f"model_dir: cannot write checkpoints to {address}: {reason}"
                    ) from error
        if not is_remote(address):
            yield RunDirectory(address, pathlib.Path(address), lock=lock)
            return
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="ofa_jax_run_"))
        files = pathlib.Path(temporary) / address.rpartition("/")[2]
        mirror = stack.enter_context(Mirror(address, files))
        yield RunDirectory(address, files, mirror, lock)


def _lock_of(address: str) -> DirectoryLock:
    file: SharedFile
    if is_remote(address):
        file = BucketFile(f"{address}/{LOCK_NAME}")
    else:
        pathlib.Path(address).mkdir(parents=True, exist_ok=True)
        file = LocalFile(pathlib.Path(address) / LOCK_NAME)
    return DirectoryLock(file, f"model_dir {address}")


def open_manager(
    run: RunDirectory, checkpoints: CheckpointConfig, **settings: Any
) -> CheckpointManager:
    """Opens the checkpoints of a run.

    Args:
      run: its directory; made where it does not exist.
      checkpoints: how many to keep.
      **settings: dataclasses that another run's directory may not differ in, by name.

    Raises:
      CheckpointError: the directory cannot be written, or holds another model or vocabulary.
    """
    config = {name: dataclasses.asdict(value) for name, value in settings.items()}
    try:
        return CheckpointManager(
            run.address,
            config=config,
            keep=checkpoints.keep,
            best_metric=checkpoints.best_metric or None,
            best_mode=checkpoints.best_mode,
        )
    except CheckpointError as error:
        raise type(error)(f"model_dir: {error}") from error


def check_space(
    run: RunDirectory, checkpoints: CheckpointConfig, manager: CheckpointManager, state: TrainState
) -> None:
    """Fails at the start where the checkpoints of the run would not fit on the disk.

    Args:
      run: its directory; a bucket has no limit.
      checkpoints: how many are kept.
      manager: of the run's checkpoints; those that are there are counted.
      state: arrays or shapes, unboxed.

    Raises:
      ValueError: too little space, with the numbers.
    """
    if run.mirror:
        return
    copies = max(1, checkpoints.keep + 1 - len(manager.steps()))
    needed = tree_bytes(to_checkpoint_tree(state)) * copies
    if (free := shutil.disk_usage(run.files).free) < needed:
        raise ValueError(
            f"model_dir {run.address} has {readable_size(free)} free; {checkpoints.keep} "
            f"checkpoints and the one being written need {readable_size(needed)} more"
        )


def write_trained(
    run: RunDirectory, engine: Engine, variables: Any, initial_path: str | None
) -> None:
    """Writes the parameters that were trained, for runs that froze the rest.

    Args:
      run: its directory.
      engine: of the run.
      variables: {"params", "batch_stats"}, whole on this host.
      initial_path: checkpoint of the frozen rest.
    """
    path, base = run.files / TUNED_FILE, initial_path or ""
    frozen = engine.optimizer.frozen
    count = write_tuned(path, variables, engine.config, frozen=frozen, base=base)
    size = readable_size(path.stat().st_size)
    logger.info("%s: the %d numbers that were trained, %s", run.shown(path), count, size)


def write_settings(
    run_dir: pathlib.Path, engine: Engine, mixture: str, config: str, settings: Mapping[str, object]
) -> None:
    """Writes what the checkpoints need to be read: configuration, vocabulary, model, task.

    Args:
      run_dir: directory of the run.
      engine: of the run.
      mixture: name of the mixture or task.
      config: the whole configuration as text.
      settings: the same by argument of `train`.
    """
    run_tasks.save_cards(run_dir, engine.tasks, mixture, settings)
    engine.write_description(run_dir)
    (run_dir / "config.gin").write_text(config, encoding="utf-8")


# What a run writes besides its checkpoints, and nobody needs to go on.
_SIDE_FILES = (
    "config.gin", "config.json", "goodput.json", "metrics.json", "metrics.jsonl",
    "model_config.json", "placement.txt", "report.html", "source.json",
)  # fmt: skip
_SIDE_DIRECTORIES = (
    "examples", "nonfinite", "predictions", "profile", "report", "submissions", "tensorboard",
    "vocabulary", "work",
)  # fmt: skip


def set_damaged_aside(run_dir: pathlib.Path) -> None:
    """Makes room where files or directories that a run will write anew are something else, or
    broken.

    Args:
      run_dir: directory of the run.
    """
    for names, is_right, wanted in (
        (_SIDE_FILES, pathlib.Path.is_file, "file"),
        (_SIDE_DIRECTORIES, pathlib.Path.is_dir, "directory"),
    ):
        for path in (run_dir / name for name in names):
            if path.exists() and not is_right(path):
                atomic.set_aside(path, f"is no {wanted}")
    path = run_dir / "metrics.json"
    if path.exists() and not isinstance(atomic.parsed(path.read_bytes()), dict):
        atomic.set_aside(path, "is not JSON")
    path = run_dir / "config.gin"
    try:
        if path.exists():
            path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        atomic.set_aside(path, "is no text")


def report_placement(run: RunDirectory, engine: Engine, abstract_state: TrainState) -> None:
    """Logs mesh and memory per device; writes where every parameter lives to `placement.txt`.

    Args:
      run: its directory.
      engine: of the run.
      abstract_state: boxed, from `Engine.abstract_state`.
    """
    for line in placement.placement_summary(abstract_state, engine.mesh, engine.rules):
        logger.info("%s", line)
    text = placement.placement_report(abstract_state, engine.mesh, engine.rules)
    path = run.files / "placement.txt"
    path.write_text(text + "\n", encoding="utf-8")
    logger.info("where every parameter is: %s", run.shown(path))


def dump_batch(
    run_dir: pathlib.Path, number: int, batch: dict[str, np.ndarray], tasks: TaskSet
) -> pathlib.Path:
    """Writes a batch after which the loss was no number: arrays, and texts to look at.

    Args:
      run_dir: directory of the run.
      number: of the batch.
      batch: this host's rows.
      tasks: of the run.

    Returns:
      `nonfinite/batch_<number>.npz`; `.jsonl` beside it has one line per example. With several
      hosts, each writes its own.
    """
    host = f"_host_{jax.process_index()}" if jax.process_count() > 1 else ""
    path = run_dir / "nonfinite" / f"batch_{number}{host}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **cast(dict[str, Any], batch))
    with path.with_suffix(".jsonl").open("w", encoding="utf-8") as file:
        for row, task in enumerate(batch["task_ids"]):
            line = {
                "row": row,
                "task": tasks.tasks[int(task)].name,
                "input": tasks.tokenizer.decode(batch["encoder_input_tokens"][row]),
                "target": tasks.tokenizer.decode(batch["decoder_target_tokens"][row]),
                "weight": float(batch["decoder_loss_weights"][row].sum()),
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path
