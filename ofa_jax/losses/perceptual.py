"""Distance of images in the features of a network that sees (LPIPS, VGG16; VQGAN_SPEC 6).

The features are anyone's: a function from images to maps. `LPIPS` is the official one, of weights
that `ofa_jax.checkpoint.perceptual` reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ofa_jax.ops.conv import conv2d

Images = Float[Array, "b y x 3"]
Features = Callable[[Images], Sequence[Float[Array, "b _ _ _"]]]
"""Images in [-1, 1] to feature maps."""
Perceptual = Callable[[Images, Images], Float[Array, "b"]]
"""Two lists of images in [-1, 1] to the distance of each pair."""

# Of ImageNet's pixels, for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_NORM_EPS = 1e-10

# Convolutions of VGG16 by block; a block begins at half the resolution, its last map is a feature.
VGG16_BLOCKS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)


def scaled(images: Images) -> Images:
    """Images in [-1, 1] as VGG16 wants them."""
    return (images - jnp.asarray(_SHIFT)) / jnp.asarray(_SCALE)


def feature_distance(
    first: Sequence[Float[Array, "b _ _ _"]],
    second: Sequence[Float[Array, "b _ _ _"]],
    weights: Sequence[Float[Array, "_"]] | None = None,
) -> Float[Array, "b"]:
    """Sum over maps of the mean squared difference of normalized features.

    Args:
      first: feature maps; every place of each is divided by its norm over channels.
      second: those of other images.
      weights: of the channels of each map; None weighs all channels 1.
    """

    def normalized(x: Float[Array, "b y x c"]) -> Float[Array, "b y x c"]:
        # The root of 0 has no gradient: relu leaves places where every feature is 0.
        squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
        norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        return x / (norm + _NORM_EPS)

    total = jnp.zeros((len(first[0]),), jnp.float32)
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        squared = jnp.square(normalized(one) - normalized(other))
        if weights is not None:
            squared = squared * weights[index]
        total = total + jnp.mean(jnp.sum(squared, axis=-1), axis=(1, 2))
    return total


@dataclasses.dataclass(frozen=True, eq=False)
class LPIPS:
    """Learned perceptual similarity over VGG16. Its weights are constants.

    OFA-NOTE: VQGAN_SPEC 6. The dropout before the channel weights is left out: the original means
    to evaluate this network, but its training mode turns the dropout on again.

    Attributes:
      convolutions: (kernel [3, 3, in, out], bias [out]) of VGG16's thirteen convolutions.
      channel_weights: one vector per block.
    """

    convolutions: Sequence[tuple[jax.Array, jax.Array]]
    channel_weights: Sequence[jax.Array]

    def features(self, images: Images) -> list[Float[Array, "b _ _ _"]]:
        """The five maps of images in [-1, 1], whose sides are at least 16 pixels."""
        h, found, given = scaled(images), [], iter(self.convolutions)
        for block, widths in enumerate(VGG16_BLOCKS):
            if block:
                h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            for _ in widths:
                kernel, bias = next(given)
                h = jax.nn.relu(conv2d(h, jnp.asarray(kernel), padding=1) + bias)
            found.append(h)
        return found

    def __call__(self, first: Images, second: Images) -> Float[Array, "b"]:
        """The distance of each pair of images."""
        maps = self.features(first), self.features(second)
        return feature_distance(*maps, [jnp.asarray(one) for one in self.channel_weights])


def distance_in(features: Features) -> Perceptual:
    """The distance in the features of any network, all channels alike."""
    return lambda first, second: feature_distance(features(first), features(second))
