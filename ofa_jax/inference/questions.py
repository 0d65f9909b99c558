"""What a model is asked about an image, and what it answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ofa_jax.data.ops.image import Given

__all__ = ["Box", "Prediction", "Question"]

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model answered.

    Attributes:
      text: the answer; whole tokens are written out (`<bin_3>`). `str()` gives it too.
      box: (x0, y0, x1, y1) in pixels of the given image, where the answer has four bins in a row
        and there was an image; else None.
      box_probability: of the four bins together, see `Tokenizer.box_probability`; None without a
        box, or where answers of a list were ranked.
      objects: every (box, label) of a detection, in pixels of the given image.
      object_probabilities: of the four bins of each of them; () where answers were ranked.
      score: what answers are ordered by: the log-probability, divided by a power of the length
        where the recipe says so.
      log_probability: of the whole answer, natural logarithm; the prompt is not part of it.
      token_ids: internal ids without EOS.
      alternatives: the next best answers, where several were asked for.
    """

    text: str
    box: Box | None
    score: float
    token_ids: tuple[int, ...]
    log_probability: float = 0.0
    box_probability: float | None = None
    objects: tuple[tuple[Box, str], ...] = ()
    object_probabilities: tuple[float, ...] = ()
    alternatives: tuple[Prediction, ...] = ()

    @property
    def probability(self) -> float:
        """Of the whole answer."""
        return math.exp(self.log_probability)

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked about an image.

    Attributes:
      image: path, uint8[y, x, 3] or PIL image; None for a question about text alone.
      instruction: the free instruction; "" where a task is asked by name.
      region: x0, y0, x1, y1 in pixels of the image; takes the place of `{region}` in the
        instruction, or is the box that the task reads.
      fields: what else the task reads, such as {"question": "what color is it?"}.
    """

    image: Given | None = None
    instruction: str = ""
    region: Sequence[float] | None = None
    fields: Mapping[str, object] = dataclasses.field(default_factory=dict)
