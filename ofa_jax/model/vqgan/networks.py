"""Encoder and decoder of the VQGAN (VQGAN_SPEC 2): convolutions, group norm, some attention.

Images are channels-last. Nothing here knows where in an image it is, so one set of weights
serves every size. Names of parameters follow the official ones as far as they say something.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from ofa_jax.model.layers import partitioned
from ofa_jax.model.vqgan.config import VQGANConfig
from ofa_jax.ops.conv import conv2d

Images = Float[Array, "b y x c"]
_NORM_EPS = 1e-6
# The collection of what only training looks at.
TRAINING = "training"
# Logical names of a kernel's axes (`ofa_jax.sharding.rules`).
CONV_AXES = ("conv_h", "conv_w", "conv_in", "conv_out")


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Uniform within 1 / sqrt(fan_in) of zero, for kernels and biases (VQGAN_SPEC 3)."""
    bound = fan_in**-0.5

    def init(key: PRNGKeyArray, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Convolution(nn.Module):
    """Convolution with bias.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel, pixels.
      stride: step, pixels.
      padding: zeros on each side, pixels.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 1

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "b _ _ {self.features}"]:
        """Filters an image."""
        k, c = self.kernel_size, x.shape[-1]
        init = uniform_fan_in(k * k * c)
        kernel = self.param("kernel", partitioned(init, CONV_AXES), (k, k, c, self.features))
        bias = self.param("bias", partitioned(init, CONV_AXES[-1:]), (self.features,))
        return conv2d(x, kernel, stride=self.stride, padding=self.padding) + bias


def pointwise(features: int, name: str | None = None) -> Convolution:
    """A 1x1 convolution."""
    return Convolution(features, kernel_size=1, padding=0, name=name)


def group_norm(name: str, groups: int) -> nn.GroupNorm:
    """The norm of every block: groups of neighboring channels, eps 1e-6.

    The variance is computed in two passes: with one, the official numbers are missed by more than
    their own rounding error.
    """
    return nn.GroupNorm(num_groups=groups, epsilon=_NORM_EPS, use_fast_variance=False, name=name)


class ResidualBlock(nn.Module):
    """Two normalized convolutions beside a shortcut.

    Attributes:
      features: output channels.
      groups: of its norms.
    """

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "b y x {self.features}"]:
        """Changes the channels of every place."""
        h = nn.swish(group_norm("norm1", self.groups)(x))
        h = nn.swish(group_norm("norm2", self.groups)(Convolution(self.features, name="conv1")(h)))
        h = Convolution(self.features, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = pointwise(self.features, "shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention of one head over all places of the image, with a residual.

    Attributes:
      groups: of its norm.
    """

    groups: int

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Lets every place see all others."""
        b, height, width, c = x.shape
        n = group_norm("norm", self.groups)(x)

        def tokens(name: str) -> Float[Array, "b _ c"]:
            return pointwise(c, name)(n).reshape(b, height * width, c)

        query, key, value = tokens("query"), tokens("key"), tokens("value")
        weights = nn.softmax(jnp.einsum("bqd,bkd->bqk", query, key) * c**-0.5)
        attended = jnp.einsum("bqk,bkd->bqd", weights, value).reshape(x.shape)
        return x + pointwise(c, "output")(attended)


def _half_size(x: Images, name: str) -> Float[Array, "b y//2 x//2 c"]:
    """Halves both sides; zeros are added at the bottom and the right only."""
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    return Convolution(x.shape[-1], stride=2, padding=0, name=name)(padded)


def _double_size(x: Images, name: str) -> Float[Array, "b 2*y 2*x c"]:
    """Doubles both sides: every pixel becomes a 2x2 square, then a convolution."""
    repeated = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return Convolution(x.shape[-1], name=name)(repeated)


def _middle(x: Images, groups: int) -> Images:
    """The blocks at the lowest resolution, always with attention."""
    x = ResidualBlock(x.shape[-1], groups, name="mid_block_1")(x)
    x = AttentionBlock(groups, name="mid_attn_1")(x)
    return ResidualBlock(x.shape[-1], groups, name="mid_block_2")(x)


class Encoder(nn.Module):
    """Images to latents."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b y x 3"]) -> Float[Array, "b gy gx d"]:
        """Latents of images in [-1, 1]; the sides are divided by `patch` and rounded down."""
        cfg, groups = self.config, self.config.norm_groups
        h = Convolution(cfg.base_channels, name="conv_in")(images)
        for level, width in enumerate(cfg.widths):
            for block in range(cfg.blocks_per_level):
                h = ResidualBlock(width, groups, name=f"down_{level}_block_{block}")(h)
                if level in cfg.attention_levels:
                    h = AttentionBlock(groups, name=f"down_{level}_attn_{block}")(h)
            if level < len(cfg.widths) - 1:
                h = _half_size(h, f"down_{level}_downsample")
        h = nn.swish(group_norm("norm_out", groups)(_middle(h, groups)))
        return Convolution(cfg.latent_channels, name="conv_out")(h)


class Decoder(nn.Module):
    """Latents to images."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, latents: Float[Array, "b gy gx d"]) -> Float[Array, "b y x 3"]:
        """Images of latents, `patch` times as large and not limited to [-1, 1]."""
        cfg, groups = self.config, self.config.norm_groups
        h = _middle(Convolution(cfg.widths[-1], name="conv_in")(latents), groups)
        for level in reversed(range(len(cfg.widths))):
            for block in range(cfg.blocks_per_level + 1):
                h = ResidualBlock(cfg.widths[level], groups, name=f"up_{level}_block_{block}")(h)
                if level in cfg.attention_levels:
                    h = AttentionBlock(groups, name=f"up_{level}_attn_{block}")(h)
            if level > 0:
                h = _double_size(h, f"up_{level}_upsample")
        h = nn.swish(group_norm("norm_out", groups)(h))
        # Of these the gradient of the last kernel is made (`losses.adversarial.adaptive_weight`).
        self.sow(TRAINING, "features", h)
        return Convolution(3, name="conv_out")(h)
