"""Preparation of pictures of text (SPEC 8.9): kept in proportion, padded to a square.

Lines of text are long and thin; stretched to a square they could not be read.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ofa_jax.data.instruction import Example
from ofa_jax.data.ops.image import resize_image
from ofa_jax.data.task import IMAGE_SIZE

# The shortest side that a text line keeps, and the strip of document mode, in pixels.
SHORTEST = 64
STRIP = (1920, 64)
PIECES = 4


@dataclasses.dataclass(frozen=True)
class FitText:
    """Resizes in proportion and pads with the colours of the edge, at a random place.

    The long side gets the length of the model input, the short side at least 64 pixels (or all of
    a smaller input). Document mode resizes a very long line to 1920 x 64 and stacks its quarters
    to 480 x 256 first.

    Attributes:
      document: document mode.
      random_place: False puts the picture in the middle, for evaluation that can be repeated.
        OFA-NOTE: SPEC 8.9. The official code draws a place in evaluation too.
    """

    document: bool = False
    random_place: bool = True

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        size, image = example[IMAGE_SIZE], example["image"]
        if self.document:
            strip = resize_image(image, *STRIP)
            image = np.concatenate(np.split(strip, PIECES, axis=1), axis=0)
            scale = min(1.0, size / max(image.shape[:2]))
            image = resize_image(
                image, int(image.shape[1] * scale) or 1, int(image.shape[0] * scale) or 1
            )
        else:
            image = resize_image(image, *_fitting_size(image.shape[1], image.shape[0], size))
        return {**example, "image": self._padded(image, size, rng)}

    def _padded(self, image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        paddings = []
        for length in image.shape[:2]:
            before = (size - length) // 2
            if self.random_place:
                before = int(rng.integers(size - length + 1))
            paddings.append((before, size - length - before))
        return np.pad(image, (*paddings, (0, 0)), mode="edge")


def _fitting_size(width: int, height: int, size: int) -> tuple[int, int]:
    shortest = min(SHORTEST, size)
    if width >= height:
        return size, max(shortest, int(size * height / width))
    return max(shortest, int(size * width / height)), size
