"""Convolution and pooling over channels-last images, as XLA windows or as matrix products.

Used by `ofa_jax.model.resnet`. The backward pass of XLA's CPU convolution is slow for the small
images and few channels of the laptop size, so the same sum can be written as one matrix product
over extracted patches; on TPU and GPU the native convolution is right.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

# Above this many patch elements per image the patches no longer stay in cache and cost more
# memory than the native convolution saves.
_MAX_PATCH_ELEMENTS = 1 << 18


def symmetric_padding(kernel: int, stride: int) -> int:
    """Zero padding on each side that makes the output `size / stride` for divisible sizes.

    Gives PyTorch's symmetric 3 for 7x7 stride 2 and 1 for 3x3. XLA's "SAME" is asymmetric with
    stride 2 and shifts the picture (SPEC 1.3).
    """
    return (kernel - stride + 1) // 2 if kernel > stride else 0


def conv2d(
    images: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: int = 0,
    implementation: str = "auto",
) -> jax.Array:
    """Cross-correlates images with a kernel, without bias.

    Args:
      images: float[b, y, x, c].
      kernel: float[ky, kx, c, o] of the same dtype.
      stride: step in pixels along both axes.
      padding: zeros added on each of the four sides, pixels.
      implementation: "xla", "matmul" (patches times one matrix), or "auto": "matmul" on CPU for
        small images, "xla" elsewhere.

    Returns:
      float[b, y', x', o] with y' = (y + 2 * padding - ky) // stride + 1.

    Raises:
      ValueError: if the implementation is unknown.
    """
    if implementation == "auto":
        implementation = _choose(images.shape, kernel.shape[0] * kernel.shape[1], stride)
    if implementation == "xla":
        return lax.conv_general_dilated(
            images,
            kernel,
            window_strides=(stride, stride),
            padding=[(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    if implementation != "matmul":
        raise ValueError(f"conv implementation must be auto, matmul or xla, got {implementation!r}")
    return _conv_by_matmul(images, kernel, stride, padding)


def max_pool(images: jax.Array, *, implementation: str = "auto") -> jax.Array:
    """3x3 maximum of stride 2, padded by one pixel of -inf on each side (SPEC 1.3).

    Args:
      images: float[b, y, x, c].
      implementation: as in `conv2d`; "matmul" takes the maximum of shifted images, whose backward
        pass has no scatter.

    Returns:
      float[b, ceil(y / 2), ceil(x / 2), c].
    """
    if implementation == "auto":
        implementation = _choose(images.shape, 9, 2)
    if implementation == "xla":
        return nn.max_pool(images, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        size = images.shape[axis]
        shifts = [
            lax.slice_in_dim(padded, start, start + size, stride=2, axis=axis) for start in range(3)
        ]
        padded = functools.reduce(jnp.maximum, shifts)
    return padded


def _choose(image_shape: tuple[int, ...], kernel_elements: int, stride: int) -> str:
    if jax.default_backend() != "cpu":
        return "xla"
    _, y, x, c = image_shape
    patch_elements = (y // stride) * (x // stride) * kernel_elements * c
    return "matmul" if patch_elements <= _MAX_PATCH_ELEMENTS else "xla"


def _conv_by_matmul(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    ky, kx, c, o = kernel.shape
    if padding:
        images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    b, y, x, _ = images.shape
    out_y, out_x = (y - ky) // stride + 1, (x - kx) // stride + 1
    shifted = [
        lax.slice(
            images,
            (0, dy, dx, 0),
            (b, dy + (out_y - 1) * stride + 1, dx + (out_x - 1) * stride + 1, c),
            (1, stride, stride, 1),
        )
        for dy in range(ky)
        for dx in range(kx)
    ]
    patches = shifted[0] if len(shifted) == 1 else jnp.concatenate(shifted, axis=-1)
    product = patches.reshape(b * out_y * out_x, ky * kx * c) @ kernel.reshape(ky * kx * c, o)
    return product.reshape(b, out_y, out_x, o)
