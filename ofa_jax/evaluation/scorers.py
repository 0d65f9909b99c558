"""How a task is scored: by a scorer of the table, or by a metric function of its own.

Tasks name their scorer or bring a function of the shape of seqio's `metric_fns`. Test splits
without truth are not scored: `has_truth` says which examples can be.
"""

from __future__ import annotations

import collections
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ofa_jax.data.ops.image_tokenizer import ImageTokenizer
from ofa_jax.data.sources.example import Example
from ofa_jax.data.tasks.task import MetricFunction, OFATask, image_tokenizer_of
from ofa_jax.evaluation import finetuning_scoring, image_truth, scoring, submission
from ofa_jax.inference.code_images import decoded_images
from ofa_jax.metrics import caption_server
from ofa_jax.metrics.dependency import require_package
from ofa_jax.metrics.verdict import Verdict, of_hits

__all__ = ["SCORERS", "check", "has_truth", "reads_captions", "score"]

SCORERS: Mapping[str, scoring.Scorer] = {
    "region": scoring.region,
    "answer": scoring.answer,
    "answer_by_kind": scoring.answer_by_kind,
    "region_answer": scoring.region_answer,
    "description": scoring.description,
    "true_caption": scoring.true_caption,
    "reference_caption": scoring.reference_caption,
    "objects": scoring.objects,
    "codes": scoring.codes,
    "filled_text": scoring.filled_text,
    "coco_caption": finetuning_scoring.coco_caption,
    "chinese_caption": finetuning_scoring.chinese_caption,
    "server_caption": finetuning_scoring.server_caption,
    "server_caption_with_spice": finetuning_scoring.server_caption_with_spice,
    "vqa_answer": finetuning_scoring.vqa_answer,
    "correlated_answer": finetuning_scoring.correlated_answer,
    "yes_or_no": finetuning_scoring.yes_or_no,
    "summary": finetuning_scoring.summary,
    "written_text": finetuning_scoring.written_text,
    "generated_codes": finetuning_scoring.generated_codes,
}

# Scorers of images: what they get is made of the codes.
_OF_IMAGES = {"true_image": image_truth.true_image}


# Metric functions, as a task would bring its own; the first one where it names none.
_FUNCTIONS = {
    "exact_match": scoring.exact_match,
    "average_precision": scoring.box_average_precision,
}

# Field without which an example cannot be scored.
_TRUTH = {
    "coco_caption": "captions",
    "chinese_caption": "captions",
    "server_caption": "captions",
    "server_caption_with_spice": "captions",
    "reference_caption": "captions",
    "true_caption": "captions",
    "vqa_answer": "answers",
    "correlated_answer": "answer",
    "yes_or_no": "answer",
    "answer": "answer",
    "answer_by_kind": "answer",
    "region_answer": "answer",
    "description": "caption",
    "summary": "reference",
    "written_text": "text",
    "generated_codes": "image_codes",
    "codes": "image_codes",
    "true_image": "text",
}


def check(task: OFATask) -> None:
    """Fails early where the predictions of a task could not be scored or submitted.

    Raises:
      ValueError: an unknown scorer or submission format; the message names the known ones.
      MissingDependencyError: names the package of a scorer that is not installed.
    """
    try:
        submission.check_format(task.answering.submission)
    except ValueError as error:
        raise ValueError(f"task {task.name!r}: {error}") from error
    if not isinstance(task.scorer, str):
        return
    if task.scorer not in (known := [*_FUNCTIONS, *SCORERS, *_OF_IMAGES]):
        raise ValueError(
            f"task {task.name!r}: no scorer {task.scorer!r}; known: {', '.join(known)}, or give a "
            "function of (targets, predictions)"
        )
    if task.scorer in _OF_IMAGES and image_tokenizer_of(task) is None:
        raise ValueError(
            f"task {task.name!r}: the scorer {task.scorer!r} needs a step EncodeImage, whose image "
            "tokenizer turns codes into images"
        )
    if task.scorer.startswith("server_caption"):
        caption_server.check_installed()
    if task.scorer == "summary":
        require_package("rouge_score.rouge_scorer", score="ROUGE")
    if task.scorer == "average_precision":
        require_package("pycocotools.cocoeval", score="mean average precision")


