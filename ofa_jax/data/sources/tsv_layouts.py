"""What the columns of each official TSV file mean: pretraining (SPEC 4.1), fine-tuning (SPEC 8).

A layout names its columns in the order of the official file and says how they become an example.
Files that other people made may have other columns or another order: `Layout.with_columns`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ofa_jax.data.ops import image as image_ops
from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.values import is_blank, number
from ofa_jax.schema import require_known

Columns = Mapping[str, str]

_BETWEEN_NUMBERS = re.compile(r"[\s,;]+")

# Task of GLUE -> what the official TSV files write -> name of the class (SPEC 8.7). Every source
# yields the name, which TFDS has too, as `label`, whatever its files say; tasks map it to words.
GLUE_LABELS: Mapping[str, Mapping[str, str]] = {
    "cola": {"0": "unacceptable", "1": "acceptable"},
    # SPEC 8.7, a trap: this is not the order of GLUE itself, where entailment is 0.
    "mnli": {"0": "neutral", "1": "entailment", "2": "contradiction"},
    "mrpc": {"0": "not_equivalent", "1": "equivalent"},
    "qnli": {"0": "not_entailment", "1": "entailment"},
    "qqp": {"0": "not_duplicate", "1": "duplicate"},
    "rte": {"0": "not_entailment", "1": "entailment"},
    "sst2": {"0": "negative", "1": "positive"},
}

# A column of this name is not read.
IGNORED = "_"

# Cells by which the first line of a GLUE file is known to be its header; test files have no labels.
_HEADER_CELLS = {
    "label": frozenset({"label", "is_duplicate", "gold_label", "Quality"}),
    "sentence1": frozenset({"sentence", "sentence1", "question", "question1", "#1 String"}),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The columns of a file.

    Attributes:
      columns: their names, left to right; `_` marks one that is not read.
      read: columns by name to an example.
      required: columns that `read` cannot do without.
      has_header: whether files may begin with a line of names.
    """

    columns: tuple[str, ...]
    read: Callable[[Columns], Example]
    required: frozenset[str]
    has_header: bool = False

    def with_columns(self, columns: Sequence[str]) -> Layout:
        """The same rows in another order, with more columns or fewer.

        Args:
          columns: names of this layout's columns, and `_` for what is not read.

        Raises:
          ValueError: an unknown name, one given twice, or a necessary one missing.
        """
        named = [name for name in columns if name != IGNORED]
        for name in named:
            require_known("column", name, self.columns)
            if named.count(name) > 1:
                raise ValueError(f"the column {name!r} is given twice")
        if missing := self.required - set(named):
            raise ValueError(f"the columns {', '.join(sorted(missing))} are missing")
        return dataclasses.replace(self, columns=tuple(columns))

    def is_header(self, cells: Sequence[str]) -> bool:
        """Whether the first line of a file names its columns."""
        if not self.has_header or len(cells) != len(self.columns):
            return False
        return any(cell in _HEADER_CELLS.get(name, ()) for name, cell in zip(self.columns, cells))


def layout(name: str, columns: Sequence[str] = ()) -> Layout:
    """A layout by name.

    Args:
      name: key of `LAYOUTS`.
      columns: the file's own order, if it is not the official one.

    Raises:
      ValueError: an unknown layout or column.
    """
    require_known("TSV layout", name, LAYOUTS)
    return LAYOUTS[name].with_columns(columns) if columns else LAYOUTS[name]


def _identity(row: Columns) -> Example:
    return {name: row[name] for name in ("image_id", "example_id") if name in row}


def _picture(row: Columns) -> Example:
    return {**_identity(row), "image": image_ops.decode_base64(row["image"])}


def _names(cell: str) -> list[str]:
    return [name for name in cell.split("&&") if not is_blank(name)]


def _answers(cell: str) -> Example:
    if not cell.strip():
        return {}
    pairs = [item.partition("|!+") for item in cell.split("&&") if not is_blank(item)]
    if not all(separator for _, separator, _ in pairs):
        raise ValueError(f"the answers are {cell[:60]!r}, not 'confidence|!+answer' joined by &&")
    return {
        "answers": [answer for _, _, answer in pairs],
        "answer_conf": [number(confidence, "a confidence") for confidence, _, _ in pairs],
    }


