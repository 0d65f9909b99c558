"""From encoded bytes to the square that the model reads, and to image codes.

The official crops and augmentations (SPEC 4.4), at whatever size the run asks for: at 384 pixels
(256 for detection and infilling) the numbers are the official ones. Boxes follow the pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from ofa_jax.data.ops import augment, boxes, classification_augment
from ofa_jax.data.ops import image as image_ops
from ofa_jax.data.ops.image_tokenizer import ImageTokenizer, middle_part
from ofa_jax.data.ops.random_augment import random_augment
from ofa_jax.data.sources.example import Example, InstructionError

# Keys of an example in preparation: pixels per side of the model input; what becomes of an image
# that is cut off (`ops.image.TRUNCATED_IMAGES`); the mark of one that was, and was decoded anyway.
IMAGE_SIZE = "model_image_size"
TRUNCATED_IMAGES = "truncated_images"
IS_TRUNCATED = "image_is_truncated"

# Official short sides 384..480 and longest side 672, as multiples of the model's 384 pixels.
LARGEST_SHORT_SIDE = 480 / 384
LONGEST_SIDE = 672 / 384

# The shortest side that a text line keeps, and the strip of document mode, in pixels.
SHORTEST = 64
STRIP = (1920, 64)
PIECES = 4


@dataclasses.dataclass(frozen=True)
class DecodeImage:
    """Decodes `image` from bytes to uint8[y, x, 3] RGB, as a `Picture`.

    Attributes:
      reduced: lets the JPEG decoder shrink photographs of more than twice the size that any crop
        needs. Faster, but not the official pixels; for tasks without boxes, which would not fit.
    """

    reduced: bool = False

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        if self.reduced and len(example.get("boxes", ())):
            raise InstructionError(
                f"example {example.get('image_id', '?')!r} has boxes, which would not fit a "
                "reduced image; decode it with DecodeImage()"
            )
        picture = image_ops.decode_picture(
            example["image"],
            smallest=max(_short_sides(example[IMAGE_SIZE])) if self.reduced else None,
            truncated=example.get(TRUNCATED_IMAGES, "drop"),
        )
        marks = {IS_TRUNCATED: True} if picture.truncated else {}
        return {**example, "image": picture, **marks}


@dataclasses.dataclass(frozen=True)
class StretchToSquare:
    """Resizes to a square, ignoring the aspect ratio; boxes are scaled per axis (SPEC 8)."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        image, moved = augment.square_with_boxes(
            example["image"], boxes.as_boxes(example.get("boxes", [])), example[IMAGE_SIZE]
        )
        return {**example, "image": image, "boxes": moved}


@dataclasses.dataclass(frozen=True)
class AugmentForText:
    """Random resize, center crop and RandomAugment of image-text tasks (SPEC 4.4a)."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        size = example[IMAGE_SIZE]
        image = augment.random_resized_center_crop(
            example["image"], _short_sides(size), int(size * LONGEST_SIDE), size, rng
        )
        return {**example, "image": random_augment(image, rng)}


@dataclasses.dataclass(frozen=True)
class CropAroundObject:
    """Random resize and a crop centered on the first box (SPEC 4.4b)."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        size = example[IMAGE_SIZE]
        image, moved = augment.random_resized_object_crop(
            example["image"],
            boxes.as_boxes(example["boxes"]),
            _short_sides(size),
            int(size * LONGEST_SIDE),
            size,
            rng,
        )
        return {**example, "image": image, "boxes": moved}