def score(task: OFATask, predictions: Sequence[Any], examples: Sequence[Example]) -> scoring.Result:
    """Scores predictions by the scorer of their task.

    A metric function is called as seqio calls it, `fn(targets, predictions)`: a target is what the
    target slot's field holds (a text, a box, codes; for BOXES pairs of box and label). Where it has
    a parameter `examples`, it gets the prepared examples as well. Each value that it returns is a
    number, or one number per example, whose mean counts. The first is the headline metric; where
    that is per example, rows of predictions carry it, and 0 and 1 are wrong and right.

    Args:
      predictions: of the target's modality, at least one.
      examples: prepared, all with a truth.

    Returns:
      Scores. The baseline of a metric function is the most frequent text, given for all.

    Raises:
      ValueError: the function returns something else; the message names the task.
    """
    if isinstance(task.scorer, str) and task.scorer in _OF_IMAGES:
        tokenizer = cast(ImageTokenizer, image_tokenizer_of(task))
        true = [np.asarray(example["image_codes"]) for example in examples]
        images, coded = (
            list(decoded_images(codes, tokenizer, len(true[0]))) for codes in (predictions, true)
        )
        return _OF_IMAGES[task.scorer](images, examples, coded)
    if isinstance(task.scorer, str) and task.scorer not in _FUNCTIONS:
        return SCORERS[task.scorer](predictions, examples)
    function = _FUNCTIONS[task.scorer] if isinstance(task.scorer, str) else task.scorer
    targets = [_target(task, example) for example in examples]
    values = _values(task, function, targets, predictions, examples)
    primary, first = next(iter(values.items()))
    baseline = None
    if all(isinstance(target, str) for target in targets):
        [(constant, _)] = collections.Counter(targets).most_common(1)
        guessed = _values(task, function, targets, [constant] * len(targets), examples)
        baseline = float(np.mean(guessed[primary]))
    each = first if first.ndim else np.full(len(targets), np.nan)
    is_hit = np.isin(each, (0.0, 1.0)).all()
    return scoring.Result(
        primary=primary,
        metrics={name: float(np.mean(value)) for name, value in values.items()},
        baseline=baseline,
        scores=each.tolist(),
        verdicts=of_hits(each > 0) if is_hit else [Verdict.NONE] * len(targets),
    )


def _target(task: OFATask, example: Example) -> object:
    """What a prediction of the target's modality should be."""
    value = example[task.instructions[0].target_slot.field]
    if task.target_modality == "BOXES":
        return [(one["box"], one["label"]) for one in scoring.true_objects(example)]
    return value.strip() if isinstance(value, str) else np.asarray(value)


def _values(
    task: OFATask,
    function: MetricFunction,
    targets: Sequence[Any],
    predictions: Sequence[Any],
    examples: Sequence[Example],
) -> dict[str, np.ndarray]:
    """float64[] or float64[n] by name."""
    more = {"examples": examples} if "examples" in inspect.signature(function).parameters else {}
    found = function(targets, predictions, **more)
    shapes = ((), (len(targets),))
    try:
        # seqio's own metrics wrap their number.
        values = {str(k): np.asarray(getattr(v, "value", v), float) for k, v in found.items()}
        if values and all(value.shape in shapes for value in values.values()):
            return values
    except (AttributeError, TypeError, ValueError):
        pass
    raise ValueError(
        f"task {task.name!r}: its metric function must return {{name: number}} or {{name: one "
        f"number per example}}, got {str(found)[:120]}"
    )


def has_truth(task: OFATask, example: Example) -> bool:
    """Whether a prepared example can be scored: files of test splits lack the truth."""
    if task.scorer == "region":
        return bool(np.any(np.asarray(example.get("region", 0.0))))
    if task.scorer == "objects":
        return "labels" in example
    if not isinstance(task.scorer, str) or task.scorer in _FUNCTIONS:
        return task.has_truth(example)
    field = _TRUTH.get(task.scorer)
    return field is None or len(example.get(field, ())) > 0


def reads_captions(task: OFATask, example: Example) -> bool:
    """Whether an example is scored by reference captions, which its row shall show."""
    if isinstance(task.scorer, str):
        return _TRUTH.get(task.scorer) == "captions"
    return "captions" in example
