"""One evaluated example as a row of `predictions/<name>.jsonl`, and the images that go with it.

The report reads only these rows and images.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ofa_jax.atomic import JsonObject
from ofa_jax.data.ops.image_tokenizer import ImageTokenizer
from ofa_jax.data.sources.example import Example
from ofa_jax.data.steps.finetuning import LabelWord
from ofa_jax.data.steps.image import IMAGE_SIZE
from ofa_jax.data.tasks.features import FeatureRow, identifier
from ofa_jax.data.tasks.instruction import trim_at_eos
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.evaluation import scoring
from ofa_jax.evaluation.scorers import has_truth, reads_captions
from ofa_jax.inference.code_images import code_grid, with_center
from ofa_jax.report.examples import choose, score_of, verdict_of

# Examples of a task whose images are kept and shown.
IMAGES = 48


def decoded(task: OFATask, ids: np.ndarray) -> Any:
    """A prediction of the target's modality; texts are cleaned as the task says.

    Args:
      ids: int[t] generated ids without bos and decoder prompt.
    """
    value = task.instructions[0].decode(ids, task.tokenizer())
    if task.answering.clean is not None and isinstance(value, str):
        return task.answering.clean(value)
    return value


def prediction_row(
    task: OFATask, index: int, example: Example, row: FeatureRow, ids: np.ndarray
) -> JsonObject:
    """One line of a predictions file, without score and images.

    Args:
      index: number of the record.
      example: prepared, with the truth where there is one.
      row: what the model read.
      ids: int[t] generated ids, up to eos.
    """
    tokenizer = task.tokenizer()
    guess = decoded(task, ids)
    name = identifier(example, index)
    found: JsonObject = {
        "example_id": name,
        "index": index,
        "image_id": str(example.get("image_id") or name),
        "input_text": tokenizer.decode(trim_at_eos(row["encoder_input_tokens"])).strip(),
        "image": None,
        "prediction_text": tokenizer.decode(ids).strip(),
        "target_text": tokenizer.decode(trim_at_eos(row["decoder_target_tokens"])).strip(),
    }
    if masked := _masked_text(task, found["input_text"]):
        found["masked_text"] = masked
    slot = task.instructions[0].target_slot
    if any(getattr(piece, "modality", "") == "BOX" for piece in task.instructions[0].source):
        found["true_box"] = _floats(example["region"])
    if slot.modality == "BOX":
        if has_truth(task, example):
            found["true_box"] = _floats(example[slot.field])
        found["predicted_box"] = None if guess is None else _floats(guess)
        found["original_box"] = _original_box(guess, example)
    elif slot.modality == "BOXES":
        found["predicted_objects"] = [{"box": _floats(box), "label": name} for box, name in guess]
        found["true_objects"] = scoring.true_objects(example)
    elif slot.modality == "CODE":
        found["codes"] = np.asarray(guess).tolist()
    elif slot.modality == "TEXT":
        found["prediction_text"] = str(guess)
        found["target_text"] = str(example.get("reference", example.get(slot.field, "")))
        if reads_captions(task, example):
            found["references"] = list(example.get("captions", ()))
        if label := _class_of(task, str(guess)):
            found["class"] = label
    return found


def _masked_text(task: OFATask, text: str) -> str | None:
    """Of what the model read the part with the gaps, without the instruction around it."""
    pieces = task.instructions[0].source
    modalities = ["" if isinstance(piece, str) else piece.modality for piece in pieces]
    if [modality for modality in modalities if modality] != ["MASKED_TEXT"]:
        return None
    place = modalities.index("MASKED_TEXT")
    before, after = ("".join(map(str, part)) for part in (pieces[:place], pieces[place + 1 :]))
    return text.strip().removeprefix(before.strip()).removesuffix(after.strip()).strip()


def _original_box(guess: Any, example: Example) -> list[float] | None:
    """A predicted box in pixels of the image as it was stored (SPEC 4.5)."""
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


def shown_examples(
    judgements: Mapping[int, Mapping[str, object]], limit: int = IMAGES
) -> frozenset[int]:
    """Numbers of the examples whose images are kept, by the rule that the report shows them by.

    Args:
      judgements: by record number, `Result.judgement` or `NOT_JUDGED`.
      limit: largest number of examples.
    """
    numbers = sorted(judgements)
    rows = [judgements[number] for number in numbers]
    chosen = choose([verdict_of(row) for row in rows], [score_of(row) for row in rows], limit)
    return frozenset(numbers[place] for place in chosen)


def write_images(
    task: OFATask,
    index: int,
    example: Example,
    ids: np.ndarray,
    root: pathlib.Path,
    name: str,
    image_tokenizer: ImageTokenizer | None,
) -> JsonObject:
    """Writes the images of one prediction below `examples/<name>/`.

    Args:
      index: number of the record.
      example: prepared, with its image.
      ids: int[t] generated ids.
      root: directory of the results.
      name: of the task and split in files.
      image_tokenizer: turns codes into pixels; without it no image of them is written.

    Returns:
      The fields of the row that name them.
    """
    directory = root / "examples" / name
    directory.mkdir(parents=True, exist_ok=True)

    def write(pixels: np.ndarray, suffix: str = "") -> str:
        path = directory / f"{index}{suffix}.png"
        Image.fromarray(pixels).save(path)
        return str(path.relative_to(root))

    predicted = truth = None
    if task.target_modality == "CODE" and image_tokenizer is not None:
        codes = np.asarray(example.get("image_codes", ()))
        if len(codes):
            truth = image_tokenizer.decode(code_grid(codes, image_tokenizer))
        grid = code_grid(decoded(task, ids), image_tokenizer, len(codes) or None)
        predicted = image_tokenizer.decode(grid) if grid.size else None
    slot = task.instructions[0].image_slot
    if slot is None:
        shown = {"generated_image": (predicted, "_generated"), "target_image": (truth, "_target")}
        return {
            field: write(picture, suffix)
            for field, (picture, suffix) in shown.items()
            if picture is not None
        }
    if slot.field not in example:
        return {}
    image = np.asarray(example[slot.field])
    row: JsonObject = {"image_size": [image.shape[1], image.shape[0]]}
    row["image"] = write(image)
    if predicted is not None:
        row["masked_image"] = write(with_center(image, None), "_masked")
        row["infilled_image"] = write(with_center(image, predicted), "_infilled")
    if truth is not None:
        row["target_image"] = write(with_center(image, truth), "_target")
    return row


def _floats(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]
