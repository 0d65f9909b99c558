"""The official image tokenizer, ready to use: released VQGAN weights behind `ImageTokenizer`.

    tokenizer = ofa_jax.image_codes.load_vqgan("vqgan/last.ckpt")
    codes = tokenizer.encode(image)       # uint8[256, 256, 3] -> int32[32, 32]
    image = tokenizer.decode(codes)

Used by `prepare` to make codes and by evaluation and `infer` to show them; they find it by its file
(`ofa_jax.data.ops.image_tokenizer.load_image_tokenizer`). Images are encoded in batches of
one static shape, on all devices of the process.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ofa_jax.checkpoint.vqgan import read_vqgan
from ofa_jax.model.vqgan.autoencoder import VQGAN, normalized, to_pixels
from ofa_jax.model.vqgan.config import VQGANConfig

# Pixels of a batch per device: 32 images of 128 x 128 on an accelerator, 4 on a CPU. Activations
# at full resolution take 512 bytes per pixel in the released model, and a few of them live at once.
_PIXELS_AT_ONCE = {"cpu": 1 << 16}
_PIXELS_ON_ACCELERATOR = 1 << 19
_IMAGES_AT_ONCE = 32


class VQGANTokenizer:
    """A VQGAN as image tokenizer. Implements `ImageTokenizer`, with batches.

    Nothing runs on a device before the first image, so loading it only checks the weights.

    Attributes:
      config: sizes of the networks.
      num_codes: codes lie in [0, num_codes).
      patch: side in pixels of the square that one code stands for.
    """

    def __init__(
        self,
        config: VQGANConfig,
        params: Mapping[str, PyTree],
        *,
        noise_seed: int | None = None,
        batch_pixels: int | None = None,
    ) -> None:
        """Takes weights.

        Args:
          config: the model.
          params: its parameters.
          noise_seed: draws codes by their probabilities, as the official encoder does, instead of
            taking the likeliest. The draw is a function of the seed and the image alone.
          batch_pixels: pixels of a batch per device; None = what suits the kind of device.

        Raises:
          ValueError: noise for a plain VQ codebook, which has no probabilities.
        """
        if noise_seed is not None and config.quantizer != "gumbel":
            raise ValueError("noise_seed: only a Gumbel codebook has probabilities to draw from")
        self.config = config
        self.num_codes = config.num_codes
        self.patch = config.patch
        self._params = dict(params)
        self._noise_seed = noise_seed
        self._batch_pixels = batch_pixels

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Codes of an image.

        Args:
          image: uint8[y, x, 3]; the sides are multiples of `patch` pixels.

        Returns:
          int32[y / patch, x / patch].

        Raises:
          ValueError: for another dtype, shape or size.
        """
        return self.encode_batch(np.asarray(image)[None])[0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The image that codes stand for.

        Args:
          codes: int[grid_y, grid_x] in [0, num_codes).

        Returns:
          uint8[grid_y * patch, grid_x * patch, 3].

        Raises:
          ValueError: for codes out of range or not in a grid.
        """
        return self.decode_batch(np.asarray(codes)[None])[0]

    def encode_batch(self, images: np.ndarray) -> np.ndarray:
        """Codes of images of one size; the codes of each do not depend on the others.

        Args:
          images: uint8[b, y, x, 3]; the sides are multiples of `patch` pixels.

        Returns:
          int32[b, y / patch, x / patch].

        Raises:
          ValueError: for another dtype, shape or size.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images must be uint8[b, y, x, 3], got {images.dtype}{images.shape}")
        height, width = images.shape[1:3]
        if not height or height % self.patch or not width or width % self.patch:
            raise ValueError(
                f"the sides of an image must be multiples of {self.patch} pixels, got "
                f"{height} x {width}"
            )
        if not len(images):
            return np.zeros((0, height // self.patch, width // self.patch), np.int32)
        if self._noise_seed is None:
            return self._in_batches(_encode, height * width, images)
        seeds = [zlib.crc32(image.tobytes(), self._noise_seed) for image in images]
        return self._in_batches(_draw, height * width, images, np.array(seeds, np.uint32))

    def decode_batch(self, codes: np.ndarray) -> np.ndarray:
        """The images that codes stand for.

        Args:
          codes: int[b, grid_y, grid_x] in [0, num_codes).

        Returns:
          uint8[b, grid_y * patch, grid_x * patch, 3].

        Raises:
          ValueError: for codes out of range or not in grids.
        """
        codes = np.asarray(codes)
        if codes.ndim != 3 or 0 in codes.shape[1:] or codes.dtype.kind not in "iu":
            raise ValueError(
                f"codes must be a grid int[grid_y, grid_x] or several of them, got {codes.dtype}"
                f"{codes.shape}"
            )
        if codes.size and (codes.min() < 0 or codes.max() >= self.num_codes):
            raise ValueError(f"codes must lie in [0, {self.num_codes})")
        height, width = (side * self.patch for side in codes.shape[1:])
        if not len(codes):
            return np.zeros((0, height, width, 3), np.uint8)
        return self._in_batches(_decode, height * width, codes.astype(np.int32))

    @functools.cached_property
    def _placed(self) -> tuple[PyTree, NamedSharding]:
        """The weights on every device, and how a batch is divided over them."""
        mesh = Mesh(np.array(jax.local_devices()), ("batch",))
        variables = {"params": self._params}
        whole = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
        return whole, NamedSharding(mesh, PartitionSpec("batch"))

    def _in_batches(
        self, program: Callable[..., jax.Array], pixels: int, *arrays: np.ndarray
    ) -> np.ndarray:
        """Runs a program over batches of one static size; the last is filled up.

        Args:
          program: of (model, variables, *batches).
          pixels: of one image.
          *arrays: one row per image.
        """
        variables, split = self._placed
        devices = split.mesh.size
        budget = self._batch_pixels or _PIXELS_AT_ONCE.get(
            jax.default_backend(), _PIXELS_ON_ACCELERATOR
        )
        total = len(arrays[0])
        each = max(1, min(budget // pixels, _IMAGES_AT_ONCE))
        size = devices * (1 if total <= devices else each)
        parts = []
        for start in range(0, total, size):
            rows = np.minimum(np.arange(start, start + size), total - 1)
            batch = [jax.device_put(array[rows], split) for array in arrays]
            parts.append(np.asarray(program(VQGAN(self.config), variables, *batch)))
        return np.concatenate(parts)[:total]


def load_vqgan(path: str | os.PathLike, *, noise_seed: int | None = None) -> VQGANTokenizer:
    """Loads a VQGAN as image tokenizer.

    Args:
      path: see `ofa_jax.checkpoint.vqgan.read_vqgan`.
      noise_seed: see `VQGANTokenizer`.

    Raises:
      FileNotFoundError: there is no such file.
      CheckpointFileError: the file cannot be read or is no VQGAN.
    """
    config, params = read_vqgan(path)
    return VQGANTokenizer(config, params, noise_seed=noise_seed)


@functools.partial(jax.jit, static_argnames="model")
def _encode(model: VQGAN, variables: PyTree, pixels: jax.Array) -> jax.Array:
    # With the faster products of accelerators a few codes of every image would differ.
    with jax.default_matmul_precision("float32"):
        return cast(jax.Array, model.apply(variables, normalized(pixels), method="encode"))


@functools.partial(jax.jit, static_argnames="model")
def _draw(model: VQGAN, variables: PyTree, pixels: jax.Array, seeds: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("float32"):
        scores = cast(jax.Array, model.apply(variables, normalized(pixels), method="scores"))
    noise = jax.vmap(lambda seed: jax.random.gumbel(jax.random.key(seed), scores.shape[1:]))(seeds)
    return jnp.argmax(scores + noise, axis=-1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="model")
def _decode(model: VQGAN, variables: PyTree, codes: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("float32"):
        return to_pixels(cast(jax.Array, model.apply(variables, codes, method="decode")))
