"""What kind of answer a task gives, how its verdicts read, and which predictions to show.

Works on the rows of predictions/<task>.jsonl. Whether a prediction is right was decided by the
task's scorer and stands in its row ("verdict"); rows without one are shown without judgement. The
family is read from the fields that the rows have, so a new task needs no entry here.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ofa_jax.metrics.verdict import Verdict

Prediction = Mapping[str, Any]


class Family(enum.Enum):
    """How an example is drawn and described."""

    GROUNDING = "a box is predicted"
    REGION = "a box is given, text is predicted"
    DETECTION = "several labeled boxes are predicted"
    IMAGE_INFILLING = "a part of the image is predicted"
    IMAGE_GENERATION = "an image is predicted"
    RECONSTRUCTION = "an image is made of its codes"
    TEXT_INFILLING = "masked words are predicted"
    CAPTIONING = "a description is predicted"
    ANSWER = "a short text is predicted"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Verdict on one prediction, as the page says it.

    Attributes:
      verdict: of the row.
      word: what the page says ("Correct", "False of the image"), or "".
      measure: the number behind it, formatted ("IoU 0.82"), or "".
    """

    verdict: Verdict
    word: str
    measure: str


_WORDS = {
    Verdict.RIGHT: "Correct",
    Verdict.PARTLY: "Partly",
    Verdict.WRONG: "Wrong",
    Verdict.NONE: "",
}
# Of a picture that was read back, as generated scenes are.
_PICTURE_WORDS = {
    Verdict.RIGHT: "The caption is true of it",
    Verdict.WRONG: "The caption is false of it",
}
_CAPTION_WORDS = {Verdict.RIGHT: "True of the image", Verdict.WRONG: "False of the image"}


def region_box(row: Prediction) -> Sequence[float] | None:
    """The region that an example's input names: "region_box", else "true_box"; pixels xyxy."""
    return row.get("region_box") or row.get("true_box")


def task_family(name: str, rows: Sequence[Prediction]) -> Family:
    """Reads the family of a task from the fields of its predictions.

    Args:
      name: task name; decides only between families that have the same fields.
      rows: the task's predictions.

    Returns:
      The family.
    """

    def has(*keys: str) -> bool:
        return any(row.get(key) is not None for row in rows for key in keys)

    lower = name.lower()
    if has("infilled_image", "masked_image"):
        return Family.IMAGE_INFILLING
    if has("reconstructed_image"):
        return Family.RECONSTRUCTION
    if has("generated_image"):
        return Family.IMAGE_GENERATION
    if has("predicted_objects", "true_objects"):
        return Family.DETECTION
    if has("predicted_box", "true_box", "region_box"):
        if has("predicted_box"):
            return Family.GROUNDING
        # Rows that never name a predicted box were given one. Where all of them are null, either
        # the model never wrote a box or the writer fills in every field: the name decides.
        answers_in_text = "caption" in lower or "vqa" in lower or "question" in lower
        boxes_wanted = any("predicted_box" in row for row in rows) and not has("region_box")
        return Family.GROUNDING if boxes_wanted and not answers_in_text else Family.REGION
    if any("<mask>" in str(row.get("input_text", "")) for row in rows):
        return Family.TEXT_INFILLING
    return Family.CAPTIONING if "caption" in lower else Family.ANSWER


def judge(family: Family, row: Prediction) -> Judgement:
    """Puts the verdict of a row, which its scorer decided, into words.

    Returns:
      The judgement; without verdict, word and measure where the row has none.
    """
    verdict = verdict_of(row)
    if verdict is Verdict.WRONG and family is Family.GROUNDING and row.get("predicted_box") is None:
        return Judgement(verdict, "No box", "answer is not a box")
    words = _WORDS | _CAPTION_WORDS if family is Family.CAPTIONING else _WORDS
    if family is Family.IMAGE_GENERATION and verdict is not Verdict.NONE:
        read = str(row.get("prediction_text", ""))
        return Judgement(
            verdict, (_WORDS | _PICTURE_WORDS)[verdict], f"read as {read or 'nothing'}"
        )
    return Judgement(verdict, words[verdict], _measure(family, row, verdict))


def _measure(family: Family, row: Prediction, verdict: Verdict) -> str:
    found, score = row.get("found"), score_of(row)
    if family is Family.DETECTION and found is not None:
        extra = len(row.get("predicted_objects") or ()) - len(found)
        text = f"{len(found)}/{len(row.get('true_objects') or ())} found"
        return f"{text} · {extra} extra" if extra else text
    if math.isnan(score):
        return ""
    if family is Family.GROUNDING:
        return f"IoU {score:.2f}"
    if family is Family.RECONSTRUCTION:
        return f"PSNR {score:.1f} dB"
    if family in (Family.IMAGE_INFILLING, Family.IMAGE_GENERATION):
        return f"{100 * score:.0f}% of codes equal"
    return f"score {score:.2f}" if verdict in (Verdict.PARTLY, Verdict.NONE) else ""


def verdict_of(row: Prediction) -> Verdict:
    """The verdict in a row of predictions; NONE in rows of older files."""
    return Verdict(row.get("verdict") or "")


def score_of(row: Prediction) -> float:
    """The score in a row of predictions, nan where it has none."""
    score = row.get("score")
    return float(score) if isinstance(score, (int, float)) else math.nan


def is_pictured(row: Prediction) -> bool:
    """Whether an image of the example was kept."""
    return bool(row.get("image") or row.get("generated_image"))


def choose(verdicts: Sequence[Verdict], scores: Sequence[float], limit: int) -> list[int]:
    """Chooses the examples to show: as many wrong and partly right ones as right ones.

    They take turns, each kind in its order, as far as there are any. What is not judged fills the
    rest, spread evenly from the best score to the worst. The same choice says which images are kept
    (`evaluation.example_images`) and which examples a page shows.

    Args:
      verdicts: one per prediction.
      scores: one per prediction; nan where there is none.
      limit: largest number of examples.

    Returns:
      Indices, in order of display.
    """
    groups = [
        [i for i, verdict in enumerate(verdicts) if verdict is wanted]
        for wanted in (Verdict.RIGHT, Verdict.WRONG, Verdict.PARTLY)
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    judged = [i for i in turns if i is not None][:limit]
    rest = [i for i, verdict in enumerate(verdicts) if verdict is Verdict.NONE]
    rest.sort(key=lambda i: -np.nan_to_num(scores[i]))
    if len(rest) > limit - len(judged):
        places = np.linspace(0, len(rest) - 1, limit - len(judged)).round()
        rest = [rest[int(place)] for place in places]
    return judged + rest


def choose_rows(rows: Sequence[Prediction], limit: int) -> list[int]:
    """`choose` among rows of predictions; of each verdict those with an image come first.

    Args:
      rows: a task's predictions.
      limit: largest number of examples.

    Returns:
      Indices into `rows`, in order of display. What is not judged is only shown with its image,
      where any image was kept.
    """
    verdicts = [verdict_of(row) for row in rows]
    pictured = [i for i, row in enumerate(rows) if is_pictured(row)]
    has_image = set(pictured)
    order = pictured + [
        i for i in range(len(rows)) if i not in has_image and (verdicts[i] or not pictured)
    ]
    chosen = choose([verdicts[i] for i in order], [score_of(rows[i]) for i in order], limit)
    return [order[i] for i in chosen]
