"""Writes the official fine-tuning files (SPEC 8), the inverse of `tsv_layouts`.

For people who want to train on their own data through the official layouts, and for tests. The
rows of pretraining files are in `tsv_writer`, as is the function that writes them to a file.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

import numpy as np

from ofa_jax.data.instruction import Example
from ofa_jax.data.sources.glue_labels import GLUE_LABELS
from ofa_jax.data.sources.tsv_layouts import IGNORED, LAYOUTS


def _clean(text: object) -> str:
    return " ".join(str(text).split())


def _joined(name: str) -> Callable[[Example], str]:
    return lambda example: "&&".join(_clean(text) for text in example.get(name, ()))


def _answers(example: Example) -> str:
    pairs = zip(example.get("answer_conf", ()), example.get("answers", ()))
    return "&&".join(f"{confidence}|!+{_clean(answer)}" for confidence, answer in pairs)


def _region(example: Example) -> str:
    return ",".join(f"{float(value):.2f}" for value in np.asarray(example["boxes"])[0])


def _codes(example: Example) -> str:
    return " ".join(map(str, np.asarray(example["image_codes"]).reshape(-1).tolist()))


def _image(example: Example) -> str:
    return base64.urlsafe_b64encode(bytes(example["image"])).decode("ascii")


def _text(name: str) -> Callable[[Example], str]:
    return lambda example: _clean(example.get(name, ""))


def _identifier(example: Example) -> str:
    return _clean(example.get("example_id") or example["image_id"])


# Columns that the layouts share -> how their cells are written.
_CELLS: Mapping[str, Callable[[Example], str]] = {
    IGNORED: lambda example: "",
    "image_id": lambda example: _clean(example["image_id"]),
    "example_id": _identifier,
    "image": _image,
    "objects": _joined("objects"),
    "caption": _joined("captions"),
    "question": _text("question"),
    "answers": _answers,
    "region": _region,
    "codes": _codes,
    "hypothesis": _text("hypothesis"),
    "label": _text("label"),
    "text": _text("text"),
    "summary": _text("summary"),
    "sentence1": _text("sentence1"),
    "sentence2": _text("sentence2"),
}

# Layouts whose column "text" holds something else.
_TEXTS: Mapping[str, Callable[[Example], str]] = {
    "refcoco": lambda example: _clean(example["refexps"][0]),
    "refcoco_cn": lambda example: _clean(example["refexps"][0]),
    "ocr": lambda example: _clean(example["captions"][0]),
}


def finetuning_row(layout: str, example: Example) -> str:
    """One line of an official fine-tuning file.

    Args:
      layout: key of `tsv_layouts.LAYOUTS`, not one of the pretraining layouts.
      example: with the fields that the layout's reader makes; pictures as encoded bytes, GLUE
        labels by name.

    Returns:
      Tab-separated columns, without newline.

    Raises:
      ValueError: a layout that `tsv_writer` writes, or an unknown one.
    """
    columns = LAYOUTS[layout].columns if layout in LAYOUTS else ()
    cells = {**_CELLS, "text": _TEXTS.get(layout, _CELLS["text"])}
    if not columns or not set(columns) <= set(cells):
        known = ", ".join(name for name in LAYOUTS if set(LAYOUTS[name].columns) <= set(cells))
        raise ValueError(f"no fine-tuning layout {layout!r}; known: {known}")
    if layout in GLUE_LABELS and example.get("label"):
        numbers = {name: number for number, name in GLUE_LABELS[layout].items()}
        example = {**example, "label": numbers[example["label"]]}
    return "\t".join(cells[name](example) for name in columns)
