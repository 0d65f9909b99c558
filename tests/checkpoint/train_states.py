"""Train states for tests of checkpoints."""

import jax.numpy as jnp

from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState


def make_state(step=0, ema=True, frozen=()):
    """A state whose every float is its step, so that mixing two checkpoints would show."""
    tx, _ = build_optimizer(
        OptimizerConfig(ScheduleConfig(peak=0.1, shape="constant"), frozen=frozen)
    )
    params = {"a": {"kernel": jnp.full((4, 3), step, jnp.float32)}, "b": jnp.full(2, 1.0 * step)}
    statistics = {"norm": {"mean": jnp.full(3, 1.0 * step)}}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        opt_state=tx.init(params),
        batch_stats=statistics,
        ema={"params": params, "batch_stats": statistics} if ema else None,
    )
