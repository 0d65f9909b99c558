"""Many pictures through one instruction: a line per picture, batch by batch, resumable.

The part of `infer` that streams. Pictures are read when it is their turn and held for one batch.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ofa_jax.atomic import write_json
from ofa_jax.data.ops.image import decode_image, image_size, read_image
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.inference.predictor import OFAPredictor, Prediction
from ofa_jax.inference.weights import Devices
from ofa_jax.report.build import build_report
from ofa_jax.sharding.mesh import device_name

logger = logging.getLogger("ofa_jax")

REGION = "{region}"
# Pictures that are copied for the report, and bad ones that are named in the log.
SHOWN = 48
NAMED = 20


def with_region(
    instruction: str,
    region: Sequence[float] | None,
    image: np.ndarray | None,
    predictor: OFAPredictor,
) -> str:
    """Writes a region of a picture into the instruction, as bins.

    Args:
      instruction: with `{region}` in it.
      region: x0, y0, x1, y1 in pixels of the picture; None changes nothing.
      image: uint8[y, x, 3].
      predictor: knows the bins.

    Raises:
      ValueError: the region is not inside the picture.
    """
    if region is None or image is None:
        return instruction
    x0, y0, x1, y1 = region
    width, height = image_size(image)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(
            f"region {x0:g},{y0:g},{x1:g},{y1:g} is not inside the picture of {width}x{height} "
            "pixels (left, top, right, bottom)"
        )
    return instruction.replace(REGION, predictor.region(region, image))


def picture_files(paths: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(name, uint8[y, x, 3] or the error) of each file, read when it is its turn."""
    for path in paths:
        try:
            yield path, read_image(path)
        except (ValueError, OSError) as error:
            yield path, error


def prepared_pictures(folder: str, split: str) -> Iterator[tuple[str, Any]]:
    """(name, uint8[y, x, 3] or the error) of each example of a prepared data set.

    Raises:
      ValueError: no such folder or split.
    """
    records = PreparedSource(folder).open(split)
    for index in range(len(records)):
        example = records[index]
        name = str(example.get("image_id", index))
        try:
            image = example.get("image", b"")
            yield name, decode_image(image) if isinstance(image, bytes) else np.asarray(image)
        except ValueError as error:
            yield name, ValueError(f"{name}: {error}")


def answer_pictures(
    predictor: OFAPredictor,
    pictures: Iterator[tuple[str, Any]],
    instruction: str,
    region: Sequence[float] | None,
    options: dict[str, Any],
    output_dir: str,
    batch_size: int,
    facts: Mapping[str, Any],
) -> None:
    """Streams pictures through the model into `predictions/answers.jsonl`, then a report.

    Args:
      predictor: the model; it is spread over all devices of this process.
      pictures: (name, pixels or error).
      instruction: what to ask about each.
      region: see `with_region`.
      options: of `OFAPredictor.generate_batch`.
      output_dir: folder of the results; "" is runs/infer.
      batch_size: pictures per step.
      facts: of the model, for the report.

    Raises:
      ValueError: a batch that does not divide over the devices, a folder with the answers to
        another instruction, or not one good picture.
    """
    devices = Devices.of_this_process()
    devices.check_batch(batch_size, "--batch_size")
    predictor.spread(devices.replicate, devices.split)
    root = pathlib.Path(output_dir or "runs/infer")
    _refuse_other_instruction(root, instruction, region)
    path = root / "predictions" / "answers.jsonl"
    (root / "examples" / "answers").mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    bad = root / "skipped.jsonl"
    done = _complete_lines(path) + _complete_lines(bad)
    if done:
        logger.info("going on behind %d pictures in %s", done, path)
    count = skipped = 0
    batch: list[tuple[int, str, Any, str]] = []
    with path.open("a", encoding="utf-8") as file:

        def flush() -> None:
            images = [image for _, _, image, _ in batch]
            asked = [line for _, _, _, line in batch]
            fill = batch_size - len(batch)
            found = predictor.generate_batch(
                [*images, *[images[0]] * fill], [*asked, *[asked[0]] * fill], **options
            )
            for (index, name, image, line), prediction in zip(batch, found):
                row = _row(root, index, name, image, line, prediction)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            batch.clear()
            logger.info("%d pictures answered", count - skipped)

        for index, (name, image) in enumerate(pictures):
            count += 1
            if index < done:
                continue
            try:
                if isinstance(image, Exception):
                    raise image
                line = with_region(instruction, region, image, predictor)
            except (ValueError, OSError) as error:
                skipped += 1
                if skipped <= NAMED:
                    logger.warning("skipped: %s", error)
                if batch:
                    flush()  # so that the two files together tell where to go on
                with bad.open("a", encoding="utf-8") as rejected:
                    rejected.write(json.dumps({"image": name, "reason": str(error)}) + "\n")
                continue
            batch.append((index, name, image, line))
            if len(batch) == batch_size:
                flush()
        if batch:
            flush()
    if skipped:
        logger.warning("%d of %d pictures were bad and are left out", skipped, count)
    if skipped == count:
        raise ValueError(f"none of the {count} pictures could be read")
    run = {
        "name": root.name,
        "kind": "answers",
        "description": instruction,
        "finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "pictures": count,
        "left_out": _complete_lines(bad),
        "hardware": device_name(),
        **facts,
    }
    write_json(root / "metrics.json", {"run": run, "tasks": {}, "splits": {}})
    logger.info("predictions: %s, report: %s", path, build_report(root))


def _row(
    root: pathlib.Path,
    index: int,
    name: str,
    image: np.ndarray,
    line: str,
    prediction: Prediction,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "example_id": name,
        "input_text": line,
        "image": None,
        "image_size": list(image_size(image)),
        "prediction_text": prediction.text,
        "target_text": "",
        "log_probability": round(prediction.score, 5),
    }
    if prediction.box is not None:
        row["predicted_box"] = [round(value, 2) for value in prediction.box]
    if index < SHOWN:
        file = root / "examples" / "answers" / f"{index}.png"
        Image.fromarray(np.ascontiguousarray(image)).save(file)
        row["image"] = str(file.relative_to(root))
    return row


def _complete_lines(path: pathlib.Path) -> int:
    """Complete lines of a file; an incomplete last one is cut off."""
    if not path.exists():
        return 0
    lines = end = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines, end = lines + 1, end + len(line)
    with path.open("r+b") as file:
        file.truncate(end)
    return lines


def _refuse_other_instruction(
    root: pathlib.Path, instruction: str, region: Sequence[float] | None
) -> None:
    path = root / "instruction.json"
    asked = {"instruction": instruction, "region": None if region is None else list(region)}
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != asked:
        raise ValueError(
            f"--output {root} holds the answers to another instruction; give another folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    write_json(path, asked)
