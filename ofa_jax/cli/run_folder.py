"""The folder of a run: whether it can be written, and what is put there at the start."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import re
import shutil
from typing import Any, cast

import jax
import numpy as np

from ofa_jax.checkpoint.errors import CheckpointError
from ofa_jax.checkpoint.manager import CheckpointManager, readable_size, tree_bytes
from ofa_jax.checkpoint.orbax_weights import write_model_config
from ofa_jax.checkpoint.tuned import TUNED_FILE, write_tuned
from ofa_jax.cli import gin_files, run_tasks
from ofa_jax.cli.engine import Engine
from ofa_jax.cli.settings import CheckpointConfig
from ofa_jax.sharding import placement
from ofa_jax.training.state import to_checkpoint_tree

logger = logging.getLogger("ofa_jax")

_MOUNTS = {"gs": "gcsfuse {bucket} /mnt/{bucket}", "s3": "mount-s3 {bucket} /mnt/{bucket}"}


def is_primary() -> bool:
    """Whether this process writes what a run has once: one of all hosts does."""
    return jax.process_index() == 0


def local_folder(model_dir: str) -> pathlib.Path:
    """MODEL_DIR as a path of the file system.

    Args:
      model_dir: the setting.

    Raises:
      ValueError: an address such as gs://bucket/run, which needs its driver to be a folder.
    """
    address = re.match(r"^(\w+)://([^/]+)/?(.*)$", model_dir)
    if address is None:
        return pathlib.Path(model_dir)
    scheme, bucket, rest = address.groups()
    mount = _MOUNTS.get(scheme, "its FUSE driver").format(bucket=bucket)
    raise ValueError(
        f"MODEL_DIR {model_dir} is remote, and no driver makes {scheme}:// a folder here; mount it "
        f"on every host ({mount}) and set MODEL_DIR='/mnt/{bucket}/{rest}'"
    )


def open_manager(
    run_dir: pathlib.Path, checkpoints: CheckpointConfig, **settings: Any
) -> CheckpointManager:
    """Opens the checkpoints of a run.

    Args:
      run_dir: folder of the run; made where it does not exist.
      checkpoints: how many to keep.
      **settings: dataclasses that another run's folder may not differ in, by name.

    Raises:
      CheckpointError: the folder cannot be written, or holds another model or vocabulary.
    """
    config = {name: dataclasses.asdict(value) for name, value in settings.items()}
    try:
        return CheckpointManager(
            run_dir,
            config=config,
            keep=checkpoints.keep,
            best_metric=checkpoints.best_metric or None,
            best_mode=checkpoints.best_mode,
        )
    except CheckpointError as error:
        raise type(error)(f"MODEL_DIR: {error}") from error


def check_space(
    run_dir: pathlib.Path, checkpoints: CheckpointConfig, manager: CheckpointManager, state: Any
) -> None:
    """Fails at the start where the checkpoints of the run would not fit on the disk.

    Args:
      run_dir: folder of the run.
      checkpoints: how many are kept.
      manager: of the run's checkpoints; those that are there are counted.
      state: arrays or shapes, unboxed.

    Raises:
      ValueError: too little space, with the numbers.
    """
    copies = max(1, checkpoints.keep + 1 - len(manager.steps()))
    needed = tree_bytes(to_checkpoint_tree(state)) * copies
    if (free := shutil.disk_usage(run_dir).free) < needed:
        raise ValueError(
            f"MODEL_DIR {run_dir} has {readable_size(free)} free; {checkpoints.keep} "
            f"checkpoints and the one being written need {readable_size(needed)} more"
        )


def write_trained(
    run_dir: pathlib.Path, engine: Engine, variables: Any, initial_path: str | None
) -> None:
    """Writes the parameters that were trained, for runs that froze the rest.

    Args:
      run_dir: folder of the run.
      engine: of the run.
      variables: {"params", "batch_stats"}, whole on this host.
      initial_path: checkpoint of the frozen rest.
    """
    path, base = run_dir / TUNED_FILE, initial_path or ""
    frozen = engine.optimizer.frozen
    count = write_tuned(path, variables, engine.config, frozen=frozen, base=base)
    size = readable_size(path.stat().st_size)
    logger.info("%s: the %d numbers that were trained, %s", path, count, size)


def write_settings(run_dir: pathlib.Path, engine: Engine) -> None:
    """Writes what the checkpoints need to be read: configuration, vocabulary, model.

    Args:
      run_dir: folder of the run.
      engine: of the run.
    """
    run_tasks.save_vocabulary(run_dir, engine.tasks.tokenizer)
    write_model_config(run_dir, engine.config)
    (run_dir / "config.gin").write_text(gin_files.resolved(), encoding="utf-8")


def report_placement(run_dir: pathlib.Path, engine: Engine, abstract_state: Any) -> None:
    """Logs mesh and memory per device; writes where every parameter lives to `placement.txt`.

    Args:
      run_dir: folder of the run.
      engine: of the run.
      abstract_state: boxed, from `Engine.abstract_state`.
    """
    for line in placement.placement_summary(abstract_state, engine.mesh, engine.rules):
        logger.info("%s", line)
    text = placement.placement_report(abstract_state, engine.mesh, engine.rules)
    path = run_dir / "placement.txt"
    path.write_text(text + "\n", encoding="utf-8")
    logger.info("where every parameter is: %s", path)


def dump_batch(
    run_dir: pathlib.Path, number: int, batch: dict[str, np.ndarray], tasks: run_tasks.RunTasks
) -> pathlib.Path:
    """Writes a batch after which the loss was no number: arrays, and texts to look at.

    Args:
      run_dir: folder of the run.
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
