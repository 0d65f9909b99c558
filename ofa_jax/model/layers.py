"""Small building blocks shared by encoder and decoder: dense, norm, dropout, drop path, init.

Every parameter is created with logical axis names (`nn.with_logical_partitioning`), which the
runner maps onto a mesh. Multi-dimensional `nn.DenseGeneral` breaks under partitioning, so `Dense`
keeps two-dimensional kernels, as the official checkpoints do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Float32, PRNGKeyArray

Initializer = Callable[..., Array]
Shaped = Float[Array, "*shape"]
Rows, Vector = Float[Array, "*lead d"], Float[Array, "d"]

LAYER_NORM_EPS = 1e-5
OFFICIAL_SCALE = 0.02
_NARROW = 256


def dense_scale(fan_in: int, fan_out: int, width: int) -> float:
    """Standard deviation of a new dense kernel.

    OFA-NOTE: SPEC 1.10 uses 0.02 everywhere (kept from width 256 on). A narrow model starts with
    vanishing activations at 0.02, so below 256 the Glorot scale is used.
    """
    return OFFICIAL_SCALE if width >= _NARROW else (2.0 / (fan_in + fan_out)) ** 0.5


def embedding_scale(width: int) -> float:
    """Standard deviation of new embedding rows; see `dense_scale` for the narrow widths."""
    return OFFICIAL_SCALE if width >= _NARROW else width**-0.5


def partitioned(init: Initializer, names: Sequence[str | None]) -> Initializer:
    """An initializer whose result carries logical axis names."""
    return cast(Initializer, nn.with_logical_partitioning(init, tuple(names)))


@jax.custom_vjp
def layer_norm(x: Rows, scale: Vector, bias: Vector) -> Float32[Array, "*lead d"]:
    """Normalizes the last axis in float32, eps 1e-5 (SPEC 1.8).

    The backward pass is written out: it keeps the input and two numbers per row, where automatic
    differentiation keeps several arrays of the input's size in float32.
    """
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x: Rows, scale: Vector, bias: Vector) -> tuple[Rows, tuple[Array, ...]]:
    values = x.astype(jnp.float32)
    mean = jnp.mean(values, axis=-1, keepdims=True)
    # Both moments in one pass over the row; a rounding error below 0 must not reach the root.
    variance = jnp.mean(values * values, axis=-1, keepdims=True) - mean * mean
    factor = lax.rsqrt(jnp.maximum(variance, 0.0) + LAYER_NORM_EPS)
    return (values - mean) * factor * scale + bias, (x, mean, factor, scale)


def _layer_norm_backward(saved: tuple[Array, ...], gradient: Rows) -> tuple[Rows, Vector, Vector]:
    x, mean, factor, scale = saved
    normalized = (x.astype(jnp.float32) - mean) * factor
    rows = tuple(range(x.ndim - 1))
    scaled = gradient * scale
    from_mean = jnp.mean(scaled, axis=-1, keepdims=True)
    from_factor = jnp.mean(scaled * normalized, axis=-1, keepdims=True)
    to_x = factor * (scaled - from_mean - normalized * from_factor)
    to_scale = jnp.sum(gradient * normalized, axis=rows)
    return to_x.astype(x.dtype), to_scale, jnp.sum(gradient, axis=rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class Dense(nn.Module):
    """Affine map of the last axis (SPEC 1.7: all linear layers have a bias).

    Attributes:
      features: output width.
      axes: logical names of the kernel's input and output axes.
      scale: standard deviation of the initial kernel.
      dtype: type of the computation; parameters are float32.
      low_rank: (rank, scale) of a learned change `scale * down @ up` of the kernel, or None.
        `up` starts at zero, so a new change is none.
    """

    features: int
    axes: tuple[str | None, str | None]
    scale: float
    dtype: jnp.dtype = jnp.float32
    low_rank: tuple[int, float] | None = None

    @nn.compact
    def weights(self, fan_in: int) -> tuple[Float[Array, "in out"], Float[Array, "out"]]:
        """Kernel and bias in the computation's dtype."""
        init = nn.initializers.normal(self.scale)
        kernel = self.param("kernel", partitioned(init, self.axes), (fan_in, self.features))
        bias = self.param(
            "bias", partitioned(nn.initializers.zeros_init(), self.axes[1:]), (self.features,)
        )
        if self.low_rank is not None:
            rank, scale = self.low_rank
            # The kernel is changed, not the result: so whatever uses these weights need not know.
            normal, zeros = (
                nn.initializers.normal((3 * fan_in) ** -0.5),
                nn.initializers.zeros_init(),
            )
            down = self.param(
                "lora_down", partitioned(normal, (self.axes[0], None)), (fan_in, rank)
            )
            up = self.param(
                "lora_up", partitioned(zeros, (None, self.axes[1])), (rank, self.features)
            )
            kernel = kernel + scale * (down @ up)
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def __call__(self, x: Float[Array, "*lead in"]) -> Float[Array, "*lead {self.features}"]:
        """Maps the last axis; the result has the dtype of the computation."""
        kernel, bias = self.weights(x.shape[-1])
        return contract_last(x.astype(self.dtype), kernel) + bias


