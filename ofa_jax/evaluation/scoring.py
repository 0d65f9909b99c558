"""Scores of each kind of task, with what guessing would get.

A scorer takes the predictions of one task and the prepared examples (which hold the truth) and
returns a `Result`, with the verdict on each prediction. Tasks name their scorer, or bring a metric
function of their own: `evaluation.scorers`. Metrics themselves live in `ofa_jax.metrics`; here is
only what a task's truth means. Numpy only.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ofa_jax.atomic import JsonObject
from ofa_jax.data.sources.example import Example
from ofa_jax.metrics import average_precision, classification, detection, grounding, text
from ofa_jax.metrics import caption as caption_metrics
from ofa_jax.metrics import image as image_metrics
from ofa_jax.metrics.grounding import IOU_THRESHOLD
from ofa_jax.metrics.verdict import Verdict, of_hits, of_shares
from ofa_jax.scenes.truth import truth


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of one task on one split.

    Attributes:
      primary: name of the headline metric.
      metrics: name to value, the headline metric included.
      baseline: what the best constant answer reaches on the headline metric, None where unknown.
      scores: one number per example, what the headline metric counts or averages; nan where it is
        of all examples together.
      verdicts: one per example, decided as the headline metric decides; NONE where the metric only
        measures.
      details: one mapping per example, what else the scorer found out and a row of the predictions
        shall tell; empty where there is nothing.

    Raises:
      ValueError: not as many verdicts as scores.
    """

    primary: str
    metrics: dict[str, float]
    baseline: float | None
    scores: list[float]
    verdicts: list[Verdict]
    details: Sequence[Mapping[str, object]] = ()

    def __post_init__(self) -> None:
        if len(self.verdicts) != len(self.scores):
            raise ValueError(f"{len(self.verdicts)} verdicts for {len(self.scores)} scores")

    @classmethod
    def measured(
        cls,
        primary: str,
        metrics: dict[str, float],
        baseline: float | None,
        scores: Iterable[float],
    ) -> Result:
        """A result whose metric only measures: nothing is right or wrong."""
        values = [float(score) for score in scores]
        return cls(primary, metrics, baseline, values, [Verdict.NONE] * len(values))

    def judgement(self, number: int) -> JsonObject:
        """What a row of the predictions says about one of the scored examples."""
        detail = self.details[number] if self.details else {}
        score = float(self.scores[number])
        score = None if math.isnan(score) else score
        return {"score": score, "verdict": self.verdicts[number], **detail}

    def entry(self) -> JsonObject:
        """The entry of `metrics.json`."""
        known = {} if self.baseline is None else {"baseline": self.baseline}
        return {**self.metrics, "primary": self.primary, **known, "n": len(self.scores)}


# What a row says of an example without truth.
NOT_JUDGED: Mapping[str, object] = {"score": None, "verdict": Verdict.NONE}

Objects = Sequence[tuple[np.ndarray, str]]
Scorer = Callable[[Sequence[Any], Sequence[Example]], Result]


def exact_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, list[float]]:
    """The metric function of a task that names no scorer: equal to the target, or not."""
    return {
        "exact_match": [
            float(_plain(guess) == _plain(target)) for guess, target in zip(predictions, targets)
        ]
    }


def box_average_precision(
    targets: Sequence[Objects], predictions: Sequence[Objects]
) -> dict[str, float]:
    """Metric function of objects: COCO's AP by pycocotools; boxes written earlier are surer."""

    def named(groups: Sequence[Objects]) -> list[list[JsonObject]]:
        return [[{"box": box, "label": label} for box, label in group] for group in groups]

    return average_precision.mean_average_precision(named(predictions), named(targets))


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def region(predictions: Sequence[Sequence[float] | None], examples: Sequence[Example]) -> Result:
    """Boxes: Acc@0.5. Baseline: the best of the true boxes, given for every image."""
    true = [example["region"] for example in examples]
    overlaps = grounding.paired_ious(predictions, true)
    hits = overlaps >= IOU_THRESHOLD
    return Result(
        primary="accuracy_at_0.5",
        metrics={
            "accuracy_at_0.5": float(np.mean(hits)),
            "mean_iou": float(np.mean(overlaps)),
            "valid_boxes": float(np.mean([box is not None for box in predictions])),
        },
        baseline=grounding.best_constant(true)[1],
        scores=overlaps.tolist(),
        verdicts=of_hits(hits),
    )


