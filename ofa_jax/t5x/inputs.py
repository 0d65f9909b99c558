"""grain as t5x's training input.

`grain_dataset` is a drop-in for `t5x.utils.get_dataset` (gin: `train_script.train.get_dataset_fn`).
Batch t is the one that the native runner trains at step t, so the position of the input is the
number of finished steps: it is taken from the newest checkpoint of the run, whichever engine wrote
it, and no state of the input needs to be saved. Where a run takes over the step of another one, in
an empty directory, the trainer moves the input there (`place`).

With a saved iterator t5x loses one batch when it restarts from `checkpoint_0` (T5X 2.8); here it
does not.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from clu.data.dataset_iterator import ArraySpec, DatasetIterator
from etils import epath
from t5x import checkpoints, utils  # pyrefly: ignore[missing-import]

from ofa_jax.checkpoint.bucket import is_remote
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.errors import started
from ofa_jax.runs import tasks as run_tasks
from ofa_jax.runs.settings import DatasetConfig

__all__ = [
    "DatasetConfig",
    "GrainIterator",
    "grain_dataset",
    "place",
    "seqio_dataset",
    "start_step",
]


class GrainIterator(DatasetIterator):
    """Batches of a mixture from a given step on, in clu's interface."""

    def __init__(self, pipeline: MixturePipeline, start_step: int = 0) -> None:
        """Starts at a batch.

        Args:
          pipeline: of this host.
          start_step: number of the first batch.
        """
        self._pipeline = pipeline
        self._start = start_step
        self._spec = {
            key: ArraySpec(value.dtype, value.shape) for key, value in pipeline.batch(0).items()
        }
        self._seek(start_step)

    def _seek(self, step: int) -> None:
        self._next_step = step
        self._batches = self._pipeline.iterate(step)

    def __next__(self) -> dict[str, np.ndarray]:
        # In t5x's main thread: it reads ahead in another one, where this says nothing.
        started()
        batch = next(self._batches)
        self._next_step += 1
        return batch

    @property
    def start(self) -> int:
        """Number of the batch where it started."""
        return self._start

    def start_at(self, step: int) -> None:
        """Makes `reset` go to another batch."""
        self._start = step

    def reset(self) -> None:
        """Goes back to where it started."""
        self._seek(self._start)

    @property
    def element_spec(self) -> dict[str, ArraySpec]:
        """Shapes and types of this host's part of a batch."""
        return self._spec

    def save(self, filename: str | os.PathLike) -> None:
        """Writes the number of the next batch to `<filename>.json`."""
        _state_file(filename).write_text(
            json.dumps({"next_step": self._next_step}), encoding="utf-8"
        )

    def restore(self, filename: str | os.PathLike) -> None:
        """Reads what `save` wrote."""
        self._seek(json.loads(_state_file(filename).read_text(encoding="utf-8"))["next_step"])


def _state_file(filename: str | os.PathLike) -> epath.Path:
    return epath.Path(f"{os.fspath(filename)}.json")


def start_step(model_dir: str) -> int:
    """The step from which t5x goes on in a directory: that of its newest checkpoint, else 0."""
    is_there = is_remote(model_dir) or os.path.isdir(model_dir)
    steps = checkpoints.all_steps(model_dir) if is_there else []
    return max(steps, default=0)


def place(batches: Any, step: int) -> None:
    """Makes the input of a run start at the step of its train state: the one rule for both.

    Args:
      batches: t5x's iterator, which nothing was taken from.
      step: finished steps.
    """
    inner = batches
    while (below := getattr(inner, "_it", None) or getattr(inner, "iterator", None)) is not None:
        inner = below
    if isinstance(inner, GrainIterator) and inner.start != step:
        inner.start_at(step)
        batches.reset()  # with what was read ahead


def _agreed(dataset: DatasetConfig, cfg: utils.DatasetConfig) -> DatasetConfig:
    """Our settings, which t5x's must agree with: both read the same macros.

    Raises:
      ValueError: they do not, so that one of the two would be ignored.
    """
    if cfg.seed is None:
        cfg = dataclasses.replace(cfg, seed=dataset.seed)
    for name in ("mixture_or_task_name", "task_feature_lengths", "batch_size", "seed", "split"):
        ours, theirs = getattr(dataset, name), getattr(cfg, name)
        if ours != theirs:
            remedy = "set both" if name == "split" else f"set {name.upper()}, which both read"
            raise ValueError(
                f"train/utils.DatasetConfig.{name} is {theirs!r}, inputs.DatasetConfig.{name} "
                f"{ours!r}: {remedy}"
            )
    return dataset


def seqio_dataset(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., object],
    *,
    dataset: DatasetConfig,
    **others: Any,
) -> object:
    """t5x's stock training input, for `train_script.train.get_dataset_fn`.

    Args:
      cfg: t5x's settings.
      shard_id: index of this host among those that read.
      num_shards: number of hosts that read.
      feature_converter_cls: of the model.
      dataset: `inputs.DatasetConfig` in gin, of which mixtures of seqio can follow only a part.
      **others: of `t5x.utils.get_dataset`.

    Raises:
      ValueError: a setting that only grain follows, or one that t5x has differently.
    """
    _agreed(dataset, cfg)
    for name, value in {"rates": dataset.rates, **dataset.mixing}.items():
        if value != DatasetConfig.__dataclass_fields__[name].default and value:
            raise ValueError(
                f"inputs.DatasetConfig.{name}: seqio's input cannot follow it; leave it out, or "
                "read through grain (train_script.train.get_dataset_fn = @inputs.grain_dataset)"
            )
    return utils.get_dataset(cfg, shard_id, num_shards, feature_converter_cls, **others)


def grain_dataset(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., Any],
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = False,
    *,
    dataset: DatasetConfig,
    model_dir: str,
) -> GrainIterator:
    """The training input of a run, for `train_script.train.get_dataset_fn`.

    Args:
      cfg: t5x's settings; mixture, lengths, split, batch size and seed must be those of `dataset`.
      shard_id: index of this host among those that read.
      num_shards: number of hosts that read.
      feature_converter_cls: not used, rows come ready.
      num_epochs: not used, the stream has no end.
      continue_from_last_checkpoint: not used, it always does.
      dataset: `inputs.DatasetConfig` in gin; what t5x's settings have no place for: how tasks are
        mixed, modules, readers.
      model_dir: directory of the run.

    Returns:
      The iterator, at the step of the newest checkpoint in `model_dir`.

    Raises:
      ValueError: buckets, whose batches differ in shape; settings that differ; or see
        `run_tasks.load` and `MixturePipeline`.
    """
    del feature_converter_cls, num_epochs, continue_from_last_checkpoint
    settings = _agreed(dataset, cfg)
    if settings.buckets:
        raise ValueError(
            "inputs.DatasetConfig.buckets: t5x compiles one step for batches of one shape; leave "
            "them out, or train with python -m ofa_jax.train"
        )
    tasks = run_tasks.load(settings, None)
    pipeline = MixturePipeline(
        tasks=tasks.tasks,
        rates=tasks.rates,
        lengths=tasks.lengths,
        batch_size=settings.batch_size,
        split=settings.split,
        seed=settings.seed,
        num_hosts=num_shards,
        host=shard_id,
        num_workers=settings.num_workers,
        num_threads=settings.num_threads,
        **settings.mixing,
    )
    return GrainIterator(pipeline, start_step(model_dir))
