"""What kind of answer a task gives, which predictions are right, and which of them to show.

Works on the rows of predictions/<task>.jsonl. The kind is read from the fields that the rows
have, so a new task needs no entry here.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ofa_jax.metrics.detection import match_objects
from ofa_jax.metrics.grounding import iou

Row = Mapping[str, Any]

IOU_THRESHOLD = 0.5


class Kind(enum.Enum):
    """How an example is drawn and judged."""

    GROUNDING = "a box is predicted"
    REGION = "a box is given, text is predicted"
    DETECTION = "several labelled boxes are predicted"
    IMAGE_INFILLING = "a part of the picture is predicted"
    IMAGE_GENERATION = "a picture is predicted"
    TEXT_INFILLING = "masked words are predicted"
    CAPTIONING = "a description is predicted"
    ANSWER = "a short text is predicted"


class Verdict(enum.Enum):
    """Judgement of one prediction; NONE where only a measure makes sense."""

    RIGHT = "right"
    PARTLY = "partly"
    WRONG = "wrong"
    NONE = "none"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Verdict on one prediction with its measure.

    Attributes:
      verdict: right, partly, wrong, or none.
      word: what the page says ("Correct", "False of the image").
      measure: the number behind it, formatted ("IoU 0.82"), or "".
      rank: sorts predictions from bad to good.
    """

    verdict: Verdict
    word: str
    measure: str
    rank: float


def region_box(row: Row) -> Sequence[float] | None:
    """The region that an example's input names: "region_box", else "true_box"; pixels xyxy."""
    return row.get("region_box") or row.get("true_box")


def task_kind(name: str, rows: Sequence[Row]) -> Kind:
    """Reads the kind of a task from the fields of its predictions.

    Args:
      name: task name; decides only between kinds that have the same fields.
      rows: the task's predictions.

    Returns:
      The kind.
    """

    def has(*keys: str) -> bool:
        return any(row.get(key) is not None for row in rows for key in keys)

    lower = name.lower()
    if has("infilled_image", "masked_image"):
        return Kind.IMAGE_INFILLING
    if has("generated_image"):
        return Kind.IMAGE_GENERATION
    if has("predicted_objects", "true_objects"):
        return Kind.DETECTION
    if has("predicted_box", "true_box", "region_box"):
        if has("predicted_box"):
            return Kind.GROUNDING
        # Rows that never name a predicted box were given one. Where all of them are null, either
        # the model never wrote a box or the writer fills in every field: the name decides.
        answers_in_text = "caption" in lower or "vqa" in lower or "question" in lower
        boxes_wanted = any("predicted_box" in row for row in rows) and not has("region_box")
        return Kind.GROUNDING if boxes_wanted and not answers_in_text else Kind.REGION
    if any("<mask>" in str(row.get("input_text", "")) for row in rows):
        return Kind.TEXT_INFILLING
    return Kind.CAPTIONING if "caption" in lower else Kind.ANSWER


def judge(kind: Kind, row: Row, *, binary: bool) -> Judgement:
    """Judges one prediction.

    Boxes are judged here by IoU >= 0.5; all other kinds by the row's own "score", or by "correct"
    (true or false) where the row has it.

    Args:
      kind: the task's kind.
      row: the prediction.
      binary: whether all scores of the task are 0 or 1.

    Returns:
      The judgement.
    """
    score = row.get("score")
    value = float(score) if isinstance(score, (int, float)) else float("nan")
    if kind is Kind.GROUNDING:
        predicted, true = row.get("predicted_box"), row.get("true_box")
        if true is not None:
            if predicted is None:
                return Judgement(Verdict.WRONG, "No box", "answer is not a box", -1.0)
            overlap = float(iou(predicted, true))
            right = overlap >= IOU_THRESHOLD
            verdict = Verdict.RIGHT if right else Verdict.WRONG
            return Judgement(
                verdict, "Correct" if right else "Wrong", f"IoU {overlap:.2f}", overlap
            )
    if kind is Kind.DETECTION:
        predicted = row.get("predicted_objects") or []
        true = row.get("true_objects") or []
        found = len(match_objects(predicted, true, threshold=IOU_THRESHOLD))
        measure = f"{found}/{len(true)} found"
        extra = len(predicted) - found
        if extra:
            measure += f" · {extra} extra"
        total = len(predicted) + len(true)
        f1 = 2 * found / total if total else 1.0
        if f1 == 1.0:
            return Judgement(Verdict.RIGHT, "Correct", measure, f1)
        if found:
            return Judgement(Verdict.PARTLY, "Partly", measure, f1)
        return Judgement(Verdict.WRONG, "Wrong", measure, 0.0)
    if kind in (Kind.IMAGE_INFILLING, Kind.IMAGE_GENERATION):
        measure = f"{100 * value:.0f}% of codes equal" if np.isfinite(value) else ""
        return Judgement(Verdict.NONE, "", measure, value)

    true_word, false_word = "Correct", "Wrong"
    if kind is Kind.CAPTIONING:
        true_word, false_word = "True of the image", "False of the image"
    correct = row.get("correct")
    if isinstance(correct, bool):
        word = true_word if correct else false_word
        return Judgement(Verdict.RIGHT if correct else Verdict.WRONG, word, "", float(correct))
    if not np.isfinite(value):
        return Judgement(Verdict.NONE, "", "", 0.0)
    if kind is Kind.CAPTIONING and not binary:
        return Judgement(Verdict.NONE, "", f"score {value:.2f}", value)
    if value >= 1 - 1e-6:
        return Judgement(Verdict.RIGHT, true_word, "", value)
    if value <= 1e-6:
        return Judgement(Verdict.WRONG, false_word, "", value)
    return Judgement(Verdict.PARTLY, "Partly", f"score {value:.2f}", value)


def judge_all(kind: Kind, rows: Sequence[Row]) -> list[Judgement]:
    """Judges all predictions of a task (see `judge`)."""
    scores = [row.get("score") for row in rows]
    binary = all(score in (0, 1) for score in scores if score is not None)
    return [judge(kind, row, binary=binary) for row in rows]


def choose(rows: Sequence[Row], judgements: Sequence[Judgement], limit: int) -> list[int]:
    """Chooses the examples to show: as many wrong as right ones where there are enough.

    Rows with a picture go first. With verdicts, right and not-right rows alternate in file order;
    without, rows are spread evenly from the best to the worst.

    Args:
      rows: a task's predictions.
      judgements: one per row.
      limit: largest number of examples.

    Returns:
      Indices into `rows`, in order of display.
    """
    pictured = [i for i, row in enumerate(rows) if row.get("image") or row.get("generated_image")]
    pool = pictured or list(range(len(rows)))
    if all(judgements[i].verdict is Verdict.NONE for i in pool):
        ranked = sorted(pool, key=lambda i: (-np.nan_to_num(judgements[i].rank), i))
        if len(ranked) <= limit:
            return ranked
        return [ranked[int(p)] for p in np.linspace(0, len(ranked) - 1, limit).round()]
    right = [i for i in pool if judgements[i].verdict is Verdict.RIGHT]
    others = [i for i in pool if judgements[i].verdict is not Verdict.RIGHT]
    num_right = min(len(right), max(limit // 2, limit - len(others)))
    num_others = min(len(others), limit - num_right)
    chosen = []
    for k in range(max(num_right, num_others)):
        chosen += right[k : k + 1] if k < num_right else []
        chosen += others[k : k + 1] if k < num_others else []
    return chosen
