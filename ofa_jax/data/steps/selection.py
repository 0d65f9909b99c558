"""Steps that pick what an instruction's slots name: one caption of several, a region and its text.

Some bring records of many data sets into the form that one chain reads: an image with a hundred
described regions becomes an image with one, and a record gets the name of its data set, on which
the loss may depend.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ofa_jax.data.ops.boxes import as_boxes
from ofa_jax.data.sources.example import Example, InstructionError


@dataclasses.dataclass(frozen=True)
class Choose:
    """Sets `target` to a uniformly drawn entry of the list in `source`.

    Attributes:
      source: the list.
      target: the field.
      optional: whether the list may be missing or empty, as truths of test rows are; the text is
        then empty.
    """

    source: str
    target: str
    optional: bool = False

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if self.optional and not len(example.get(self.source, ())):
            return {**example, self.target: ""}
        return {**example, self.target: _pick(rng, example[self.source], self.source, example)}


@dataclasses.dataclass(frozen=True)
class ChooseReferring:
    """Sets `caption` to a drawn referring expression and `region` to the box that it names.

    Test rows may lack the box; then there is no `region`.

    Attributes:
      optional: whether expressions may be missing instead; a box is drawn then.
    """

    optional: bool = False

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        boxes, expressions = as_boxes(example.get("boxes", [])), example.get("refexps", ())
        if self.optional and not len(expressions):
            return {**example, "caption": "", "region": _pick(rng, boxes, "box", example)}
        number = _pick(rng, range(len(expressions)), "referring expression", example)
        chosen = {**example, "caption": expressions[number]}
        if len(boxes):
            chosen["region"] = boxes[example["refexp_box_index"][number]]
        return chosen


@dataclasses.dataclass(frozen=True)
class ChooseRegion:
    """Sets `region` to a drawn box and `caption` to its description."""

    captions: str = "region_captions"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        number = _pick(rng, range(len(example["boxes"])), "box", example)
        box = np.asarray(example["boxes"][number], np.float32)
        return {**example, "region": box, "caption": example[self.captions][number]}


@dataclasses.dataclass(frozen=True)
class ChooseQuestion:
    """Sets `question`, `answer` and `question_kind` from the list `qa`.

    Kinds are drawn uniformly first, then a question of that kind, so that no kind dominates
    because it has more questions.
    """

    source: str = "qa"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        types = sorted({entry["kind"] for entry in example[self.source]})
        drawn = _pick(rng, types, "question", example)
        entry = _pick(
            rng, [e for e in example[self.source] if e["kind"] == drawn], "question", example
        )
        chosen = {"question": entry["question"], "answer": entry["answer"], "question_kind": drawn}
        return {**example, **chosen}


@dataclasses.dataclass(frozen=True)
class ChooseRegionQuestion:
    """Sets `question`, `answer` and `region` from the list `region_qa`."""

    source: str = "region_qa"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        entry = _pick(rng, example[self.source], "question about a region", example)
        box = np.asarray(example["boxes"][entry["box_index"]], np.float32)
        return {
            **example,
            "question": entry["question"],
            "answer": entry["answer"],
            "question_kind": entry["kind"],
            "candidates": entry["candidates"],
            "needs_region": entry["needs_region"],
            "region": box,
        }


@dataclasses.dataclass(frozen=True)
class ChooseMatch:
    """Sets `caption` to a true or, half of the time, a false caption; `answer` to yes or no.

    Attributes:
      positives: field of true captions.
      negatives: field of false captions, each a one-word change.
    """

    positives: str = "captions"
    negatives: str = "negatives"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        matches = bool(rng.integers(2))
        captions = example[self.positives if matches else self.negatives]
        caption = _pick(rng, captions, "caption", example)
        return {**example, "caption": caption, "answer": "yes" if matches else "no"}


@dataclasses.dataclass(frozen=True)
class KeepOneReferring:
    """Keeps one drawn referring expression with its box, so that a crop can center on it.

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


def _pick(rng: np.random.Generator, values: Any, what: str, example: Example) -> Any:
    if len(values) == 0:
        raise InstructionError(f"example {example.get('image_id', '?')!r} has no {what}")
    return values[int(rng.integers(len(values)))]
