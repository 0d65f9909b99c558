"""Preparation steps that bring records of many data sets into the form that one chain reads.

First steps of the chains of `tasks.families`: a picture with a hundred described regions becomes a
picture with one, and a record gets the name of its data set, on which the loss may depend.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ofa_jax.data.instruction import Example, InstructionError
from ofa_jax.data.ops.boxes import as_boxes


@dataclasses.dataclass(frozen=True)
class KeepOneReferring:
    """Keeps one drawn referring expression with its box, so that a crop can centre on it.

    Test rows may lack boxes.

    Attributes:
      optional: whether expressions may be missing instead; a box is drawn then.
    """

    optional: bool = False

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        expressions, boxes = example.get("refexps", ()), as_boxes(example.get("boxes", []))
        if len(expressions) == 0:
            if not (self.optional and len(boxes)):
                raise InstructionError(
                    f"example {example.get('image_id', '?')!r} has no referring expression"
                )
            box = int(rng.integers(len(boxes)))
            return {**example, "boxes": boxes[box : box + 1]}
        number = int(rng.integers(len(expressions)))
        if len(boxes) == 0:
            return {**example, "refexps": [expressions[number]]}
        box = int(example["refexp_box_index"][number])
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
        answers = [plain_answer(answer) for answer in example.get("answers", ())]
        return {**example, "answers": answers}


@dataclasses.dataclass(frozen=True)
class CaptionsFrom:
    """Sets `captions` to the texts of another field, such as the phrases of regions.

    Attributes:
      field: a list of texts.
    """

    field: str

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        return {**example, "captions": list(example.get(self.field, ()))}