def _region(cell: str, expression: str) -> Example:
    if not cell.strip():
        return {"refexps": [expression]}
    box = [number for number in _BETWEEN_NUMBERS.split(cell.strip("[]() \t")) if number]
    if len(box) != 4:
        raise ValueError(f"the region is {cell[:60]!r}, not 'x0,y0,x1,y1'")
    return {
        "boxes": np.array([[number(value, "a side of the box") for value in box]], np.float32),
        "refexps": [expression],
        "refexp_box_index": [0],
        "region_captions": [expression],
    }


def _codes(cell: str) -> np.ndarray:
    codes = [number(code, "a code") for code in cell.split()]
    if not all(abs(code) < 2**31 and code.is_integer() for code in codes):
        raise ValueError(f"the codes are {cell[:60]!r}, not whole numbers below 2^31")
    return np.array(codes, np.int32)


def _captions(cell: str) -> Example:
    captions = _names(cell)
    return {"captions": captions, "caption": captions[0] if captions else ""}


def _vision_language(row: Columns) -> Example:
    if row["type"] not in TYPES:
        raise ValueError(f"the last column is {row['type'][:40]!r}, not one of {', '.join(TYPES)}")
    example: Example = {
        **_picture(row),
        "caption": row["caption"],
        "objects": _names(row["objects"]),
        "dataset": row["dataset"],
        "type": row["type"],
    }
    if row["type"] == "caption":
        example["captions"] = [] if is_blank(row["caption"]) else [row["caption"]]
    elif row["type"] == "qa":
        example |= {"question": row["question"], **_answers(row["refs"])}
    else:
        example |= _region(row["refs"], row["caption"])
    return example


def _text(row: Columns) -> Example:
    return {**_identity(row), "text": row["text"], "type": "text"}


def _image(row: Columns) -> Example:
    return {**_picture(row), "image_codes": _codes(row["codes"]), "type": "image"}


def _detection(row: Columns) -> Example:
    if not row["objects"].strip():
        return {**_picture(row), "type": "detection"}
    fields = [item.split(",", 5) for item in row["objects"].split("&&")]
    if not all(len(item) == 6 for item in fields):
        raise ValueError(
            f"the objects are {row['objects'][:60]!r}, not 'x0,y0,x1,y1,number,name' joined by &&"
        )
    boxes = [[number(value, "a side of the box") for value in item[:4]] for item in fields]
    return {
        **_picture(row),
        "boxes": np.array(boxes, np.float32),
        "labels": [item[5] for item in fields],
        "type": "detection",
    }


def _caption(row: Columns) -> Example:
    example = {**_picture(row), **_captions(row.get("caption", "")), "type": "caption"}
    if "objects" in row:
        example["objects"] = _names(row["objects"])
    return example


def _referring(row: Columns) -> Example:
    region = _region(row.get("region", ""), row["text"])
    return {**_picture(row), **region, "caption": row["text"], "type": "visual_grounding"}


def _question(row: Columns) -> Example:
    example = {**_picture(row), "question": row["question"], "type": "qa"}
    example |= _answers(row.get("answers", ""))
    if "objects" in row:
        # Empty names stay, as in the official task (SPEC 8.3).
        example["objects"] = row["objects"].strip().split("&&")
    return example


def _entailment(row: Columns) -> Example:
    example = {**_picture(row), "hypothesis": row["hypothesis"], "type": "entailment"}
    if "caption" in row:
        example |= {"captions": [row["caption"]], "caption": row["caption"]}
    if row.get("label", "").strip():
        if row["label"] not in ENTAILMENT_LABELS:
            raise ValueError(
                f"the class {row['label'][:40]!r} is not one of {', '.join(ENTAILMENT_LABELS)}"
            )
        example["label"] = row["label"]
    return example


def _classification(row: Columns) -> Example:
    return {**_picture(row), "label": row.get("label", ""), "type": "classification"}


def _text_to_image(row: Columns) -> Example:
    example: Example = {**(_picture(row) if "image" in row else _identity(row))}
    if "codes" in row:
        example["image_codes"] = _codes(row["codes"])
    captions = {"captions": [row["caption"]], "caption": row["caption"]}
    return {**example, **captions, "type": "text_to_image"}


