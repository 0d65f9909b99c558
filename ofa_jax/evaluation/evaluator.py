"""Runs a model over the evaluation examples of tasks: predict, decode, score, write.

Generation itself is a function the caller gives (`Generate`): rows of a batch in, token ids out.
Predictions go to `predictions/<name>.jsonl`, the pictures of the first examples to
`examples/<name>/`; the report reads only those files.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ofa_jax.data.features import Row
from ofa_jax.data.finetuning_steps import LabelWord
from ofa_jax.data.image_tokenizer import ImageTokenizer
from ofa_jax.data.instruction import Example, trim_at_eos
from ofa_jax.data.pipeline import evaluation_rows, fill_batch
from ofa_jax.data.task import IMAGE_SIZE, Lengths, OFATask
from ofa_jax.evaluation import scoring
from ofa_jax.evaluation.scorers import SCORERS, has_truth
from ofa_jax.inference.code_images import code_grid, with_centre

Generate = Callable[[OFATask, Row], np.ndarray]

# Examples of a task whose pictures are kept and shown.
PICTURES = 48


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model said about one task's examples.

    Attributes:
      task: the task.
      ids: record numbers.
      examples: prepared examples, with the truth; only the first keep their pictures.
      inputs: source token ids, padded, one int32[s] per example.
      targets: true target token ids, padded, one int32[t] per example.
      values: decoded predictions, see `Instruction.decode`.
      tokens: generated ids, one int32[t] per example.
    """

    task: OFATask
    ids: list[int]
    examples: list[Example]
    inputs: list[np.ndarray]
    targets: list[np.ndarray]
    values: list[Any]
    tokens: list[np.ndarray]


def predict(
    task: OFATask,
    generate: Generate,
    lengths: Lengths,
    *,
    split: str,
    count: int,
    batch_size: int,
    seed: int = 0,
) -> Predictions:
    """Generates predictions for the first `count` examples of a split.

    Args:
      task: the task.
      generate: maps (task, batch) to generated ids int32[b, t].
      lengths: task feature lengths.
      split: split of the task's source.
      count: at most this many examples.
      batch_size: examples per call of `generate`; the last batch is filled up.
      seed: seed of the examples.

    Returns:
      The predictions.

    Raises:
      ValueError: the split is empty.
    """
    predictions = Predictions(task, [], [], [], [], [], [])
    pending: list[Row] = []

    def flush() -> None:
        generated = np.asarray(generate(task, fill_batch(pending, batch_size)))
        for ids in generated[: len(pending)]:
            predictions.tokens.append(trim_at_eos(ids))
            predictions.values.append(decoded(task, ids))
        pending.clear()

    for index, example, row in evaluation_rows(task, lengths, split=split, seed=seed, count=count):
        predictions.ids.append(index)
        kept = len(predictions.ids) <= PICTURES
        predictions.examples.append(example if kept else without_pixels(example))
        predictions.inputs.append(row["encoder_input_tokens"])
        predictions.targets.append(row["decoder_target_tokens"])
        pending.append(row)
        if len(pending) == batch_size:
            flush()
    if pending:
        flush()
    if not predictions.ids:
        raise ValueError(f"task {task.name!r} has no examples in split {split!r}")
    return predictions


def decoded(task: OFATask, ids: np.ndarray) -> Any:
    """A prediction of the target's modality; texts are cleaned as the task says.

    Args:
      task: the task.
      ids: int[t] generated ids without bos and decoder prompt.
    """
    value = task.instructions[0].decode(ids, task.tokenizer())
    if task.answering.clean is not None and isinstance(value, str):
        return task.answering.clean(value)
    return value


def without_pixels(example: Example) -> Example:
    """An example without its picture, which takes almost all of its memory."""
    return {
        name: value
        for name, value in example.items()
        if not (isinstance(value, bytes) or (isinstance(value, np.ndarray) and value.ndim > 2))
    }


def score(predictions: Predictions) -> scoring.Result:
    """Scores predictions with the task's scorer.

    Raises:
      ValueError: the examples have no truth to compare with.
    """
    task = predictions.task
    if not all(has_truth(task.scorer, e) for e in predictions.examples):
        raise ValueError(
            f"task {task.name!r} cannot be scored on these examples: some have no truth"
        )
    return SCORERS[task.scorer](predictions.values, predictions.examples)


def write_predictions(
    predictions: Predictions,
    result: scoring.Result,
    run_dir: str | pathlib.Path,
    *,
    name: str,
    pictures: int = PICTURES,
    image_tokenizer: ImageTokenizer | None = None,
) -> pathlib.Path:
    """Writes `predictions/<name>.jsonl` and the pictures of the first examples.

    Args:
      predictions: what the model said.
      result: its scores.
      run_dir: folder of the run.
      name: file name without suffix, the task's family.
      pictures: examples whose images are written.
      image_tokenizer: turns codes into pixels; without it no picture of them is written.

    Returns:
      Path of the jsonl file.
    """
    root = pathlib.Path(run_dir)
    folder = root / "examples" / name
    folder.mkdir(parents=True, exist_ok=True)
    path = root / "predictions" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    with temporary.open("w", encoding="utf-8") as file:
        for number in range(len(predictions.ids)):
            row = prediction_row(predictions, number) | result.judgement(number)
            if number < pictures:
                row |= write_pictures(predictions, number, folder, root, image_tokenizer)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    temporary.replace(path)
    return path


