"""Small building blocks shared by encoder and decoder: dense, norm, dropout, drop path, init.

Every parameter is created with logical axis names (`nn.with_logical_partitioning`), which the
runner maps onto a mesh. Multi-dimensional `nn.DenseGeneral` breaks under partitioning, so `Dense`
keeps two-dimensional kernels, as the official checkpoints do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Initializer = Callable[..., jax.Array]

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
    """An initialiser whose result carries logical axis names."""
    return nn.with_logical_partitioning(init, tuple(names))


class Dense(nn.Module):
    """Affine map of the last axis (SPEC 1.7: all linear layers have a bias).

    Attributes:
      features: output width.
      axes: logical names of the kernel's input and output axes.
      scale: standard deviation of the initial kernel.
      dtype: type of the computation; parameters are float32.
    """

    features: int
    axes: tuple[str, str]
    scale: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float[..., in] to dtype[..., features]."""
        kernel = self.param(
            "kernel",
            partitioned(nn.initializers.normal(self.scale), self.axes),
            (x.shape[-1], self.features),
        )
        bias = self.param(
            "bias", partitioned(nn.initializers.zeros_init(), self.axes[1:]), (self.features,)
        )
        product = lax.dot_general(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (((x.ndim - 1,), (0,)), ((), ())),
        )
        return product + bias.astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, computed in float32, eps 1e-5 (SPEC 1.8).

    Attributes:
      axis: logical name of the last axis.
      dtype: type of the result.
    """

    axis: str = "embed"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises float[..., d] to dtype[..., d]."""
        d = x.shape[-1]
        scale = self.param("scale", partitioned(nn.initializers.ones_init(), (self.axis,)), (d,))
        bias = self.param("bias", partitioned(nn.initializers.zeros_init(), (self.axis,)), (d,))
        x = x.astype(jnp.float32)
        mean = jnp.mean(x, axis=-1, keepdims=True)
        centred = x - mean
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        y = centred * (lax.rsqrt(variance + LAYER_NORM_EPS) * scale) + bias
        return y.astype(self.dtype)


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
    axes: tuple[str, str]
    scale: float

    @nn.compact
    def __call__(self) -> jax.Array:
        """The whole table, float32[rows, features]."""
        return self.param(
            "embedding",
            partitioned(nn.initializers.normal(self.scale), self.axes),
            (self.rows, self.features),
        )


def residual_scale(module: nn.Module, width: int) -> jax.Array:
    """The parameter `w_resid` of a layer, float32[width], ones (SPEC 1.8; scale_resids only)."""
    init = partitioned(nn.initializers.ones_init(), ("embed",))
    return module.param("residual_scale", init, (width,))


def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) gelu, computed in float32 (SPEC 1.8), in the dtype of `x`."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


def dropout(x: jax.Array, rate: float, rng: jax.Array) -> jax.Array:
    """Zeroes each entry with probability `rate` and divides the rest by 1 - rate.

    16 random bits per entry: half the cost of 32, which a CPU notices; the rate is met to 2^-16.

    Args:
      x: float[...].
      rate: probability in [0, 1).
      rng: PRNG key.

    Returns:
      Array like `x`.
    """
    if rate <= 0.0:
        return x
    bits = jax.random.bits(rng, x.shape, jnp.uint16)
    keep = bits >= jnp.uint16(round(rate * 65536))
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def drop_path(x: jax.Array, rate: jax.Array | float, rng: jax.Array) -> jax.Array:
    """Drops the whole branch of a sample with probability `rate` (SPEC 1.8).

    Args:
      x: float[b, ...] branch output.
      rate: probability in [0, 1), a float or a float32 scalar (scanned layers).
      rng: PRNG key.

    Returns:
      Array like `x`; kept samples are divided by 1 - rate.
    """
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    kept = jax.random.uniform(rng, shape) < keep
    return x * (kept / keep).astype(x.dtype)
