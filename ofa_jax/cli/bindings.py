"""The names that gin files may use, registered statically under t5x's vocabulary.

gin configures entry points, never library internals: everything here is a small dataclass, a
schedule, or the function behind an entry point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import gin

from ofa_jax.evaluation.run_evaluation import EvaluationConfig
from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.model.config import ResNetConfig, TuningConfig
from ofa_jax.model.vqgan.config import VQGANConfig
from ofa_jax.runs import settings
from ofa_jax.runs.log import LogConfig
from ofa_jax.runs.loss_evaluation import LossEvaluationConfig
from ofa_jax.training.ema import EMAConfig
from ofa_jax.training.image_tokenizer import ImageTokenizerConfig
from ofa_jax.training.optimizer import OptimizerConfig
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.scst import SCSTConfig

# What gin files of both engines bind, by the name that they have in them.
SHARED: dict[str, Callable[..., object]] = {
    "models.OFA": settings.ModelConfig,
    "models.ResNet": ResNetConfig,
    "models.Tuning": TuningConfig,
    "inputs.DatasetConfig": settings.DatasetConfig,
    "evaluation.EvaluationConfig": EvaluationConfig,
    "optimizers.OptimizerConfig": OptimizerConfig,
    "optimizers.ScheduleConfig": ScheduleConfig,
    "partitioning.Partitioner": settings.PartitionerConfig,
    "trainer.Trainer": settings.TrainerConfig,
    "trainer.LossConfig": LossConfig,
    "trainer.EMAConfig": EMAConfig,
    "trainer.SCSTConfig": SCSTConfig,
}


def registered(train: Callable[..., object]) -> dict[str, Callable[..., object]]:
    """Everything that gin can bind, by the name used in gin files.

    Args:
      train: the function behind `python -m ofa_jax.train`.
    """
    return {
        "train_script.train": train,
        "checkpoints.CheckpointConfig": settings.CheckpointConfig,
        "evaluation.LossEvaluationConfig": LossEvaluationConfig,
        "log.LogConfig": LogConfig,
        "models.VQGAN": VQGANConfig,
        "trainer.ImageTokenizerConfig": ImageTokenizerConfig,
        **SHARED,
    }


def register(train: Callable[..., object]) -> dict[str, Callable[..., object]]:
    """Registers the names with gin and forgets all bindings, so that a process can do it again.

    Returns:
      Name in gin files to the configurable function that gin made of it.
    """
    gin.clear_config()
    return register_all(registered(train))


def register_all(names: Mapping[str, Callable[..., object]]) -> dict[str, Callable[..., object]]:
    """Registers names with gin; see `register`."""
    configurables = {}
    for name, function in names.items():
        module, _, short = name.rpartition(".")
        configurables[name] = gin.external_configurable(function, short, module=module)
    return configurables
