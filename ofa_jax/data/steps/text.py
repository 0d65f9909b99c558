"""Clean-up of texts: captions, questions, answers (SPEC 3.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ofa_jax.data.sources.example import Example, InstructionError
from ofa_jax.text import cleaning


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
