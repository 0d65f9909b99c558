"""Preparation steps of tasks: pure `fn(example, rng) -> example` over the flat schema.

Each function here takes the names it works on and returns a step (a small picklable value).
A step picks what an instruction's slots name: one caption of several, a region and its text, a
matching or a wrong caption.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ofa_jax.data.image_tokenizer import ImageTokenizer, load_image_tokenizer
from ofa_jax.data.instruction import Example, InstructionError
from ofa_jax.data.ops.boxes import as_boxes
from ofa_jax.data.task import OFATask
from ofa_jax.text import cleaning


def _pick(rng: np.random.Generator, values: Any, what: str, example: Example) -> Any:
    if len(values) == 0:
        raise InstructionError(f"example {example.get('image_id', '?')!r} has no {what}")
    return values[int(rng.integers(len(values)))]


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
        kinds = sorted({entry["kind"] for entry in example[self.source]})
        kind = _pick(rng, kinds, "question", example)
        entry = _pick(
            rng, [e for e in example[self.source] if e["kind"] == kind], "question", example
        )
        chosen = {"question": entry["question"], "answer": entry["answer"], "question_kind": kind}
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
class CleanText:
    """Official clean-up of a text field (SPEC 3.3), cut to `max_words` words.

    Attributes:
      field: the text.
      clean: function of `ofa_jax.text.cleaning` that takes the text and the number of words.
      max_words: words kept.
      optional: whether the text may be empty, as the truth of a test row is.
    """

    field: str
    clean: Callable[[str, int], str]
    max_words: int
    optional: bool = False

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        text = self.clean(str(example[self.field]), self.max_words)
        if not text and not self.optional:
            raise InstructionError(
                f"field {self.field!r} of example {example.get('image_id', '?')!r} is empty "
                "after clean-up"
            )
        return {**example, self.field: text}


def clean_caption(
    field: str = "caption", *, max_words: int = 30, optional: bool = False
) -> CleanText:
    """Caption clean-up; 30 words in a target, 80 in a source (SPEC 4.3)."""
    return CleanText(field, cleaning.pre_caption, max_words, optional)


def clean_question(field: str = "question", *, max_words: int = 80) -> CleanText:
    """Question clean-up (SPEC 4.3.3); no question mark is appended in pretraining."""
    return CleanText(field, cleaning.pre_question, max_words)


@dataclasses.dataclass(frozen=True)
class LowerCase:
    """Strips and lower-cases a text (SPEC 4.3.8)."""

    field: str = "text"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        return {**example, self.field: str(example[self.field]).strip().lower()}


@dataclasses.dataclass(frozen=True)
class EncodeCentre:
    """Sets `image_codes` to the codes of the central half of the image, in row-major order.

    Attributes:
      tokenizer: cached module-level function that returns the image tokenizer.
    """

    tokenizer: Callable[[], ImageTokenizer]

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        image = example["image"]
        low, high = image.shape[0] // 4, image.shape[0] // 4 * 3
        codes = self.tokenizer().encode(image[low:high, low:high])
        return {**example, "image_codes": codes.reshape(-1)}


def image_tokenizer_of(task: OFATask, name: str = "") -> ImageTokenizer | None:
    """The image tokenizer that shows a task's codes as pictures, or None.

    Args:
      task: its preparation may encode pictures itself; then that tokenizer is the right one.
      name: otherwise the one that made its data, see `load_image_tokenizer`; "" is none.

    Raises:
      ValueError: the named one cannot be loaded.
    """
    for step in task.prepare:
        if isinstance(step, EncodeCentre):
            return step.tokenizer()
    return load_image_tokenizer(name) if name and task.target_modality == "CODE" else None
