"""What gin can set: small frozen dataclasses under the names that t5x users know.

Each validates itself and names the gin line to change. Nothing here reads gin; the names are
registered in `ofa_jax.cli.bindings`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from ofa_jax import schema
from ofa_jax.atomic import JsonObject
from ofa_jax.checkpoint.bucket import is_remote
from ofa_jax.data.sources import bucket_file
from ofa_jax.data.tasks.task import LENGTH_KEYS
from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.model.config import SIZES, OFAConfig
from ofa_jax.schema import Between
from ofa_jax.training.ema import EMAConfig
from ofa_jax.training.image_tokenizer import ImageTokenizerConfig
from ofa_jax.training.scst import SCSTConfig

__all__ = [
    "MACROS",
    "BatchSize",
    "CheckpointConfig",
    "DatasetConfig",
    "Length",
    "ModelConfig",
    "PartitionerConfig",
    "Rate",
    "Seed",
    "Steps",
    "TrainerConfig",
    "as_json",
]

# Bounds are far above what is used, and low enough that nothing overflows on the way.
Steps = Annotated[int, Between(0, 10**9)]
Seed = Annotated[int, Between(0, 2**32 - 1)]
Rate = Annotated[float, Between(0, 1e18)]
Length = Annotated[int, Between(0, 1 << 20)]
BatchSize = Annotated[int, Between(1, 1 << 20)]
_Name = Annotated[str, Between(1, 4096)]

# Annotations of the macros of gin files (`ofa_jax.schema`).
MACROS: dict[str, object] = {
    "MIXTURE_OR_TASK_NAME": _Name,
    "MODEL_DIR": _Name,
    "TASK_FEATURE_LENGTHS": Mapping[str, Length] | None,
    "TRAIN_STEPS": Annotated[int, Between(1, 10**9)],
    "BATCH_SIZE": BatchSize,
    "WARMUP_STEPS": Steps,
    "EVAL_PERIOD": Steps,
    "CHECKPOINT_PERIOD": Steps,
    "STATS_PERIOD": Annotated[int, Between(1, 10**9)],
    "KEEP_CHECKPOINTS": Annotated[int, Between(1, 10**6)],
    "BEST_METRIC": str,
    "SAVE_TRAINED": bool,
    "INITIAL_CHECKPOINT_PATH": str | None,
    "MIXTURE_OR_TASK_MODULE": str | Sequence[str],
    **dict.fromkeys(("DATA_DIR", "INFER_OUTPUT_DIR", "CHECKPOINT_PATH"), str),
    **dict.fromkeys(("VOCAB_DIR", "EVAL_OUTPUT_DIR", "INSTRUCTION"), str | None),
    "RANDOM_SEED": Seed,
    "LEARNING_RATE": Annotated[float, Between(0, 1000)],
    "DROPOUT_RATE": Annotated[float, Between(0, 1)],
}


def _check_lengths(lengths: Mapping[str, int]) -> None:
    numbers = [isinstance(value, int) and value > 0 for value in lengths.values()]
    if set(lengths) != set(LENGTH_KEYS) or not all(numbers):
        raise ValueError(
            "DatasetConfig.task_feature_lengths must give positive whole numbers for 'inputs' and "
            f"'targets' (tokens) and 'image' (pixels per side), got {dict(lengths)}"
        )


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """Training input (`DatasetConfig`).

    Attributes:
      mixture_or_task_name: registered name.
      task_feature_lengths: `inputs` and `targets` in tokens, `image` in pixels per side.
      batch_size: global examples per step.
      rates: changed rates of the mixture, by task, data set, prefix of names or family (then the
        total of its tasks); 0 leaves out.
      module: modules to import first, which register tasks and mixtures.
      locations: directories by name, for example {"DATA_DIR": ..., "VOCAB_DIR": ...}; without the
        last one, the vocabulary beside the checkpoint to start from.
      split: split of the sources.
      seed: seed of order, preparation and noise.
      num_workers: worker processes; 0 reads in this process.
      num_threads: reading threads of this process or of each worker.
      rate_by: "declared" mixes by the mixture's rates (and `rates`), "examples" by the number of
        records of each task.
      maximum: largest rate, or largest number of records that counts; None for no limit.
      temperature: rates become rate ** (1 / temperature).
      rate_schedule: step to {task, variant, family or pattern: factor of its rate}, such as
        {0: {"*_apart": 0}}; 1 for those not named.
      rate_interpolation: between these steps, "linear" or "constant".
      buckets: task or family to the lengths that it has instead of `task_feature_lengths`, for
        example {"text_infilling": {"image": 0}}; a batch holds tasks of the same lengths.
      on_bad_record: "error", or "skip" to count it and go on.
      truncated_images: "drop" takes an image that is cut off for a bad record; "decode" trains on
        what there is of it, as the official code does. They are counted either way.
      bucket_cache: directory of this machine that keeps what was read of gs:// data; all processes
        of the machine share it. None: the variable OFA_BUCKET_CACHE, else nothing is kept.
      bucket_cache_gb: its size, in 10^9 bytes. None: the variable OFA_BUCKET_CACHE_GB.
      bucket_read_ahead: requests to a bucket that a process has under way at once. None: the
        variable OFA_BUCKET_READ_AHEAD, else 64.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, Length]
    batch_size: BatchSize
    rates: Mapping[str, Rate] = dataclasses.field(default_factory=dict)
    module: str | Sequence[str] = ()
    locations: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    split: str = "train"
    seed: Seed = 0
    num_workers: Annotated[int, Between(0, 1024)] = 0
    num_threads: Annotated[int, Between(1, 1024)] = 1
    rate_by: Literal["declared", "examples"] = "declared"
    maximum: Annotated[float, Between(1e-9, 1e18)] | None = None
    temperature: Annotated[float, Between(1e-9, 1e9)] = 1.0
    rate_schedule: Mapping[Steps, Mapping[str, Rate]] = dataclasses.field(default_factory=dict)
    rate_interpolation: Literal["linear", "constant"] = "linear"
    buckets: Mapping[str, Mapping[str, Length]] = dataclasses.field(default_factory=dict)
    on_bad_record: Literal["error", "skip"] = "error"
    truncated_images: Literal["drop", "decode"] = "drop"
    bucket_cache: str | None = None
    bucket_cache_gb: Annotated[float, Between(0, 1e9)] | None = None
    bucket_read_ahead: Annotated[int, Between(1, 1 << 16)] | None = None

    def __post_init__(self) -> None:
        schema.check(self, "DatasetConfig")
        _check_lengths(self.task_feature_lengths)
        if self.bucket_cache and is_remote(self.bucket_cache):
            raise ValueError(
                "DatasetConfig.bucket_cache must be a directory on a disk of this machine, got "
                f"{self.bucket_cache!r}"
            )
        self._check_mixing()

    def configure_buckets(self) -> None:
        """Makes the `bucket_` settings those of this process and its workers."""
        bucket_file.configure(
            cache=self.bucket_cache,
            cache_gb=self.bucket_cache_gb,
            read_ahead=self.bucket_read_ahead,
        )

    def _check_mixing(self) -> None:
        if self.rate_by == "examples" and any(self.rates.values()):
            raise ValueError(
                'DatasetConfig.rates: with rate_by = "examples" a rate can only be 0, which '
                "leaves a task out; use rate_schedule = {0: {NAME: FACTOR}} to weigh tasks"
            )
        for name, lengths in self.buckets.items():
            if not set(lengths) <= set(LENGTH_KEYS):
                raise ValueError(
                    f"DatasetConfig.buckets: {name!r} needs lengths by name "
                    f"({', '.join(LENGTH_KEYS)}), got {lengths!r}"
                )

    @property
    def mixing(self) -> dict[str, Any]:
        """What the pipeline needs beyond tasks, lengths and hosts: its arguments by name."""
        names = (
            "rate_by",
            "maximum",
            "temperature",
            "rate_schedule",
            "rate_interpolation",
            "buckets",
            "on_bad_record",
            "truncated_images",
        )
        return {name: getattr(self, name) for name in names}

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules to import, as a tuple."""
        return (self.module,) if isinstance(self.module, str) else tuple(self.module)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Saving and restoring (`CheckpointConfig`).

    Attributes:
      period: steps between checkpoints; 0 saves only at the end.
      keep: newest checkpoints that stay on disk.
      initial_path: a checkpoint of another run whose weights this run starts from.
      best_metric: score of the evaluations during training, such as "cider_d" or
        "captioning/cider_d"; the best checkpoint by it stays, and the final evaluation uses it.
        "" keeps only the newest.
      best_mode: "max" or "min".
      save_trained: write at the end what `OptimizerConfig.frozen` left to train, and
        nothing else, to the small file `tuned.safetensors`.
    """

    period: Steps = 1000
    keep: Annotated[int, Between(1, 10**6)] = 2
    initial_path: str | None = None
    best_metric: str = ""
    best_mode: Literal["max", "min"] = "max"
    save_trained: bool = False

    def __post_init__(self) -> None:
        schema.check(self, "CheckpointConfig")


