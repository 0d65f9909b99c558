"""Preparation of pictures for ImageNet classification (SPEC 8.6)."""

from __future__ import annotations

import dataclasses

import numpy as np

from ofa_jax.data.instruction import Example, InstructionError
from ofa_jax.data.ops import classification_augment
from ofa_jax.data.ops.random_augment import random_augment
from ofa_jax.data.task import IMAGE_SIZE


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
class ClassName:
    """Sets `answer` to the row's label, the words of its synset; test rows keep an empty one."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        label = example.get("label", "")
        if not isinstance(label, str):
            raise InstructionError(
                f"example {example.get('image_id', '?')!r}: label must be the class name, "
                f"got {label!r}"
            )
        return {**example, "answer": label.strip()}