def prediction_row(predictions: Predictions, number: int) -> dict[str, Any]:
    """One line of a predictions file, without score and pictures.

    Args:
      predictions: what the model said.
      number: which of them.
    """
    task, example = predictions.task, predictions.examples[number]
    tokenizer = task.tokenizer()
    guess = predictions.values[number]
    identifier = example.get("example_id") or example.get("image_id") or predictions.ids[number]
    row: dict[str, Any] = {
        "example_id": str(identifier),
        "index": predictions.ids[number],
        "image_id": str(example.get("image_id") or identifier),
        "input_text": tokenizer.decode(trim_at_eos(predictions.inputs[number])).strip(),
        "image": None,
        "prediction_text": tokenizer.decode(predictions.tokens[number]).strip(),
        "target_text": tokenizer.decode(trim_at_eos(predictions.targets[number])).strip(),
    }
    slot = task.instructions[0].target_slot
    if any(getattr(piece, "modality", "") == "BOX" for piece in task.instructions[0].source):
        row["true_box"] = _floats(example["region"])
    if slot.modality == "BOX":
        if has_truth(task.scorer, example):
            row["true_box"] = _floats(example[slot.field])
        row["predicted_box"] = None if guess is None else _floats(guess)
        row["original_box"] = _original_box(guess, example)
    elif slot.modality == "BOXES":
        row["predicted_objects"] = [{"box": _floats(box), "label": label} for box, label in guess]
        row["true_objects"] = scoring.true_objects(example)
    elif slot.modality == "CODE":
        row["codes"] = np.asarray(guess).tolist()
    elif slot.modality == "TEXT":
        row["prediction_text"] = str(guess)
        row["target_text"] = str(example.get("reference", example[slot.field]))
        if "caption" in task.scorer:
            row["references"] = list(example.get("captions", ()))
        if label := _class_of(task, str(guess)):
            row["class"] = label
    return row


def _original_box(guess: Any, example: Example) -> list[float] | None:
    """A predicted box in pixels of the picture as it was stored (SPEC 4.5)."""
    if guess is None or "original_size" not in example:
        return None
    scale = np.asarray(example["original_size"], np.float64) / example[IMAGE_SIZE]
    return _floats(np.asarray(guess, np.float64) * np.tile(scale, 2))


def _class_of(task: OFATask, word: str) -> str | None:
    """The class that an answer's word stands for, in tasks whose classes have words."""
    for step in task.eval_prepare if task.eval_prepare is not None else task.prepare:
        if isinstance(step, LabelWord):
            return {answer: label for label, answer in step.words}.get(word)
    return None


def write_pictures(
    predictions: Predictions,
    number: int,
    folder: pathlib.Path,
    root: pathlib.Path,
    image_tokenizer: ImageTokenizer | None,
) -> dict[str, Any]:
    """Writes the pictures of one prediction; returns the row's fields that name them."""
    task, example = predictions.task, predictions.examples[number]
    index = predictions.ids[number]

    def write(pixels: np.ndarray, suffix: str = "") -> str:
        path = folder / f"{index}{suffix}.png"
        Image.fromarray(pixels).save(path)
        return str(path.relative_to(root))

    predicted = truth = None
    if task.target_modality == "CODE" and image_tokenizer is not None:
        codes = np.asarray(example.get("image_codes", ()))
        if len(codes):
            truth = image_tokenizer.decode(code_grid(codes, image_tokenizer))
        grid = code_grid(predictions.values[number], image_tokenizer, len(codes) or None)
        predicted = image_tokenizer.decode(grid) if grid.size else None
    slot = task.instructions[0].image_slot
    if slot is None:
        shown = {"generated_image": (predicted, "_generated"), "target_image": (truth, "_target")}
        return {
            name: write(picture, suffix)
            for name, (picture, suffix) in shown.items()
            if picture is not None
        }
    if slot.field not in example:
        return {}
    image = np.asarray(example[slot.field])
    row: dict[str, Any] = {"image_size": [image.shape[1], image.shape[0]]}
    row["image"] = write(image)
    if predicted is not None:
        row["masked_image"] = write(with_centre(image, None), "_masked")
        row["infilled_image"] = write(with_centre(image, predicted), "_infilled")
    if truth is not None:
        row["target_image"] = write(with_centre(image, truth), "_target")
    return row


def _floats(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]