@dataclasses.dataclass(frozen=True)
class PartitionerConfig:
    """The device mesh (`Partitioner`).

    Attributes:
      mesh: for example "data=8,model=4"; "" puts every device on the data axis. With `dcn_mesh`,
        the mesh of one slice.
      dcn_mesh: axes over the slow network between slices, for example "replica=2"; "" where there
        is one slice, or where `mesh` says it all.
      rules: name of a rule table of `ofa_jax.sharding.rules`.
      additional_rules: (logical axis, mesh axis) pairs that go before the table.
    """

    mesh: str = ""
    dcn_mesh: str = ""
    rules: str = "data_parallel"
    additional_rules: Sequence[Sequence[object]] = ()

    def __post_init__(self) -> None:
        schema.check(self, "Partitioner")


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How a step is taken (`Trainer`).

    Attributes:
      num_microbatches: gradient accumulation; 1 takes the batch at once.
      loss: the training loss (`LossConfig`).
      ema: the moving average of the weights (`EMAConfig`); None or a decay of 0 keeps none.
      scst: self-critical training of captions in place of cross entropy (`SCSTConfig`).
      image_tokenizer: the losses of an image tokenizer (`ImageTokenizerConfig`), where the model
        is one.
      profile_start: finished steps when the profiler starts to record.
      profile_steps: steps that it records into the directory `profile` of the run; 0 records none.
    """

    num_microbatches: Annotated[int, Between(1, 1 << 20)] = 1
    loss: LossConfig = LossConfig()
    ema: EMAConfig | None = None
    scst: SCSTConfig | None = None
    image_tokenizer: ImageTokenizerConfig | None = None
    profile_start: Steps = 10
    profile_steps: Steps = 0

    def __post_init__(self) -> None:
        schema.check(self, "Trainer")

    @property
    def averages(self) -> bool:
        """Whether a moving average of the weights is kept."""
        return self.ema is not None and self.ema.decay > 0


def as_json(settings: Mapping[str, object]) -> JsonObject:
    """Settings as they are kept in a file: dataclasses become objects, None is left out.

    Args:
      settings: dataclasses and plain values by name.
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {str(key): plain(one) for key, one in value.items() if one is not None}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return value if isinstance(value, bool | int | float | str) else str(value)

    return plain(settings)


