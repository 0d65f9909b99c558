"""The discriminator of an image tokenizer: scores of overlapping patches (VQGAN_SPEC 6).

Its parameters are `conv_<n>` and `norm_<n>`; `ofa_jax.checkpoint.vqgan` knows the official names.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ofa_jax.model.layers import partitioned
from ofa_jax.model.vqgan.networks import CONV_AXES, uniform_fan_in
from ofa_jax.ops.batch_norm import batch_norm
from ofa_jax.ops.conv import conv2d

Images = Float[Array, "b y x c"]
_KERNEL = 4
_SLOPE = 0.2
_NORM_EPS = 1e-5
_MOMENTUM = 0.9
# The width doubles per layer, up to this multiple of the first.
_WIDEST = 8


class PatchConvolution(nn.Module):
    """A 4 x 4 convolution, padded by one pixel.

    Attributes:
      features: output channels.
      stride: step, pixels.
      use_bias: whether it has one.
    """

    features: int
    stride: int
    use_bias: bool

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "b _ _ {self.features}"]:
        """Filters an image."""
        shape = (_KERNEL, _KERNEL, x.shape[-1], self.features)
        init = nn.initializers.normal(0.02)
        kernel = self.param("kernel", partitioned(init, CONV_AXES), shape)
        y = conv2d(x, kernel, stride=self.stride, padding=1)
        if not self.use_bias:
            return y
        init = uniform_fan_in(int(np.prod(shape[:3])))
        return y + self.param("bias", partitioned(init, CONV_AXES[-1:]), (self.features,))


class PatchNorm(nn.Module):
    """Batch norm over the global batch; running statistics in the collection `batch_stats`."""

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Images:
        """Normalizes each channel."""
        c, axes = x.shape[-1], CONV_AXES[-1:]

        def around_one(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
            return 1.0 + 0.02 * jax.random.normal(key, shape)

        scale = self.param("scale", partitioned(around_one, axes), (c,))
        bias = self.param("bias", partitioned(nn.initializers.zeros_init(), axes), (c,))
        mean = self.variable("batch_stats", "mean", partitioned(lambda: jnp.zeros((c,)), axes))
        var = self.variable("batch_stats", "var", partitioned(lambda: jnp.ones((c,)), axes))
        if not train:
            return (x - mean.value) * lax.rsqrt(var.value + _NORM_EPS) * scale + bias
        y, of_batch, variance = batch_norm(x, scale, bias, eps=_NORM_EPS)
        if not self.is_initializing():
            count = np.prod(x.shape[:3])
            unbiased = variance * (count / max(1, count - 1))
            mean.value = _MOMENTUM * mean.value + (1 - _MOMENTUM) * of_batch
            var.value = _MOMENTUM * var.value + (1 - _MOMENTUM) * unbiased
        return y


class PatchDiscriminator(nn.Module):
    """Scores patches of images, high for originals.

    Attributes:
      channels: of the first layer.
      layers: that halve the sides.
    """

    channels: int = 64
    layers: int = 3

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> Float[Array, "b gy gx 1"]:
        """Scores.

        Args:
          images: in [-1, 1].
          train: whether to normalize by the batch, and to update the running statistics.

        Returns:
          One score per patch; sides of 256 pixels give 30.
        """

        def convolution(number: int, features: int, stride: int, bias: bool) -> PatchConvolution:
            return PatchConvolution(features, stride, bias, name=f"conv_{number}")

        h = nn.leaky_relu(convolution(0, self.channels, 2, True)(images), _SLOPE)
        for number in range(1, self.layers + 1):
            width = self.channels * min(2**number, _WIDEST)
            h = convolution(number, width, 2 if number < self.layers else 1, False)(h)
            h = nn.leaky_relu(PatchNorm(name=f"norm_{number}")(h, train), _SLOPE)
        return convolution(self.layers + 1, 1, 1, True)(h)
