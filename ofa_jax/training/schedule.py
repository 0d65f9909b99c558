"""Learning-rate schedules (SPEC 6.2), and that of a Gumbel codebook's temperature (VQGAN_SPEC 7).

A schedule is a pure function of the number of finished updates; the optimizer and the log lines
call the same one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from ofa_jax import schema
from ofa_jax.schema import Between

__all__ = ["Count", "Rate", "Schedule", "ScheduleConfig", "build_schedule"]

Count = Num[Array, "*shape"] | int | float
Schedule = Callable[[Count], Float[Array, "*shape"]]
"""From finished updates to the learning rate."""

Rate = Annotated[float, Between(0, 1000)]


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Settings of the learning rate.

    Attributes:
      peak: learning rate after the warm-up.
      shape: "polynomial" (official), "cosine" or "constant".
      total_steps: updates until `end` is reached; not read by "constant" unless `warmup_ratio`
        is set.
      warmup_steps: updates of linear warm-up from `start`.
      warmup_ratio: the same as a share of `total_steps`; set one of the two.
      start: learning rate of the first update, where there is a warm-up.
      end: final learning rate.
      power: exponent of the polynomial.
    """

    peak: Rate
    shape: Literal["polynomial", "cosine", "constant"] = "polynomial"
    total_steps: Annotated[int, Between(1, 10**9)] | None = None
    warmup_steps: Annotated[int, Between(0, 10**9)] = 0
    warmup_ratio: Annotated[float, Between(0, 1)] = 0.0
    start: Rate = 0.0
    end: Rate = 0.0
    power: Annotated[float, Between(0, 1000)] = 1.0

    def __post_init__(self) -> None:
        schema.check(self, "ScheduleConfig")
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("set warmup_steps or warmup_ratio, not both")
        needs_total = self.shape != "constant" or self.warmup_ratio > 0
        if not needs_total:
            return
        if self.total_steps is None:
            raise ValueError(
                f"the {self.shape} schedule needs total_steps >= 1, got {self.total_steps}"
            )
        if self.warmup > self.total_steps:
            raise ValueError(
                f"warm-up of {self.warmup} steps is longer than the {self.total_steps} steps of "
                "training"
            )

    @property
    def warmup(self) -> int:
        """Warm-up in updates: int(total * ratio), as the official code computes it."""
        if self.warmup_ratio:
            return int((self.total_steps or 0) * self.warmup_ratio)
        return self.warmup_steps


def build_schedule(config: ScheduleConfig) -> Schedule:
    """The learning rate as a function of finished updates (SPEC 6.2).

    With W warm-up updates the rate after n of them is peak * n / W, so the very first update has
    rate 0, or `start`. After `total_steps` the rate stays at `end`.
    """
    warmup, total = config.warmup, config.total_steps or 0

    def schedule(count: Count) -> Float[Array, "*shape"]:
        count = jnp.asarray(count, jnp.float32)
        if config.shape == "constant":
            rate = jnp.full_like(count, config.peak)
        else:
            progress = (count - warmup) / max(1, total - warmup)
            progress = jnp.clip(progress, 0.0, 1.0)
            if config.shape == "cosine":
                remaining = 0.5 * (1.0 + jnp.cos(math.pi * progress))
            else:
                remaining = (1.0 - progress) ** config.power
            rate = config.end + (config.peak - config.end) * remaining
            rate = jnp.where(count >= total, config.end, rate)
        if warmup:
            warm = config.start + (config.peak - config.start) * count / warmup
            rate = jnp.where(count <= warmup, warm, rate)
        return rate

    return schedule
