"""Convolution and pooling over channels-last images, as XLA windows or as matrix products.

Used by `ofa_jax.model.resnet` and `ofa_jax.model.vqgan`. XLA's CPU convolution is slow for few
channels, for kernels of one pixel and in the gradient of every kernel; the same sums are matrix
products over shifted images. On TPU and GPU the native convolution is right. What is chosen is
measured by `benchmarks/convolution.py`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "b y x c"]
# Above this many patch elements per image the patches of larger kernels no longer stay in cache and
# cost more memory than the native convolution saves. A kernel of one pixel needs no patches.
_MAX_PATCH_ELEMENTS = 1 << 18


def symmetric_padding(kernel: int, stride: int) -> int:
    """Zero padding on each side that makes the output `size / stride` for divisible sizes.

    Gives PyTorch's symmetric 3 for 7x7 stride 2 and 1 for 3x3. XLA's "SAME" is asymmetric with
    stride 2 and shifts the image (SPEC 1.3).
    """
    return (kernel - stride + 1) // 2 if kernel > stride else 0


def conv2d(
    images: Images,
    kernel: Float[Array, "ky kx c o"],
    *,
    stride: int = 1,
    padding: int = 0,
    implementation: str = "auto",
) -> Float[Array, "b (y+2*{padding}-ky)//{stride}+1 (x+2*{padding}-kx)//{stride}+1 o"]:
    """Cross-correlates images with a kernel, without bias.

    Args:
      images: channels last.
      kernel: of the same dtype.
      stride: step in pixels along both axes.
      padding: zeros added on each of the four sides, pixels.
      implementation: "xla"; "matmul" (patches times one matrix); "mixed" ("xla", but for the
        kernel's gradient, which is products of shifted images); or "auto": on CPU "matmul" for
        kernels of one pixel and for small images and "mixed" for others, "xla" elsewhere.

    Raises:
      ValueError: if the implementation is unknown.
    """
    if implementation == "auto":
        implementation = _choose(images.shape, kernel.shape[0] * kernel.shape[1], stride)
    if implementation == "xla":
        return _xla(images, kernel, stride, padding)
    if implementation == "mixed":
        return _mixed(images, kernel, stride, padding)
    if implementation != "matmul":
        raise ValueError(
            f"conv implementation must be auto, matmul, mixed or xla, got {implementation!r}"
        )
    return _conv_by_matmul(images, kernel, stride, padding)


def max_pool(
    images: Images, *, implementation: str = "auto"
) -> Float[Array, "b (y+1)//2 (x+1)//2 c"]:
    """3x3 maximum of stride 2, padded by one pixel of -inf on each side (SPEC 1.3).

    Args:
      images: channels last.
      implementation: "xla", "matmul" (the maximum of shifted images, whose backward pass has no
        scatter), or "auto": "matmul" on CPU, "xla" elsewhere.
    """
    if implementation == "auto":
        implementation = "matmul" if jax.default_backend() == "cpu" else "xla"
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
    if kernel_elements == 1:
        return "matmul"
    _, y, x, c = image_shape
    patch_elements = (y // stride) * (x // stride) * kernel_elements * c
    return "matmul" if patch_elements <= _MAX_PATCH_ELEMENTS else "mixed"


def _xla(images: Array, kernel: Array, stride: int, padding: int) -> Array:
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _mixed(images: Array, kernel: Array, stride: int, padding: int) -> Array:
    return _xla(images, kernel, stride, padding)


def _mixed_forward(
    images: Array, kernel: Array, stride: int, padding: int
) -> tuple[Array, tuple[Array, Array]]:
    return _xla(images, kernel, stride, padding), (images, kernel)


def _mixed_backward(
    stride: int, padding: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    images, kernel = saved
    ky, kx, c, o = kernel.shape
    [to_images] = jax.linear_transpose(lambda x: _xla(x, kernel, stride, padding), images)(gradient)
    # One product per row of the kernel: per pixel they are narrow, and all patches at once are
    # larger than the caches.
    back = ky - 1 - padding
    if stride == 1 and back >= 0:
        # Shifted gradients mean the same as shifted images, which the compiler would make and keep
        # before there is a gradient.
        shifted = _shifted(gradient, kernel.shape, 1, back)[::-1]
        rows = images.reshape(-1, c).T
        products = [
            (rows @ _joined(shifted[dy * kx : (dy + 1) * kx])).reshape(c, kx, o) for dy in range(ky)
        ]
        return to_images, jnp.stack(products).transpose(0, 2, 1, 3)
    shifted = _shifted(images, kernel.shape, stride, padding)
    rows = gradient.reshape(-1, o)
    products = [_joined(shifted[dy * kx : (dy + 1) * kx]).T @ rows for dy in range(ky)]
    return to_images, jnp.stack(products).reshape(kernel.shape)


_mixed.defvjp(_mixed_forward, _mixed_backward)


def _joined(shifted: list[Float[Array, "b y x _"]]) -> Float[Array, "b*y*x _"]:
    """Channels side by side, one row per pixel."""
    return jnp.concatenate(shifted, axis=-1).reshape(-1, sum(part.shape[-1] for part in shifted))


def _shifted(
    images: Array, kernel_shape: tuple[int, ...], stride: int, padding: int
) -> list[Array]:
    """What each pixel of a kernel is multiplied with: ky * kx arrays of the result's b, y, x."""
    ky, kx = kernel_shape[:2]
    if padding:
        images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    b, y, x, c = images.shape
    # The step from the first row or column to the last.
    down, right = (y - ky) // stride * stride, (x - kx) // stride * stride
    return [
        lax.slice(
            images,
            (0, dy, dx, 0),
            (b, dy + down + 1, dx + right + 1, c),
            (1, stride, stride, 1),
        )
        for dy in range(ky)
        for dx in range(kx)
    ]


def _conv_by_matmul(images: Array, kernel: Array, stride: int, padding: int) -> Array:
    ky, kx, c, o = kernel.shape
    shifted = _shifted(images, kernel.shape, stride, padding)
    product = _joined(shifted) @ kernel.reshape(ky * kx * c, o)
    return product.reshape(*shifted[0].shape[:3], o)
