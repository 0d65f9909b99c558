"""What gin can set: small frozen dataclasses under the names that t5x users know.

Each validates itself and names the gin line to change. Nothing here reads gin; the names are
registered in `ofa_jax.cli.bindings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

LENGTH_KEYS = ("inputs", "targets", "image")


def _check_lengths(lengths: Mapping[str, int]) -> None:
    numbers = [isinstance(value, int) and value > 0 for value in lengths.values()]
    if set(lengths) != set(LENGTH_KEYS) or not all(numbers):
        raise ValueError(
            "TASK_FEATURE_LENGTHS must give positive whole numbers for 'inputs' and 'targets' "
            f"(tokens) and 'image' (pixels per side), got {dict(lengths)}"
        )


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """Training input (`utils.DatasetConfig`).

    Attributes:
      mixture_or_task_name: registered name.
      task_feature_lengths: `inputs` and `targets` in tokens, `image` in pixels per side.
      batch_size: global examples per step.
      rates: changed rates of the mixture, by task or family; 0 leaves a task out.
      module: modules to import first, which register tasks and mixtures.
      split: split of the sources.
      seed: seed of order, preparation and noise.
      num_workers: worker processes; 0 reads in this process.
      num_threads: reading threads where there are no workers.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    batch_size: int
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    module: str | Sequence[str] = ()
    split: str = "train"
    seed: int = 0
    num_workers: int = 0
    num_threads: int = 1

    def __post_init__(self) -> None:
        _check_lengths(self.task_feature_lengths)
        if self.batch_size < 1:
            raise ValueError(f"BATCH_SIZE must be positive, got {self.batch_size}")
        if self.num_workers < 0 or self.num_threads < 1:
            raise ValueError("utils.DatasetConfig: num_workers >= 0 and num_threads >= 1 expected")

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules to import, as a tuple."""
        return (self.module,) if isinstance(self.module, str) else tuple(self.module)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Generation on held-out examples (`utils.EvaluationConfig`).

    Attributes:
      batch_size: examples per generation step.
      num_examples: per task, during training.
      final_num_examples: per task of the mixture, after training; 0 skips the final evaluation.
      split: split of both.
      extra_splits: further splits of the final evaluation, split to examples per task; every task
        of the mixture must have them.
      unseen_tasks: tasks that are evaluated but never trained.
      unseen_task_seeds: evaluation seeds over which their scores are averaged.
      beam_size: 1 is greedy.
      bounds: task to (floor, aim) of its headline metric, shown in the report.
    """

    batch_size: int = 128
    num_examples: int = 128
    final_num_examples: int = 512
    split: str = "validation"
    extra_splits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unseen_tasks: Sequence[str] = ()
    unseen_task_seeds: int = 3
    beam_size: int = 1
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_examples", "unseen_task_seeds", "beam_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"utils.EvaluationConfig.{name} must be positive, got {getattr(self, name)}"
                )
        if isinstance(self.unseen_tasks, str):
            raise ValueError(
                "utils.EvaluationConfig.unseen_tasks must be a list of names, such as "
                f"({self.unseen_tasks!r},)"
            )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Saving and restoring (`utils.CheckpointConfig`).

    Attributes:
      period: steps between checkpoints; 0 saves only at the end.
      keep: newest checkpoints that stay on disk.
      initial_path: a checkpoint of another run whose weights this run starts from.
    """

    period: int = 1000
    keep: int = 2
    initial_path: str | None = None

    def __post_init__(self) -> None:
        if self.period < 0 or self.keep < 1:
            raise ValueError("utils.CheckpointConfig: period >= 0 and keep >= 1 expected")


@dataclasses.dataclass(frozen=True)
class PartitionerConfig:
    """The device mesh (`partitioning.Partitioner`).

    Attributes:
      mesh: for example "data=8,model=4"; "" puts every device on the data axis.
      rules: name of a rule table of `ofa_jax.sharding.rules`.
    """

    mesh: str = ""
    rules: str = "data_parallel"


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How a step is taken (`trainer.Trainer`).

    Attributes:
      num_microbatches: gradient accumulation; 1 takes the batch at once.
      label_smoothing: SPEC 5.1.
      loss_normalisation: "tokens" or "group" (SPEC 4.6).
      ema_decay: decay of the averaged weights; 0 keeps no average.
      ema_start_step: before it the average is a copy.
    """

    num_microbatches: int = 1
    label_smoothing: float = 0.0
    loss_normalisation: str = "tokens"
    ema_decay: float = 0.0
    ema_start_step: int = 0
