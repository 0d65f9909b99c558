"""Predictions in the official formats (SPEC 8.14), written line by line.

`evaluate.py` of the official code writes one JSON list per split, `<split>_predict.json`; GLUE's
server wants a table. Memory does not grow with the number of predictions.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

Prediction = Mapping[str, Any]
Format = str | Callable[[Prediction], Mapping[str, object]]
"""A name of `FORMATS`, "glue", or a function like those of `FORMATS`."""


def _identifier(row: Prediction) -> int | str:
    """Numbers stay numbers, as the benchmarks' servers want them."""
    text = str(row["example_id"])
    return int(text) if text.isdecimal() and not text.startswith("0") else text


def _caption(row: Prediction) -> Mapping[str, object]:
    return {"image_id": row["image_id"], "caption": row["prediction_text"]}


def _vqa(row: Prediction) -> Mapping[str, object]:
    return {"question_id": _identifier(row), "answer": row["prediction_text"]}


def _refcoco(row: Prediction) -> Mapping[str, object]:
    return {"uniq_id": row["example_id"], "box": row["original_box"] or [0.0, 0.0, 0.0, 0.0]}


def _answer(row: Prediction) -> Mapping[str, object]:
    return {"uniq_id": row["example_id"], "answer": row["prediction_text"]}


def _ocr(row: Prediction) -> Mapping[str, object]:
    return {"image_id": row["image_id"], "ocr": row["prediction_text"]}


def _gigaword(row: Prediction) -> Mapping[str, object]:
    return {"hyp": row["prediction_text"], "ref": row["target_text"]}


def _image_codes(row: Prediction) -> Mapping[str, object]:
    return {"uniq_id": row["example_id"], "codes": row["codes"], "caption": row["input_text"]}


FORMATS: Mapping[str, Callable[[Prediction], Mapping[str, object]]] = {
    "caption": _caption,
    "vqa": _vqa,
    "refcoco": _refcoco,
    "answer": _answer,
    "ocr": _ocr,
    "gigaword": _gigaword,
    "image_codes": _image_codes,
}
GLUE = "glue"

# Classes that GLUE's server wants as numbers; those of mnli, qnli and rte it wants by name.
_NUMBERED = {
    "unacceptable": 0,
    "acceptable": 1,
    "not_equivalent": 0,
    "equivalent": 1,
    "not_duplicate": 0,
    "duplicate": 1,
    "negative": 0,
    "positive": 1,
}


def check_format(form: Format) -> None:
    """Fails where a submission could not be written.

    Raises:
      ValueError: an unknown format.
    """
    if isinstance(form, str) and form not in ("", GLUE, *FORMATS):
        raise ValueError(
            f"no submission format {form!r}; known: {', '.join([*FORMATS, GLUE])}, or give a "
            "function from a row of the predictions to its entry"
        )


def file_name(form: Format, split: str) -> str:
    """Name of a submission file, `<split>_predict.json`, or `.tsv` for GLUE."""
    return f"{split}_predict.{'tsv' if form == GLUE else 'json'}"


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[TextIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        yield file
    temporary.replace(path)


def write_submission(path: pathlib.Path, form: Format, rows: Iterable[Prediction]) -> int:
    """Writes a submission file.

    Args:
      path: the file; replaced at once when it is complete.
      form: makes the entry of a row in a JSON list; "glue" a table of row number and class.
      rows: predictions of `evaluation.prediction_rows`, in order.

    Returns:
      Number of predictions.

    Raises:
      ValueError: an unknown format.
    """
    if form == GLUE:
        return _write_table(path, rows)
    check_format(form)
    entry = FORMATS[form] if isinstance(form, str) else form
    count = 0
    with _replacing(path) as file:
        file.write("[")
        for row in rows:
            file.write(",\n " if count else "\n ")
            file.write(json.dumps(entry(row), ensure_ascii=False))
            count += 1
        file.write("\n]\n")
    return count


def _write_table(path: pathlib.Path, rows: Iterable[Prediction]) -> int:
    count = 0
    with _replacing(path) as file:
        file.write("index\tprediction\n")
        for row in rows:
            answer = row.get("class") or row["prediction_text"]
            file.write(f"{row['index']}\t{_NUMBERED.get(answer, answer)}\n")
            count += 1
    return count
