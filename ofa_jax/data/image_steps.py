"""Preparation steps for photographs: from encoded bytes to the square that the model reads.

The official crops and augmentations (SPEC 4.4), at whatever size the run asks for: at 384 pixels
(256 for detection and infilling) the numbers are the official ones. Boxes follow the pixels.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ofa_jax.data.instruction import Example, InstructionError
from ofa_jax.data.ops import augment, boxes
from ofa_jax.data.ops import image as image_ops
from ofa_jax.data.ops.random_augment import random_augment
from ofa_jax.data.task import IMAGE_SIZE, IS_TRUNCATED, TRUNCATED_IMAGES

# Official short sides 384..480 and longest side 672, as multiples of the model's 384 pixels.
LARGEST_SHORT_SIDE = 480 / 384
LONGEST_SIDE = 672 / 384


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
                "reduced picture; decode it with DecodeImage()"
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
    """Random resize, centre crop and RandomAugment of image-text tasks (SPEC 4.4a)."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        size = example[IMAGE_SIZE]
        image = augment.random_resized_center_crop(
            example["image"], _short_sides(size), int(size * LONGEST_SIDE), size, rng
        )
        return {**example, "image": random_augment(image, rng)}


@dataclasses.dataclass(frozen=True)
class CropAroundObject:
    """Random resize and a crop centred on the first box (SPEC 4.4b)."""

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
    """Refuses boxes that are not finite, have no area or lie outside the picture.

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
                    f"x0 < x1, y0 < y1 inside its {width}x{height} picture"
                )
        return example


def _short_sides(size: int) -> range:
    return range(size, int(size * LARGEST_SHORT_SIDE) + 1)
