"""Exponential moving average of the weights (SPEC 6.3).

Covers parameters and batch-norm statistics, kept in float32 in the train state; evaluation reads
it instead of the raw weights.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, Shaped

from ofa_jax import schema
from ofa_jax.schema import Between

__all__ = ["EMAConfig", "initial_ema", "update_ema"]


@dataclasses.dataclass(frozen=True)
class EMAConfig:
    """Settings of the average.

    Attributes:
      decay: weight of the old average per update.
      start_step: updates before this one copy the weights instead.
    """

    decay: Annotated[float, Between(0, 0.9999999)] = 0.9999
    start_step: Annotated[int, Between(0, 10**9)] = 0

    def __post_init__(self) -> None:
        schema.check(self, "EMAConfig")


def initial_ema(params: PyTree, batch_stats: PyTree) -> dict[str, PyTree]:
    """A copy of the weights in float32.

    Returns:
      {"params": ..., "batch_stats": ...} of new arrays; integers keep their type.
    """

    def copy(leaf: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.array(leaf, dtype=jnp.float32 if floating else leaf.dtype, copy=True)

    return jax.tree.map(copy, {"params": params, "batch_stats": batch_stats})


def update_ema(
    ema: dict[str, PyTree],
    params: PyTree,
    batch_stats: PyTree,
    step: Int[Array, ""] | int,
    config: EMAConfig,
) -> dict[str, PyTree]:
    """decay * average + (1 - decay) * weights (SPEC 6.3).

    Args:
      ema: from `initial_ema` or the previous update.
      params: parameters after the update.
      batch_stats: statistics after the update.
      step: finished updates including this one.

    Returns:
      The new average; integer leaves are copied.
    """
    decay = jnp.where(step < config.start_step, 0.0, config.decay).astype(jnp.float32)

    def average(
        old: Shaped[Array, "*shape"], new: Shaped[Array, "*shape"]
    ) -> Shaped[Array, "*shape"]:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        new = new.astype(jnp.float32)
        # In this form the average of weights that never change is those weights to the bit.
        return new + decay * (old - new)

    return jax.tree.map(average, ema, {"params": params, "batch_stats": batch_stats})