# These follow from the tokenizer of the tasks.
_VOCABULARY_FIELDS = ("vocab_size", "padded_vocab_size", "num_codes")


class _ModelMethods:
    """What `ModelConfig` adds to its fields."""

    size: str

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"OFA.size: no size {self.size!r}; known: {', '.join(SIZES)}")
        schema.check(self, "OFA")
        self.build()

    def build(self, **vocabulary: Any) -> OFAConfig:
        """The configuration of the model.

        Args:
          **vocabulary: `vocab_size`, `padded_vocab_size` and `num_codes` of the tasks' tokenizer.

        Returns:
          The named size with the fields that are not None.
        """
        given: dict[str, Any] = {
            name: value
            for name, value in vars(self).items()
            if name != "size" and value is not None
        }
        return dataclasses.replace(SIZES[self.size], **given, **vocabulary)


_TYPES = typing.get_type_hints(OFAConfig, include_extras=True)

# `OFA`: a named size, and every field of OFAConfig that a run may change (None = as in the
# table of sizes).
ModelConfig = dataclasses.make_dataclass(
    "ModelConfig",
    [
        ("size", str, dataclasses.field(default="nano")),
        *(
            (field.name, _TYPES[field.name] | None, dataclasses.field(default=None))
            for field in dataclasses.fields(OFAConfig)
            if field.name not in _VOCABULARY_FIELDS
        ),
    ],
    bases=(_ModelMethods,),
    frozen=True,
)
# Where gin finds it.
ModelConfig.__module__ = __name__
