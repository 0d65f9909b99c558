"""Batch normalisation by the statistics of the batch.

Used by `ofa_jax.model.resnet`. On a CPU it is bound by memory: the statistics are taken in one pass
over the images, and the backward pass, which is written out, reads them twice and keeps nothing
else of their size. On TPU and GPU the compiler fuses the plain form, which is right there.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

_AXES = (0, 1, 2)


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    eps: float,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by its mean and variance over b, y, x, in float32.

    Args:
      x: float[b, y, x, c].
      scale: float32[c].
      bias: float32[c].
      eps: added to the variance.
      implementation: "xla" (mean, then variance), "one_pass" (both at once), or "auto": "one_pass"
        on CPU, "xla" elsewhere.

    Returns:
      The result in the dtype of `x`; mean and biased variance float32[c], without gradient.

    Raises:
      ValueError: if the implementation is unknown.
    """
    if implementation == "auto":
        implementation = "one_pass" if jax.default_backend() == "cpu" else "xla"
    if implementation == "one_pass":
        return _one_pass(x, scale, bias, eps)
    if implementation != "xla":
        raise ValueError(
            f"batch norm implementation must be auto, one_pass or xla, got {implementation!r}"
        )
    values = x.astype(jnp.float32)
    mean = jnp.mean(values, axis=_AXES)
    variance = jnp.mean(jnp.square(values - mean), axis=_AXES)
    factor = scale * lax.rsqrt(variance + eps)
    y = (values * factor + (bias - mean * factor)).astype(x.dtype)
    return y, lax.stop_gradient(mean), lax.stop_gradient(variance)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _one_pass(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _forward(x, scale, bias, eps)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    values = x.astype(jnp.float32)
    # E[v^2] - E[v]^2 loses the digits by which mean and deviation differ, so both are taken of the
    # distance to a value in the midst: the batch's own, which unlike a running mean is never old.
    midst = jnp.mean(values[:, x.shape[1] // 2, x.shape[2] // 2], axis=0)
    distance = values - midst
    offset, square = _mean(distance), _mean(distance * distance)
    variance = jnp.maximum(square - offset * offset, 0.0)
    deviation = lax.rsqrt(variance + eps)
    y = (distance - offset) * (deviation * scale) + bias
    return (y.astype(x.dtype), midst + offset, variance), (x, midst, offset, deviation, scale)


def _backward(
    eps: float, saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, midst, offset, deviation, scale = saved
    gradient = gradients[0].astype(jnp.float32)
    normalised = (x.astype(jnp.float32) - midst - offset) * deviation
    from_mean, from_deviation = _mean(gradient), _mean(gradient * normalised)
    to_x = (deviation * scale) * (gradient - from_mean - normalised * from_deviation)
    count = x.shape[0] * x.shape[1] * x.shape[2]
    return to_x.astype(x.dtype), count * from_deviation, count * from_mean


_one_pass.defvjp(_forward, _backward)


def _mean(values: jax.Array) -> jax.Array:
    return jnp.mean(values, axis=_AXES)
