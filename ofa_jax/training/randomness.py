"""Random streams: every key is the run's base key with a step and a stream name folded in.

No key is carried from step to step, so a resumed run draws what the uninterrupted one would have.
"""

from __future__ import annotations

import zlib

import jax
from jaxtyping import Array, Int, PRNGKeyArray

MODEL_STREAMS = ("dropout", "patches")


def stream_key(
    rng: PRNGKeyArray, name: str, step: Int[Array, ""] | int | None = None
) -> PRNGKeyArray:
    """The key of a named stream at a step.

    Args:
      rng: base key of the run.
      name: stream name, for example "dropout".
      step: finished updates; None for streams that are drawn once.
    """
    if step is not None:
        rng = jax.random.fold_in(rng, step)
    return jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def model_keys(rng: PRNGKeyArray, step: Int[Array, ""] | int) -> dict[str, PRNGKeyArray]:
    """The keys that a training forward pass takes: "dropout" and "patches".

    Args:
      rng: base key of the run.
      step: finished updates.

    Returns:
      PRNGKeyArray by stream name.
    """
    return {name: stream_key(rng, name, step) for name in MODEL_STREAMS}