def _ocr(row: Columns) -> Example:
    text = row.get("text", "")
    written = {"captions": [text], "caption": text} if not is_blank(text) else {}
    return {**_picture(row), **written, "type": "ocr"}


def _summary(row: Columns) -> Example:
    example = {**_identity(row), "text": row["text"], "type": "summary"}
    return example | ({"summary": row["summary"]} if "summary" in row else {})


def _sentences(task: str, row: Columns) -> Example:
    example: Example = {**_identity(row), "dataset": task, "type": "sentences"}
    example |= {name: row[name] for name in ("sentence1", "sentence2") if name in row}
    # Test files have no labels; some distributions write -1.
    if (label := row.get("label", "").strip()) not in ("", "-1"):
        example["label"] = glue_label(task, label)
    return example


def glue_label(task: str, written: str) -> str:
    """The class of a row.

    Args:
      task: key of `GLUE_LABELS`.
      written: number of the official files, or the name itself.

    Returns:
      Its name.

    Raises:
      ValueError: another number or name.
    """
    names = GLUE_LABELS[task]
    if written in names.values():
        return written
    if written not in names:
        known = ", ".join(f"{number} ({name})" for number, name in names.items())
        raise ValueError(f"the class {written[:40]!r} of {task} is not one of {known}")
    return names[written]


def _layout(columns: str, read: Callable[[Columns], Example], required: str) -> Layout:
    return Layout(tuple(columns.split()), read, frozenset(required.split()))


def _glue(task: str, columns: str) -> Layout:
    """SPEC 8.7 selects columns of GLUE's own files; the others have no name here."""
    names = tuple(columns.split())
    needed = frozenset(name for name in names if name.startswith("sentence"))
    return Layout(names, functools.partial(_sentences, task), needed, has_header=True)


# What the last column of `vision_language` may say.
TYPES = ("caption", "qa", "visual_grounding")

ENTAILMENT_LABELS = ("entailment", "neutral", "contradiction")

_CAPTION = "example_id image_id caption objects image"

# What `read` cannot do without; the truth is not among it, since files of test splits lack it.

LAYOUTS: Mapping[str, Layout] = {
    # Pretraining, SPEC 4.1.
    "vision_language": _layout(
        "image_id image caption question refs objects dataset type",
        _vision_language,
        "image_id image caption question refs objects dataset type",
    ),
    "text": _layout("image_id text", _text, "text"),
    "image": _layout("image_id image codes", _image, "image codes"),
    "detection": _layout("image_id image objects", _detection, "image objects"),
    # Fine-tuning, SPEC 8. Stage 1 and 2 differ in captions per row; the code asks for no more.
    "caption_stage1": _layout(_CAPTION, _caption, "image"),
    "caption_stage2": _layout(_CAPTION, _caption, "image"),
    "caption_muge": _layout("image_id image caption", _caption, "image"),
    "refcoco": _layout("example_id image_id text region image", _referring, "text image"),
    # SPEC 8.10: the Chinese files have another order.
    "refcoco_cn": _layout("example_id text region image", _referring, "text image"),
    "vqa": _layout(
        "example_id image_id question answers objects image", _question, "question image"
    ),
    "snli_ve": _layout(
        "example_id image_id image hypothesis caption label", _entailment, "image hypothesis"
    ),
    "imagenet": _layout("image _ label", _classification, "image"),
    "imagenet_pairs": _layout("image label", _classification, "image"),
    "image_gen": _layout("image_id codes caption", _text_to_image, "caption"),
    "image_gen_text": _layout("image_id caption", _text_to_image, "caption"),
    "image_gen_picture": _layout("image_id image caption codes", _text_to_image, "caption"),
    "gigaword": _layout("text summary", _summary, "text"),
    "ocr": _layout("image_id image text", _ocr, "image"),
    "cola": _glue("cola", "_ sentence1 label"),
    "mnli": _glue("mnli", "sentence1 sentence2 label"),
    "mrpc": _glue("mrpc", "sentence1 sentence2 label"),
    "qnli": _glue("qnli", "image_id sentence1 sentence2 label"),
    "qqp": _glue("qqp", "image_id _ _ sentence1 sentence2 label"),
    "rte": _glue("rte", "image_id sentence1 sentence2 label"),
    "sst2": _glue("sst2", "sentence1 label"),
}
