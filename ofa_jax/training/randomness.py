"""Random streams: every key is the run's base key with a step and a stream name folded in.

No key is carried from step to step, so a resumed run draws what the uninterrupted one would have.
"""

from __future__ import annotations

import zlib

import jax

MODEL_STREAMS = ("dropout", "patches")


def stream_key(rng: jax.Array, name: str, step: jax.Array | int | None = None) -> jax.Array:
    """The key of a named stream at a step.

    Args:
      rng: base key of the run.
      name: stream name, for example "dropout".
      step: finished updates; None for streams that are drawn once.

    Returns:
      A key.
    """
    if step is not None:
        rng = jax.random.fold_in(rng, step)
    return jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def model_keys(rng: jax.Array, step: jax.Array | int) -> dict[str, jax.Array]:
    """The keys that a training forward pass takes: "dropout" and "patches".

    Args:
      rng: base key of the run.
      step: finished updates.

    Returns:
      Key by stream name.
    """
    return {name: stream_key(rng, name, step) for name in MODEL_STREAMS}
