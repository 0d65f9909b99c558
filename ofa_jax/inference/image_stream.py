"""One question about many images: a line per image, batch by batch, resumable.

The part of `infer` that streams. Images are read when it is their turn and held for one batch. A
directory of answers remembers what they depend on: the question, the settings and the model, and of
each image file its size and time. An image that is new or has changed is answered, one that is gone
is left out; answers of another question or model are refused.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ofa_jax import digest, extras
from ofa_jax.atomic import JsonObject, append_lines, cut_torn_line, parsed, read_lines, write_json
from ofa_jax.data.ops.image import image_size
from ofa_jax.errors import started
from ofa_jax.inference.images import ListedImage
from ofa_jax.inference.predictor import OFAPredictor
from ofa_jax.inference.questions import Prediction, Question
from ofa_jax.progress import Progress
from ofa_jax.provenance import provenance
from ofa_jax.sharding.mesh import device_name

logger = logging.getLogger("ofa_jax")

INPUTS_FILE = "answers.json"
# Images that are copied for the report, and bad ones that are named in the log.
SHOWN = 48
NAMED = 20


def answer_images(
    predictor: OFAPredictor,
    images: Sequence[ListedImage],
    asked: Question,
    task: str,
    options: JsonObject,
    output_dir: str,
    batch_size: int,
    *,
    inputs: Mapping[str, object],
    facts: Mapping[str, object],
    overwrite: bool = False,
) -> None:
    """Streams images through the model into `predictions/answers.jsonl`, then a report.

    Args:
      predictor: the model.
      images: in the order of the answers.
      asked: the question, without its image.
      task: name of the task, "" for a free instruction.
      options: of `OFAPredictor.answer`.
      output_dir: directory of the results; "" is runs/infer.
      batch_size: images per step.
      inputs: what the answers depend on besides the images.
      facts: of the model, for the report.
      overwrite: throw away what the directory holds.

    Raises:
      ValueError: a directory with the answers of other inputs, or not one good image.
    """
    root = pathlib.Path(output_dir or "runs/infer")
    prepare_directory(root, INPUTS_FILE, inputs, ("predictions", "examples"), overwrite=overwrite)
    path, bad = root / "predictions" / "answers.jsonl", root / "skipped.jsonl"
    known = {row["key"]: row["file"] for file in (path, bad) for row in _rows_of(file)}
    left = [image for image in images if known.get(image.key) != image.identity]
    shown = {image.key for image in images[:SHOWN]}
    progress = Progress("infer", len(images), unit="image")
    progress.update(done := len(images) - len(left))
    for start in range(0, len(left), batch_size):
        chosen = left[start : start + batch_size]
        good, rejected = [], []
        for image in chosen:
            try:
                name, pixels = image.read()
                predictor.check_region(pixels, asked.region)
                good.append((image, name, pixels))
            except (ValueError, OSError) as error:
                row = {"image": image.name, "reason": str(error)}
                rejected.append({**row, "key": image.key, "file": image.identity})
                if len(rejected) <= NAMED:
                    logger.warning("skipped: %s", error)
        append_lines(bad, rejected)
        if good:
            started()
            questions = [
                Question(pixels, asked.instruction, asked.region, asked.fields)
                for *_, pixels in good
            ]
            # A last batch of its own size would compile a program of its own.
            fill = [questions[0]] * (batch_size - len(questions))
            number = start // batch_size
            found = predictor.answer([*questions, *fill], task, number=number, **options)
            append_lines(
                path,
                (
                    _row(root, image, name, pixels, asked, task, prediction, image.key in shown)
                    for (image, name, pixels), prediction in zip(good, found)
                ),
            )
        progress.update(done := done + len(chosen))
    answered = _in_order(path, images)
    skipped = _in_order(bad, images)
    if skipped:
        logger.warning("%d of %d images were bad and are left out", skipped, len(images))
    if not answered:
        raise ValueError(f"none of the {len(images)} images could be read")
    run = {
        "name": root.name,
        "kind": "answers",
        "description": asked.instruction or task,
        "finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "pictures": len(images),
        "left_out": skipped,
        "hardware": device_name(),
        **facts,
        **provenance(),
    }
    write_json(root / "metrics.json", {"run": run, "tasks": {}, "splits": {}})
    logger.info("predictions: %s", path)
    try:
        # Imported where it is needed: matplotlib takes a second, and the core has none.
        from ofa_jax.report.build import build_report
    except ModuleNotFoundError as error:
        logger.warning("no report: %s", extras.advice(error))
    else:
        logger.info("report: %s", build_report(root))


def prepare_directory(
    root: pathlib.Path,
    file: str,
    inputs: Mapping[str, object],
    results: Sequence[str],
    *,
    overwrite: bool,
) -> None:
    """Makes a directory of results, or goes on in one of the same inputs.

    Args:
      root: the directory.
      file: in which it remembers its inputs.
      inputs: what the results depend on.
      results: directories below it that hold them.
      overwrite: throw away results of other inputs.

    Raises:
      OtherInputsError: it holds results of other inputs; the message names what differs.
    """
    path = root / file
    if path.exists():
        before = parsed(path.read_bytes())
        remedy = "give another directory, or overwrite what is there (--overwrite)"
        if not isinstance(before, dict):
            before = {}
            if not overwrite:
                raise digest.OtherInputsError(
                    f"--output {root}: {file} is damaged, so nobody knows what the answers there "
                    f"depend on; {remedy}"
                )
        if overwrite:
            if digest.differences(before, inputs):
                for name in results:
                    shutil.rmtree(root / name, ignore_errors=True)
                for name in ("skipped.jsonl", "metrics.json"):
                    (root / name).unlink(missing_ok=True)
        else:
            digest.refuse_other(f"--output {root}", before, inputs, remedy=remedy)
    root.mkdir(parents=True, exist_ok=True)
    write_json(path, inputs)


def _row(
    root: pathlib.Path,
    image: ListedImage,
    name: str,
    pixels: np.ndarray,
    asked: Question,
    task: str,
    prediction: Prediction,
    shown: bool,
) -> JsonObject:
    row: JsonObject = {
        "key": image.key,
        "file": image.identity,
        "example_id": name,
        "input_text": asked.instruction or " ".join([task, *map(str, asked.fields.values())]),
        "image": None,
        "image_size": list(image_size(pixels)),
        "prediction_text": prediction.text,
        "target_text": "",
        "score": None,
        "log_probability": round(prediction.log_probability, 5),
    }
    if prediction.box is not None:
        row["predicted_box"] = [round(value, 2) for value in prediction.box]
    if prediction.objects:
        row["predicted_objects"] = [
            {"box": [round(value, 2) for value in box], "label": label}
            for box, label in prediction.objects
        ]
    if prediction.alternatives:
        row["alternatives"] = [
            {"text": other.text, "log_probability": round(other.log_probability, 5)}
            for other in prediction.alternatives
        ]
    if shown:
        # Named by the image: an index would be another image's once a file is added.
        stem = hashlib.sha256(image.key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        file = root / "examples" / "answers" / f"{stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(file)
        row["image"] = str(file.relative_to(root))
    return row


def _rows_of(path: pathlib.Path) -> list[JsonObject]:
    cut_torn_line(path, needs=("key", "file"))
    return list(read_lines(path))


def _in_order(path: pathlib.Path, images: Sequence[ListedImage]) -> int:
    """Brings the lines of a file into the order of the images, each once; returns their number."""
    newest = {row["key"]: row for row in read_lines(path)}
    kept = [
        newest[image.key]
        for image in images
        if image.key in newest and newest[image.key]["file"] == image.identity
    ]
    if [row["key"] for row in read_lines(path)] != [row["key"] for row in kept]:
        temporary = path.with_suffix(".partial")
        temporary.unlink(missing_ok=True)
        append_lines(temporary, kept)
        temporary.replace(path)
    return len(kept)
