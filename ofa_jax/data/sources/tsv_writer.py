"""Writes the official OFA TSV files (SPEC 4.1, 8), the inverse of `sources.tsv`.

For people who want to feed their own data through the official layout, and for tests, which
write small data sets from photographs that installed libraries ship.
"""

from __future__ import annotations

import base64
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.tsv_layouts import GLUE_LABELS, IGNORED, layout


def _clean(text: str) -> str:
    return " ".join(text.split())


def _image(example: Example) -> str:
    return base64.urlsafe_b64encode(bytes(example["image"])).decode("ascii")


def _numbers(values: Iterable[float]) -> str:
    return ",".join(f"{float(value):.2f}" for value in values)


def _region(example: Example) -> str:
    return _numbers(example["boxes"][example.get("refexp_box_index", [0])[0]])


def _answers(example: Example) -> str:
    # Rows of test sets have none.
    answers, confidences = example.get("answers", ()), example.get("answer_conf", ())
    if len(answers) != len(confidences):
        raise ValueError(f"there are {len(answers)} answers and {len(confidences)} answer_conf")
    pairs = zip(confidences, answers)
    return "&&".join(f"{confidence}|!+{answer}" for confidence, answer in pairs)


def _codes(example: Example) -> str:
    return " ".join(map(str, np.asarray(example["image_codes"]).reshape(-1).tolist()))


def _objects(example: Example) -> str:
    return "&&".join(example.get("objects", ()))


def _boxes(example: Example) -> str:
    items = [
        f"{_numbers(box)},{number},{_clean(label)}"
        for number, (box, label) in enumerate(zip(example["boxes"], example["labels"]))
    ]
    return "&&".join(items)


def _glue_number(task: str, example: Example) -> str:
    numbers = {name: number for number, name in GLUE_LABELS[task].items()}
    if example["label"] not in numbers:
        raise ValueError(f"{task} has the classes {', '.join(numbers)}, not {example['label']!r}")
    return numbers[example["label"]]


# How a column is written, in all layouts.
_CELLS: Mapping[str, Callable[[Example], str]] = {
    "image": _image,
    "example_id": lambda example: example.get("example_id") or example["image_id"],
    "caption": lambda example: "&&".join(example["captions"]),
    "answers": _answers,
    "objects": _objects,
    "region": _region,
    "codes": _codes,
    IGNORED: lambda example: "",
}
# Where one layout means something else by the name.
_SPECIAL: Mapping[tuple[str, str], Callable[[Example], str]] = {
    ("detection", "objects"): _boxes,
    ("refcoco", "text"): lambda example: example["refexps"][0],
    ("refcoco_cn", "text"): lambda example: example["refexps"][0],
    ("ocr", "text"): lambda example: example["captions"][0],
    **{(task, "label"): functools.partial(_glue_number, task) for task in GLUE_LABELS},
}


def row(name: str, example: Example, columns: Sequence[str] = ()) -> str:
    """One line of a file of some layout.

    Args:
      name: key of `tsv_layouts.LAYOUTS`.
      example: with the fields that the layout holds.
      columns: another order of the columns.

    Returns:
      The cells, tab separated, without newline; white space within a cell becomes one space.

    Raises:
      ValueError: an unknown layout or column, a type or class that the layout does not have, or an
        example that lacks a field.
    """
    cells = []
    try:
        if name == "vision_language":
            example = _pair(example)
        for column in layout(name, columns).columns:
            write_cell = _SPECIAL.get((name, column)) or _CELLS.get(column)
            cells.append(_clean(write_cell(example) if write_cell else example[column]))
    except KeyError as error:
        raise ValueError(
            f"layout {name!r} needs the field {error}; the example has {', '.join(example)}"
        ) from error
    return "\t".join(cells)


def _pair(example: Example) -> Example:
    """An example whose fields are the columns of `vision_language`."""
    example_type = example["type"]
    cells: Example = {"captions": [""], "question": "", "refs": ""}
    if example_type == "caption":
        cells["captions"] = example["captions"][:1]
    elif example_type == "qa":
        cells |= {"question": example["question"], "refs": _answers(example)}
    elif example_type == "visual_grounding":
        cells |= {"captions": example["refexps"][:1], "refs": _region(example)}
    else:
        raise ValueError(f"type must be caption, qa or visual_grounding, got {example_type!r}")
    return {"dataset": "", **example, **cells}


def vision_language_row(example: Example) -> str:
    """One line of `vision_language_examples.tsv`.

    Args:
      example: image (encoded bytes), image_id, type `caption` (captions), `qa` (question,
        answers, answer_conf) or `visual_grounding` (refexps, boxes float[1, 4] in pixels);
        optional objects and dataset.

    Returns:
      Eight tab-separated columns, without newline.

    Raises:
      ValueError: an unknown type, or an example that lacks a field.
    """
    return row("vision_language", example)


def text_row(example: Example) -> str:
    """One line of `text_examples.tsv`: id and text."""
    return row("text", example)


def image_row(example: Example) -> str:
    """One line of `image_examples.tsv`: id, 256x256 image, codes of its central half."""
    return row("image", example)


def detection_row(example: Example) -> str:
    """One line of `detection_examples.tsv`: id, image, `x0,y0,x1,y1,category id,name&&...`."""
    return row("detection", example)


def write(path: str | pathlib.Path, rows: Iterable[str]) -> int:
    """Writes lines to a file.

    Returns:
      Number of lines.
    """
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for line in rows:
            file.write(line + "\n")
            count += 1
    return count
