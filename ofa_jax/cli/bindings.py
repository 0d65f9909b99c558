"""The names that gin files may use, registered statically under t5x's vocabulary.

gin configures entry points, never library internals: everything here is a small dataclass, a
schedule, or the function behind an entry point.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gin

from ofa_jax.cli import settings
from ofa_jax.model.config import SIZES, OFAConfig, ResNetConfig, TuningConfig
from ofa_jax.training.optimizer import OptimizerConfig
from ofa_jax.training.schedule import ScheduleConfig

# These follow from the tokenizer of the tasks.
_VOCABULARY_FIELDS = ("vocab_size", "padded_vocab_size", "num_codes")


class _ModelMethods:
    """What `ModelConfig` adds to its fields."""

    size: str

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"models.OFA.size: no size {self.size!r}; known: {', '.join(SIZES)}")
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


# `models.OFA`: a named size, and every field of OFAConfig that a run may change (None = as in the
# table of sizes).
ModelConfig = dataclasses.make_dataclass(
    "ModelConfig",
    [
        ("size", str, dataclasses.field(default="nano")),
        *(
            (field.name, Any, dataclasses.field(default=None))
            for field in dataclasses.fields(OFAConfig)
            if field.name not in _VOCABULARY_FIELDS
        ),
    ],
    bases=(_ModelMethods,),
    frozen=True,
)


def registered(train: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Everything that gin can bind, by the name used in gin files.

    Args:
      train: the function behind `python -m ofa_jax.train`.
    """
    return {
        "train_script.train": train,
        "models.OFA": ModelConfig,
        "models.ResNet": ResNetConfig,
        "models.Tuning": TuningConfig,
        "utils.DatasetConfig": settings.DatasetConfig,
        "utils.EvaluationConfig": settings.EvaluationConfig,
        "utils.LossEvaluationConfig": settings.LossEvaluationConfig,
        "utils.CheckpointConfig": settings.CheckpointConfig,
        "utils.LogConfig": settings.LogConfig,
        "utils.create_learning_rate_scheduler": ScheduleConfig,
        "optimizers.OptimizerConfig": OptimizerConfig,
        "partitioning.Partitioner": settings.PartitionerConfig,
        "trainer.Trainer": settings.TrainerConfig,
    }


def register(train: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Registers the names with gin and forgets all bindings, so that a process can do it again.

    Returns:
      Name in gin files to the configurable function that gin made of it.
    """
    gin.clear_config()
    configurables = {}
    for name, function in registered(train).items():
        module, _, short = name.rpartition(".")
        configurables[name] = gin.external_configurable(function, short, module=module)
    return configurables
