"""Writes the official OFA TSV files (SPEC 4.1), the inverse of `sources.tsv`.

For people who want to feed their own data through the official layout, and for tests, which
write small data sets from photographs that installed libraries ship.
"""

from __future__ import annotations

import base64
import pathlib
from collections.abc import Iterable

import numpy as np

from ofa_jax.data.instruction import Example


def _clean(text: str) -> str:
    return " ".join(str(text).split())


def _image(example: Example) -> str:
    return base64.urlsafe_b64encode(bytes(example["image"])).decode("ascii")


def _numbers(values: Iterable[float]) -> str:
    return ",".join(f"{float(value):.2f}" for value in values)


def vision_language_row(example: Example) -> str:
    """One line of `vision_language_examples.tsv`.

    Args:
      example: image (encoded bytes), image_id, type `caption` (captions), `qa` (question,
        answers, answer_conf) or `visual_grounding` (refexps, boxes float[1, 4] in pixels);
        optional objects and dataset.

    Returns:
      Eight tab-separated columns, without newline.

    Raises:
      ValueError: an unknown type.
    """
    kind = example["type"]
    caption = question = refs = ""
    if kind == "caption":
        caption = example["captions"][0]
    elif kind == "qa":
        question = example["question"]
        pairs = zip(example["answer_conf"], example["answers"])
        refs = "&&".join(f"{confidence}|!+{answer}" for confidence, answer in pairs)
    elif kind == "visual_grounding":
        caption, refs = example["refexps"][0], _numbers(example["boxes"][0])
    else:
        raise ValueError(f"type must be caption, qa or visual_grounding, got {kind!r}")
    objects = "&&".join(example.get("objects", ()))
    columns = [caption, question, refs, objects, example.get("dataset", ""), kind]
    identifier = _clean(example["image_id"])
    return "\t".join([identifier, _image(example), *(_clean(column) for column in columns)])


def text_row(example: Example) -> str:
    """One line of `text_examples.tsv`: id and text."""
    return f"{_clean(example['image_id'])}\t{_clean(example['text'])}"


def image_row(example: Example) -> str:
    """One line of `image_examples.tsv`: id, 256x256 image, codes of its central half."""
    codes = " ".join(map(str, np.asarray(example["image_codes"]).reshape(-1).tolist()))
    return f"{_clean(example['image_id'])}\t{_image(example)}\t{codes}"


def detection_row(example: Example) -> str:
    """One line of `detection_examples.tsv`: id, image, `x0,y0,x1,y1,category id,name&&...`."""
    items = [
        f"{_numbers(box)},{number},{_clean(label)}"
        for number, (box, label) in enumerate(zip(example["boxes"], example["labels"]))
    ]
    return f"{_clean(example['image_id'])}\t{_image(example)}\t{'&&'.join(items)}"


def write(path: str | pathlib.Path, rows: Iterable[str]) -> int:
    """Writes lines to a file.

    Returns:
      Number of lines.
    """
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(row + "\n")
            count += 1
    return count