def _labels(predictions: Sequence[str], true: Sequence[str], primary: str) -> Result:
    hits = [guess == answer for guess, answer in zip(predictions, true)]
    return Result(
        primary=primary,
        metrics={primary: classification.accuracy(predictions, true)},
        baseline=classification.majority_baseline(true)[1],
        scores=[float(hit) for hit in hits],
        verdicts=of_hits(hits),
    )


def answer(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Answers: accuracy. Baseline: the most frequent answer."""
    return _labels(predictions, [example["answer"] for example in examples], "accuracy")


def answer_by_kind(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Answers: accuracy, also per kind of question. Baseline: the best answer of each kind."""
    result = answer(predictions, examples)
    groups = collections.defaultdict(list)
    for index, example in enumerate(examples):
        groups[example.get("question_kind", "all")].append(index)
    correct = 0.0
    metrics = dict(result.metrics)
    for group, indices in sorted(groups.items()):
        answers = [examples[index]["answer"] for index in indices]
        correct += classification.majority_baseline(answers)[1] * len(indices)
        metrics[f"accuracy_{group}"] = float(np.mean([result.scores[index] for index in indices]))
    return dataclasses.replace(result, metrics=metrics, baseline=correct / len(examples))


def region_answer(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Answers about a region, by kind of question. Baseline: a guess among the possible answers.

    Some questions can be answered without the region (all objects agree); what ends in
    `needs_region` counts only the others. Of scenes two more baselines are told: the attribute of
    an object of the image that is drawn by lot, and the most frequent answer of each kind.
    """
    judged = answer_by_kind(predictions, examples)
    chance = [1.0 / len(example["candidates"]) for example in examples]
    possible = [guess in example["candidates"] for guess, example in zip(predictions, examples)]
    needed = np.array([bool(example.get("needs_region", True)) for example in examples])
    metrics = {**judged.metrics, "possible_answers": float(np.mean(possible))}
    metrics.pop("accuracy_all", None)
    told: dict[str, Sequence[float]] = {"accuracy": judged.scores}
    if all("scene" in example for example in examples):
        told["any_object"] = [_any_object(example) for example in examples]
        metrics["any_object"] = float(np.mean(told["any_object"]))
        metrics["most_frequent_answer"] = float(judged.baseline or 0.0)
    if needed.any():
        metrics |= {
            f"{name}_needs_region": float(np.mean(np.asarray(values)[needed]))
            for name, values in told.items()
        }
    return dataclasses.replace(judged, metrics=metrics, baseline=float(np.mean(chance)))


def _any_object(example: Example) -> float:
    """How often the answer is right for an object of the scene that is drawn by lot."""
    question_type, things = example["question_kind"], example["scene"]["objects"]
    return float(np.mean([thing[question_type] == example["answer"] for thing in things]))


def description(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """A description with one right wording: exact match. Baseline: the most frequent one."""
    return _labels(predictions, [example["caption"] for example in examples], "exact_match")


def true_caption(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Captions of scenes: the share that the truth checker accepts, and CIDEr-D.

    Baseline: of the 50 most frequent reference captions, the one true of the most scenes.
    """
    scenes = [example["scene"] for example in examples]
    hits = [truth(scene, guess) for scene, guess in zip(scenes, predictions)]
    references = [list(example["captions"]) for example in examples]
    frequent = collections.Counter(line for group in references for line in group)
    constant = max(
        float(np.mean([truth(scene, line) for scene in scenes]))
        for line, _ in frequent.most_common(50)
    )
    cider = caption_metrics.cider_d(list(predictions), references)
    return Result(
        primary="true",
        metrics={
            "true": float(np.mean(hits)),
            "cider_d": float(np.mean(cider)),
            "distinct": len(set(predictions)) / len(predictions),
        },
        baseline=constant,
        scores=[float(hit) for hit in hits],
        verdicts=of_hits(hits),
    )


def reference_caption(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Captions with references: CIDEr-D, BLEU-4, ROUGE-L. Baseline: one reference for all."""
    references = [list(example.get("captions") or [example["caption"]]) for example in examples]
    cider = caption_metrics.cider_d(list(predictions), references)
    constant = caption_metrics.cider_d([references[0][0]] * len(references), references)
    return Result.measured(
        primary="cider_d",
        metrics={
            "cider_d": float(np.mean(cider)),
            "bleu_4": float(caption_metrics.bleu(list(predictions), references)[3]),
            "rouge_l": float(caption_metrics.rouge_l(list(predictions), references)),
        },
        baseline=float(np.mean(constant)),
        scores=cider,
    )


def objects(predictions: Sequence[Objects], examples: Sequence[Example]) -> Result:
    """Detected objects: recall, precision, F1 at IoU 0.5 with equal labels.

    Baseline: the most frequent label in the best constant box, for every image. An image
    without objects scores 1 where none is predicted. Right is an image with every object found and
    nothing else, wrong one without any found.
    """
    predicted = [[{"box": box, "label": label} for box, label in guess] for guess in predictions]
    true = [true_objects(example) for example in examples]
    metrics = {
        f"{name}_at_0.5": float(value)
        for name, value in detection.detection_scores(predicted, true).items()
        if name in ("recall", "precision", "f1")
    }
    baseline = 0.0
    if everything := [item for group in true for item in group]:
        boxes = [item["box"] for item in everything]
        [(label, _)] = collections.Counter(item["label"] for item in everything).most_common(1)
        constant = [{"box": boxes[grounding.best_constant(boxes)[0]], "label": label}]
        baseline = detection.detection_scores([constant] * len(true), true)["recall"]
    scores, details = [], []
    for guess, group in zip(predicted, true):
        found = sorted(index for _, index, _ in detection.match_objects(guess, group))
        total = len(guess) + len(group)
        scores.append(2 * len(found) / total if total else 1.0)
        details.append({"found": found})
    return Result("recall_at_0.5", metrics, float(baseline), scores, of_shares(scores), details)


def codes(predictions: Sequence[np.ndarray], examples: Sequence[Example]) -> Result:
    """Image codes: share of equal codes. Baseline: the most frequent code at each position."""
    true = [np.asarray(example["image_codes"]) for example in examples]
    padded = [fit_codes(np.asarray(guess), len(answer)) for guess, answer in zip(predictions, true)]
    scores = [float(np.mean(guess == answer)) for guess, answer in zip(padded, true)]
    stacked = np.stack(true)
    frequent = [np.bincount(column).max() / len(column) for column in stacked.T]
    return Result.measured(
        primary="code_accuracy",
        metrics={
            "code_accuracy": image_metrics.code_accuracy(padded, true),
            "all_codes_equal": float(np.mean([score == 1.0 for score in scores])),
        },
        baseline=float(np.mean(frequent)),
        scores=scores,
    )


def filled_text(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Infilled texts: exact match and similarity by words. Baseline: the most frequent text."""
    true = [example["text"].strip() for example in examples]
    result = _labels(predictions, true, "exact_match")
    similarity = [
        1.0
        - text.edit_distance(guess.split(), answer.split())
        / max(1, len(guess.split()), len(answer.split()))
        for guess, answer in zip(predictions, true)
    ]
    metrics = {**result.metrics, "word_similarity": float(np.mean(similarity))}
    return dataclasses.replace(result, metrics=metrics)


def true_objects(example: Example) -> list[JsonObject]:
    """The example's objects as {"box", "label"}, in pixels of the model input; none is [] too."""
    return [
        {"box": np.asarray(box, float).tolist(), "label": label}
        for box, label in zip(example.get("boxes", ()), example.get("labels", ()))
    ]


def fit_codes(values: np.ndarray, length: int) -> np.ndarray:
    """int64[length]: codes cut, or filled up with -1, to the length of the truth."""
    fitted = np.full(length, -1, np.int64)
    fitted[: min(length, len(values))] = values[:length]
    return fitted
