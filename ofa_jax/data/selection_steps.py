"""Preparation steps that bring records of many data sets into the form that one chain reads.

First steps of the chains of `tasks.families`: a picture with a hundred described regions becomes a
picture with one, and a record gets the name of its data set, on which the loss may depend.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ofa_jax.data.instruction import Example, InstructionError


@dataclasses.dataclass(frozen=True)
class KeepOneReferring:
    """Keeps one drawn referring expression with its box, so that a crop can centre on it."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        expressions = example["refexps"]
        if len(expressions) == 0:
            raise InstructionError(
                f"example {example.get('image_id', '?')!r} has no referring expression"
            )
        number = int(rng.integers(len(expressions)))
        box = int(example["refexp_box_index"][number])
        boxes = np.asarray(example["boxes"], np.float32)
        if not 0 <= box < len(boxes):
            raise InstructionError(
                f"example {example.get('image_id', '?')!r}: referring expression {number} names "
                f"box {box} of {len(boxes)}"
            )
        return {
            **example,
            "refexps": [expressions[number]],
            "refexp_box_index": [0],
            "boxes": boxes[box : box + 1],
        }


@dataclasses.dataclass(frozen=True)
class NameDataset:
    """Sets `dataset`, whatever the files say; the loss of cc12m captions depends on it.

    Attributes:
      name: for example "cc12m".
    """

    name: str

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        return {**example, "dataset": self.name}


def plain_answer(answer: str) -> str:
    """An answer in the form of VQA's: lower case, single spaces, no full stop at the end.

    Visual Genome writes "A dog." where VQA's people write "a dog"; one model should say one thing.
    """
    return " ".join(answer.lower().split()).rstrip(". ")


@dataclasses.dataclass(frozen=True)
class PlainAnswers:
    """Brings every entry of `answers` into the form of `plain_answer`."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        return {**example, "answers": [plain_answer(answer) for answer in example["answers"]]}


@dataclasses.dataclass(frozen=True)
class CaptionsFrom:
    """Sets `captions` to the texts of another field, such as the phrases of regions.

    Attributes:
      field: a list of texts.
    """

    field: str

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        return {**example, "captions": list(example[self.field])}
