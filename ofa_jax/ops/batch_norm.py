"""Batch normalization by the statistics of the batch.

Used by `ofa_jax.model.resnet`. On a CPU it is bound by memory: the statistics are taken in one pass
over the images, and the backward pass, which is written out, reads them twice and keeps nothing
else of their size. On TPU and GPU the compiler fuses the plain form, which is right there.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Images, Channels = Float[Array, "b y x c"], Float[Array, "c"]
_AXES = (0, 1, 2)


def batch_norm(
    x: Images,
    scale: Channels,
    bias: Channels,
    *,
    eps: float,
    implementation: str = "auto",
) -> tuple[Images, Channels, Channels]:
    """Normalizes each channel by its mean and variance over b, y, x, in float32.

    Args:
      x: of any float dtype.
      scale: of each channel, float32.
      bias: of each channel, float32.
      eps: added to the variance.
      implementation: "xla" (mean, then variance), "one_pass" (both at once), or "auto": "one_pass"
        on CPU, "xla" elsewhere.

    Returns:
      The result in the dtype of `x`; mean and biased variance, without gradient.

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
    x: Images, scale: Channels, bias: Channels, eps: float
) -> tuple[Images, Channels, Channels]:
    return _forward(x, scale, bias, eps)[0]


def _forward(
    x: Images, scale: Channels, bias: Channels, eps: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    values = x.astype(jnp.float32)
    # E[v^2] - E[v]^2 loses the digits by which mean and deviation differ, so both are taken of the
    # distance to a value in the midst: the batch's own, which unlike a running mean is never old.
    midst = jnp.mean(values[:, x.shape[1] // 2, x.shape[2] // 2], axis=0)
    count = x.shape[0] * x.shape[1] * x.shape[2]
    total, squares = _sums(values - midst, jnp.square(values - midst))
    offset = total / count
    variance = jnp.maximum(squares / count - offset * offset, 0.0)
    deviation = lax.rsqrt(variance + eps)
    y = (values - midst - offset) * (deviation * scale) + bias
    return (y.astype(x.dtype), midst + offset, variance), (x, midst, offset, deviation, scale)


def _backward(
    eps: float, saved: tuple[Array, ...], gradients: tuple[Array, Array, Array]
) -> tuple[Images, Channels, Channels]:
    x, midst, offset, deviation, scale = saved
    values, gradient = x.astype(jnp.float32), gradients[0].astype(jnp.float32)
    count = x.shape[0] * x.shape[1] * x.shape[2]
    to_bias, products = _sums(gradient, gradient * (values - midst))
    to_scale = (products - offset * to_bias) * deviation
    normalized = (values - midst - offset) * deviation
    to_x = (deviation * scale) * (gradient - (to_bias + normalized * to_scale) / count)
    return to_x.astype(x.dtype), to_scale, to_bias


_one_pass.defvjp(_forward, _backward)


def _sums(first: Images, second: Images) -> tuple[Channels, Channels]:
    """Sums of two arrays over b, y, x.

    One reduction of both, which takes the values where they are made: separate sums would have
    them written first. By rows at first, so that it is spread over threads and stays in caches.
    """

    def add(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        return one[0] + other[0], one[1] + other[1]

    zero = jnp.float32(0.0)
    rows = lax.reduce((first, second), (zero, zero), add, (2,))
    return jnp.sum(rows[0], axis=(0, 1)), jnp.sum(rows[1], axis=(0, 1))
