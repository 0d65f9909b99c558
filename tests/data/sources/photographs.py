"""Real photographs with invented annotations, as every format's test writes them to disk.

The images are those of `tests.integration.photographs`, made smaller; each test writes the
annotations in the form of its format and expects the same values from the source.
"""

import dataclasses
import functools

import numpy as np
from PIL import Image

from tests.integration.photographs import SUBJECTS, jpeg, photographs


@dataclasses.dataclass(frozen=True)
class Photograph:
    """One image and what is said about it; boxes in whole pixels x0, y0, x1, y1."""

    number: int
    name: str
    image: bytes
    width: int
    height: int
    captions: tuple[str, ...]
    label: str
    box: tuple[int, int, int, int]

    @property
    def left_top_size(self):
        x0, y0, x1, y1 = self.box
        return [x0, y0, x1 - x0, y1 - y0]

    @property
    def second_box(self):
        return (0, 0, self.width // 2, self.height // 2)


@functools.cache
def annotated(count=4):
    """The first few photographs, 160 pixels wide, numbered from 101."""
    found = []
    for number, (name, (caption, label, fractions)) in enumerate(SUBJECTS.items(), 101):
        picture = Image.fromarray(photographs()[name])
        height = round(picture.height * 160 / picture.width)
        pixels = np.asarray(picture.resize((160, height)))
        box = np.round(np.array(fractions) * [160, height, 160, height]).astype(int)
        captions = (caption, f"this is {caption} .")
        found.append(
            Photograph(
                number, name, jpeg(pixels, 80), 160, height, captions, label, tuple(box.tolist())
            )
        )
    return found[:count]


def write_pictures(directory, name=lambda one: f"{one.number}.jpg", count=4):
    """Writes the first few images into a directory; returns it as text."""
    for one in annotated(count):
        path = directory / name(one)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.image)
    return str(directory)
