"""Images as sequences of codes: the protocol, and the small codebook of the embedded data set.

Stands between a task's preparation, which turns the middle of an image into target codes, and
evaluation, which turns predicted codes back into pixels. The VQGAN of the official model has the
same protocol (`ofa_jax.image_codes`; it needs JAX, so it is imported when its file is named);
`PatchCodebook` needs no training of a network: k-means over raw patches, fitted in seconds.
"""

from __future__ import annotations

import functools
import importlib
import pathlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

_ASSIGNED_AT_ONCE = 1 << 22

# Files with these endings hold weights of a VQGAN.
VQGAN_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
# What a run that writes images keeps beside its vocabulary.
CODEBOOK_FILE = "image_codebook.npz"


@runtime_checkable
class ImageTokenizer(Protocol):
    """Turns images into grids of codes and back.

    Attributes:
      num_codes: codes lie in [0, num_codes).
      patch: side in pixels of the square that one code stands for.
    """

    num_codes: int
    patch: int

    def encode(self, image: np.ndarray) -> np.ndarray:
        """uint8[y, x, 3] -> int32[y / patch, x / patch]; sides are multiples of `patch`."""
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int32[grid_y, grid_x] -> uint8[grid_y * patch, grid_x * patch, 3]."""
        ...


@runtime_checkable
class BatchImageTokenizer(ImageTokenizer, Protocol):
    """An image tokenizer that is faster with several images of one size at a time."""

    def encode_batch(self, images: np.ndarray) -> np.ndarray:
        """uint8[b, y, x, 3] -> int32[b, y / patch, x / patch]."""
        ...

    def decode_batch(self, codes: np.ndarray) -> np.ndarray:
        """int32[b, grid_y, grid_x] -> uint8[b, grid_y * patch, grid_x * patch, 3]."""
        ...


def check_codes(tokenizer: ImageTokenizer, known: int) -> None:
    """Fails where an image tokenizer is not that of a model.

    Args:
      tokenizer: of the images.
      known: codes in the model's vocabulary.

    Raises:
      ValueError: it has codes that the model has not.
    """
    if tokenizer.num_codes > known:
        raise ValueError(
            f"image_tokenizer has {tokenizer.num_codes} codes and the model {known}: they do not "
            "belong together"
        )


def encode_all(tokenizer: ImageTokenizer, images: Sequence[np.ndarray]) -> np.ndarray:
    """Codes of images of one size, in batches where the tokenizer has them.

    Args:
      tokenizer: any image tokenizer.
      images: one or more uint8[y, x, 3].

    Returns:
      int32[b, y / patch, x / patch].
    """
    if isinstance(tokenizer, BatchImageTokenizer):
        return np.asarray(tokenizer.encode_batch(np.stack(images)), np.int32)
    return np.stack([np.asarray(tokenizer.encode(image), np.int32) for image in images])


def decode_all(tokenizer: ImageTokenizer, codes: Sequence[np.ndarray]) -> np.ndarray:
    """Images of grids of codes of one size, in batches where the tokenizer has them.

    Args:
      tokenizer: any image tokenizer.
      codes: one or more int[grid_y, grid_x].

    Returns:
      uint8[b, grid_y * patch, grid_x * patch, 3].
    """
    if isinstance(tokenizer, BatchImageTokenizer):
        return tokenizer.decode_batch(np.stack(codes))
    return np.stack([tokenizer.decode(grid) for grid in codes])


@functools.lru_cache(maxsize=2)
def load_image_tokenizer(name: str) -> ImageTokenizer:
    """Loads an image tokenizer once per process.

    Args:
      name: a codebook file (`.npz`), weights of a VQGAN (`last.ckpt`, `.safetensors`), or
        `module:function`.

    Raises:
      ValueError: no such file, module or function; a file that is no image tokenizer; what the
        function returns is none.
    """
    path = pathlib.Path(name)
    if path.suffix == ".npz":
        if not path.is_file():
            raise ValueError(f"image_tokenizer: there is no codebook file {name}")
        return PatchCodebook.load(path)
    if path.suffix in VQGAN_SUFFIXES:
        # The networks need JAX, which input workers have no use for.
        module = importlib.import_module("ofa_jax.image_codes")
        try:
            return module.load_vqgan(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"image_tokenizer: {error}") from error
    module_name, separator, function = name.partition(":")
    if not separator:
        raise ValueError(
            "image_tokenizer must be a codebook (.npz), weights of a VQGAN "
            f"({', '.join(VQGAN_SUFFIXES)}) or module:function, got {name!r}"
        )
    try:
        tokenizer = getattr(importlib.import_module(module_name), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"image_tokenizer {name!r}: {error}") from error
    if not isinstance(tokenizer, ImageTokenizer):
        raise ValueError(
            f"image_tokenizer {name!r} returns {type(tokenizer).__name__}, which has "
            "not the methods and attributes of an ImageTokenizer"
        )
    return tokenizer


def middle_part(image: np.ndarray) -> np.ndarray:
    """The central half of each side, which image infilling hides (SPEC 4.3.7).

    Args:
      image: uint8[y, x, 3] with sides that are multiples of 4.

    Returns:
      uint8[y / 2, x / 2, 3], a view: a quarter of the image is left out on each side, as the
      official 64 of 256 pixels.

    Raises:
      ValueError: if a side is not a multiple of 4.
    """
    height, width = image.shape[:2]
    if height % 4 or width % 4:
        raise ValueError(f"the sides must be multiples of 4 pixels, got {height} x {width}")
    return image[height // 4 : height // 4 * 3, width // 4 : width // 4 * 3]


def _patches(images: np.ndarray, patch: int) -> np.ndarray:
    """uint8[..., y, x, 3] -> uint8[... * grid_y * grid_x, patch * patch * 3], row-major."""
    height, width = images.shape[-3:-1]
    if images.dtype != np.uint8 or images.ndim < 3 or images.shape[-1] != 3:
        raise ValueError(f"images must be uint8[..., y, x, 3], got {images.dtype}{images.shape}")
    if height % patch or width % patch:
        raise ValueError(
            f"the sides of the image must be multiples of {patch} pixels, got {height} x {width}"
        )
    blocks = images.reshape(-1, height // patch, patch, width // patch, patch, 3)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, patch * patch * 3)


def _nearest(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index int64[n], squared distance float32[n]) of the center nearest to each point.

    Ties go to the center with the lowest index.
    """
    norms = (centers * centers).sum(1)
    indices = np.empty(len(points), np.int64)
    distances = np.empty(len(points), np.float32)
    step = max(_ASSIGNED_AT_ONCE // max(len(centers), 1), 1)
    for start in range(0, len(points), step):
        part = points[start : start + step]
        scores = norms - 2 * (part @ centers.T)
        best = scores.argmin(1)
        indices[start : start + step] = best
        distances[start : start + step] = scores[np.arange(len(part)), best] + (part**2).sum(1)
    return indices, np.maximum(distances, 0)


def _spread_centers(
    points: np.ndarray, weights: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """k-means++ seeding (Arthur and Vassilvitskii 2007) with weighted points."""
    centers = points[[int(weights.argmax())]]
    distances = _nearest(points, centers)[1]
    while len(centers) < count:
        mass = np.cumsum((weights * distances).astype(np.float64))
        chosen = int(np.searchsorted(mass, rng.random() * mass[-1], side="right"))
        center = points[[min(chosen, len(points) - 1)]]
        centers = np.concatenate([centers, center])
        distances = np.minimum(distances, _nearest(points, center)[1])
    return centers


class PatchCodebook:
    """Codebook of raw patches: the code of a patch is its nearest entry in squared error.

    Implements `ImageTokenizer`. Codes are sorted from the most to the least frequent patch of the
    fit, so code 0 is the majority code.

    Attributes:
      entries: float32[num_codes, patch, patch, 3], values 0..255.
      patch: side of a patch in pixels.
      num_codes: number of entries.
    """

    def __init__(self, entries: np.ndarray):
        """Takes the entries.

        Args:
          entries: [num_codes, patch, patch, 3], values 0..255.

        Raises:
          ValueError: for another shape.
        """
        entries = np.asarray(entries, np.float32)
        if entries.ndim != 4 or entries.shape[1] != entries.shape[2] or entries.shape[3] != 3:
            raise ValueError(f"entries must be [codes, patch, patch, 3], got {entries.shape}")
        self.entries = entries
        self.num_codes = len(entries)
        self.patch = entries.shape[1]

    @classmethod
    def fit(
        cls,
        images: np.ndarray,
        num_codes: int = 64,
        patch: int = 4,
        *,
        seed: int = 0,
        iterations: int = 20,
        max_patches: int = 12_000,
    ) -> PatchCodebook:
        """Fits the codebook by k-means (Lloyd) over the patches of images.

        Equal patches, nearly all of a drawn image, are clustered once with their count.

        Args:
          images: uint8[examples, y, x, 3].
          num_codes: number of entries; needs as many different patches, and at most
            `max_patches`.
          patch: side of a patch in pixels.
          seed: seed of the initial entries.
          iterations: rounds of assignment and averaging at most.
          max_patches: of more different patches a random part is taken, to fit in seconds.

        Returns:
          The codebook; the same images, numbers and machine give the same one.

        Raises:
          ValueError: if the images have fewer different patches than `num_codes`, or
            `max_patches` is smaller.
        """
        if num_codes > max_patches:
            raise ValueError(f"max_patches must be at least num_codes = {num_codes}")
        points, counts = np.unique(_patches(images, patch), axis=0, return_counts=True)
        if len(points) < num_codes:
            raise ValueError(
                f"{num_codes} codes need as many different patches, the images have {len(points)}; "
                "give more images or ask for fewer codes"
            )
        rng = np.random.default_rng(np.random.SeedSequence((seed, num_codes, patch)))
        if len(points) > max_patches:
            # The most frequent half is kept for certain: plain surfaces must have exact entries.
            order = np.argsort(-counts, kind="stable")
            kept, rest = np.split(order, [max_patches // 2])
            chosen = rng.choice(rest, max_patches - len(kept), replace=False)
            scale = counts[rest].sum() / counts[chosen].sum()
            weights = np.concatenate([counts[kept], counts[chosen] * scale]).astype(np.float32)
            points = points[np.concatenate([kept, chosen])]
        else:
            weights = counts.astype(np.float32)
        points = points.astype(np.float32)
        centers = _spread_centers(points, weights, num_codes, rng)
        previous = None
        for _ in range(iterations):
            nearest, distances = _nearest(points, centers)
            if previous is not None and np.array_equal(nearest, previous):
                break
            previous = nearest
            mass = np.bincount(nearest, weights, num_codes)
            order = np.argsort(nearest, kind="stable")
            used = np.flatnonzero(mass)
            starts = np.searchsorted(nearest[order], used)
            sums = np.add.reduceat((points * weights[:, None])[order], starts, axis=0)
            centers[used] = sums / mass[used, None].astype(np.float32)
            # An entry that lost all its patches moves to the patch that is served worst.
            for code in np.flatnonzero(mass == 0):
                worst = int((weights * distances).argmax())
                centers[code] = points[worst]
                distances[worst] = 0
        nearest, _ = _nearest(points, centers)
        frequencies = np.bincount(nearest, weights, num_codes)
        centers = centers[np.argsort(-frequencies, kind="stable")]
        return cls(centers.reshape(num_codes, patch, patch, 3))

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Codes of an image.

        Args:
          image: uint8[y, x, 3]; the sides are multiples of `patch` pixels.

        Returns:
          int32[y / patch, x / patch].

        Raises:
          ValueError: for another dtype, shape or size.
        """
        image = np.asarray(image)
        points = _patches(image, self.patch).astype(np.float32)
        indices, _ = _nearest(points, self.entries.reshape(self.num_codes, -1))
        return indices.astype(np.int32).reshape(image.shape[0] // self.patch, -1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The image that codes stand for.

        Args:
          codes: int[grid_y, grid_x] in [0, num_codes).

        Returns:
          uint8[grid_y * patch, grid_x * patch, 3].

        Raises:
          ValueError: for codes out of range or not in a grid.
        """
        codes = np.asarray(codes)
        if codes.ndim != 2:
            raise ValueError(f"codes must be a grid [grid_y, grid_x], got shape {codes.shape}")
        if codes.size and (codes.min() < 0 or codes.max() >= self.num_codes):
            raise ValueError(f"codes must lie in [0, {self.num_codes})")
        blocks = np.rint(self.entries[codes]).astype(np.uint8)
        rows, columns = codes.shape
        return blocks.transpose(0, 2, 1, 3, 4).reshape(rows * self.patch, columns * self.patch, 3)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the entries to an `.npz` file."""
        with pathlib.Path(path).open("wb") as file:
            np.savez(file, entries=self.entries)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> PatchCodebook:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if the file is not a codebook.
        """
        with np.load(path) as arrays:
            if "entries" not in arrays:
                raise ValueError(f"{path} is not a patch codebook: it has no array 'entries'")
            return cls(arrays["entries"])