@dataclasses.dataclass(frozen=True)
class JitterScene:
    """Mirror and large-scale jitter of detection (SPEC 4.4c); boxes out of sight are dropped."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image, moved = augment.random_mirror(
            example["image"], boxes.as_boxes(example["boxes"]), rng
        )
        image, moved, visible = augment.large_scale_jitter(image, moved, example[IMAGE_SIZE], rng)
        labels = [example["labels"][number] for number in visible]
        return {**example, "image": image, "boxes": moved, "labels": labels}


@dataclasses.dataclass(frozen=True)
class CheckBoxes:
    """Refuses boxes that are not finite, have no area or lie outside the image.

    A box may stick out by `tolerance` pixels, as annotations rounded to integers do. Boxes that all
    lie within the first pixel are fractions, and refused as well.
    """

    tolerance: float = boxes.TOLERANCE

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        height, width = example["image"].shape[:2]
        found = boxes.as_boxes(example.get("boxes", []))
        if boxes.in_first_pixel(found) and min(height, width) > 2:
            raise InstructionError(
                f"boxes of example {example.get('image_id', '?')!r} lie within the first pixel, "
                "such as fractions do: they must be pixels"
            )
        for box in found:
            x0, y0, x1, y1 = box.tolist()
            inside = (
                -self.tolerance <= x0 < x1 <= width + self.tolerance
                and -self.tolerance <= y0 < y1 <= height + self.tolerance
            )
            if not (np.isfinite(box).all() and inside):
                raise InstructionError(
                    f"box {box.tolist()} of example {example.get('image_id', '?')!r} is not a box "
                    f"x0 < x1, y0 < y1 inside its {width}x{height} image"
                )
        return example


@dataclasses.dataclass(frozen=True)
class AugmentForClassification:
    """Random crop, mirror, two rounds of random augmentation, random erasing."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        size = example[IMAGE_SIZE]
        image = classification_augment.random_resized_crop(example["image"], size, rng)
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        image = classification_augment.rand_augment(image, rng)
        image = random_augment(image, rng, num_operations=2, magnitude=7)
        return {**example, "image": classification_augment.random_erase(image, rng)}


@dataclasses.dataclass(frozen=True)
class FitText:
    """Resizes in proportion and pads with the colours of the edge, at a random place.

    The long side gets the length of the model input, the short side at least 64 pixels (or all of
    a smaller input). Document mode resizes a very long line to 1920 x 64 and stacks its quarters
    to 480 x 256 first.

    Attributes:
      document: document mode.
      random_place: False puts the image in the middle, for evaluation that can be repeated.
        OFA-NOTE: SPEC 8.9. The official code draws a place in evaluation too.
    """

    document: bool = False
    random_place: bool = True

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        size, image = example[IMAGE_SIZE], example["image"]
        if self.document:
            strip = image_ops.resize_image(image, *STRIP)
            image = np.concatenate(np.split(strip, PIECES, axis=1), axis=0)
            scale = min(1.0, size / max(image.shape[:2]))
            image = image_ops.resize_image(
                image, int(image.shape[1] * scale) or 1, int(image.shape[0] * scale) or 1
            )
        else:
            image = image_ops.resize_image(
                image, *_fitting_size(image.shape[1], image.shape[0], size)
            )
        return {**example, "image": self._padded(image, size, rng)}

    def _padded(self, image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        paddings = []
        for length in image.shape[:2]:
            before = (size - length) // 2
            if self.random_place:
                before = int(rng.integers(size - length + 1))
            paddings.append((before, size - length - before))
        return np.pad(image, (*paddings, (0, 0)), mode="edge")


@dataclasses.dataclass(frozen=True)
class EncodeImage:
    """Sets `image_codes` to the codes of the image, in row-major order.

    Attributes:
      tokenizer: cached module-level function that returns the image tokenizer.
      part: "middle" takes the central half of each side, which image infilling asks for; "whole"
        takes all of it.
    """

    tokenizer: Callable[[], ImageTokenizer]
    part: Literal["middle", "whole"] = "middle"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        image = example["image"]
        codes = self.tokenizer().encode(middle_part(image) if self.part == "middle" else image)
        return {**example, "image_codes": codes.reshape(-1)}


def _short_sides(size: int) -> range:
    return range(size, int(size * LARGEST_SHORT_SIDE) + 1)


def _fitting_size(width: int, height: int, size: int) -> tuple[int, int]:
    shortest = min(SHORTEST, size)
    if width >= height:
        return size, max(shortest, int(size * height / width))
    return max(shortest, int(size * width / height)), size