def contract_last(
    x: Float[Array, "*lead in"], kernel: Float[Array, "in *out"]
) -> Float[Array, "..."]:
    """One matrix product over the axis `in`: the result is [*lead, *out]."""
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def parallel_dense(
    layers: Sequence[Dense], x: Float[Array, "*lead in"]
) -> list[Float[Array, "*lead features"]]:
    """Applies several dense layers of equal shape to the same input as one matrix product.

    One product of [in, m, features] reads `x` once and its backward pass makes one gradient of
    `x` instead of m; on a CPU that is a quarter of the cost of attention. The kernels are stacked
    on a new axis, not concatenated, so that a sharded feature axis stays where it is.

    Args:
      layers: m layers with the same `features`.
      x: what each of them maps.
    """
    weights = [layer.weights(x.shape[-1]) for layer in layers]
    kernel = jnp.stack([kernel for kernel, _ in weights], axis=1)
    bias = jnp.stack([bias for _, bias in weights])
    y = contract_last(x.astype(kernel.dtype), kernel) + bias
    return [y[..., i, :] for i in range(len(layers))]


class LayerNorm(nn.Module):
    """Layer normalization over the last axis, computed in float32, eps 1e-5 (SPEC 1.8).

    Attributes:
      axis: logical name of the last axis.
      dtype: type of the result.
    """

    axis: str = "embed"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Rows) -> Rows:
        """Normalizes; the result has `dtype`."""
        d = x.shape[-1]
        scale = self.param("scale", partitioned(nn.initializers.ones_init(), (self.axis,)), (d,))
        bias = self.param("bias", partitioned(nn.initializers.zeros_init(), (self.axis,)), (d,))
        return layer_norm(x, scale, bias).astype(self.dtype)


class Table(nn.Module):
    """A learned table of rows: embeddings and position tables.

    Attributes:
      rows: number of rows.
      features: row width.
      axes: logical names of both axes.
      scale: standard deviation of the initial entries.
    """

    rows: int
    features: int
    axes: tuple[str | None, str]
    scale: float

    @nn.compact
    def __call__(self) -> Float[Array, "{self.rows} {self.features}"]:
        """The whole table."""
        init = partitioned(nn.initializers.normal(self.scale), self.axes)
        # Weights may be numpy arrays, which traced ids cannot index.
        return jnp.asarray(self.param("embedding", init, (self.rows, self.features)))


def residual_scale(module: nn.Module, width: int) -> Float[Array, "{width}"]:
    """The parameter `w_resid` of a layer, ones (SPEC 1.8; scale_resids only)."""
    init = partitioned(nn.initializers.ones_init(), ("embed",))
    return module.param("residual_scale", init, (width,))


@jax.custom_vjp
def gelu(x: Shaped) -> Shaped:
    """Exact (erf) gelu, computed in float32 (SPEC 1.8), in the dtype of `x`.

    Only `x` is kept for the backward pass. `jax.nn.gelu` would use erfc, which costs twice as
    much on a CPU, and keep three more arrays.
    """
    values = x.astype(jnp.float32)
    return (values * _normal_cdf(values)).astype(x.dtype)


def _normal_cdf(x: Shaped) -> Shaped:
    return 0.5 + 0.5 * lax.erf(x * 0.5**0.5)


def _gelu_forward(x: Shaped) -> tuple[Shaped, Shaped]:
    return gelu(x), x


def _gelu_backward(x: Shaped, gradient: Shaped) -> tuple[Shaped]:
    values = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * values * values) * (2.0 * np.pi) ** -0.5
    slope = _normal_cdf(values) + values * density
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def dropout(x: Float[Array, "*shape"], rate: float, rng: PRNGKeyArray) -> Float[Array, "*shape"]:
    """Zeroes each entry with probability `rate` and divides the rest by 1 - rate.

    16 random bits per entry: half the cost of 32, which a CPU notices; the rate is met to 2^-16.

    Args:
      x: of any float dtype, which the result keeps.
      rate: probability in [0, 1).
      rng: for this call.
    """
    if rate <= 0.0:
        return x
    bits = jax.random.bits(rng, x.shape, jnp.uint16)
    keep = bits >= jnp.uint16(round(rate * 65536))
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def drop_path(
    x: Float[Array, "b *rest"], rate: Float[Array, ""] | float, rng: PRNGKeyArray
) -> Float[Array, "b *rest"]:
    """Drops the whole branch of a sample with probability `rate` (SPEC 1.8).

    Args:
      x: branch output.
      rate: probability in [0, 1); an array in scanned layers.
      rng: for this call.

    Returns:
      Like `x`; kept samples are divided by 1 - rate.
    """
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    kept = jax.random.uniform(rng, shape) < keep
    return x * (kept / keep).astype(x.dtype)
