"""Every source by the name of its format, built from texts as a command line gives them.

`python -m ofa_jax.prepare --source=FORMAT --ARGUMENT=VALUE ...` and `ofa_jax.inspect` come here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ofa_jax.data.sources import schema, split_paths
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.box_units import BOX_UNITS
from ofa_jax.data.sources.coco import CocoCaptions, CocoInstances, KarpathyCaptions
from ofa_jax.data.sources.columns import BOX_FORMS
from ofa_jax.data.sources.example import Source
from ofa_jax.data.sources.open_images import OpenImagesBoxes
from ofa_jax.data.sources.parquet import ParquetSource
from ofa_jax.data.sources.picture_folder import PictureFolder
from ofa_jax.data.sources.questions import Gqa, VqaV2
from ofa_jax.data.sources.refcoco import RefCoco
from ofa_jax.data.sources.snli_ve import SnliVe
from ofa_jax.data.sources.table import TableSource
from ofa_jax.data.sources.text import FORMS, TextSource
from ofa_jax.data.sources.tfds import KINDS as TFDS_KINDS
from ofa_jax.data.sources.tfds import TfdsSource
from ofa_jax.data.sources.tsv import TsvSource
from ofa_jax.data.sources.tsv_layouts import LAYOUTS, TYPES
from ofa_jax.data.sources.visual_genome import (
    VisualGenomeObjects,
    VisualGenomeQuestions,
    VisualGenomeRegions,
)
from ofa_jax.data.sources.webdataset import KINDS as WEBDATASET_KINDS
from ofa_jax.data.sources.webdataset import WebdatasetSource

_ARGUMENT = re.compile(r"--(\w+)(?:=(.*))?", re.DOTALL)


class FormatError(ValueError):
    """An unknown format or argument, or one whose value cannot be read."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a format.

    Attributes:
      meaning: one line for people.
      read: the text to the value of the source's attribute.
      required: whether the source cannot be made without it.
    """

    meaning: str
    read: Callable[[str], Any] = str
    required: bool = False


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of data.

    Attributes:
      about: one line for people.
      make: the source; its keywords are the names of the arguments.
      arguments: by name.
    """

    about: str
    make: Callable[..., Source]
    arguments: Mapping[str, Argument]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [item.partition("=") for item in _names(text)]
    if not all(separator and name and value for name, separator, value in pairs):
        raise ValueError(f"{text!r} is not NAME=VALUE,NAME=VALUE,...")
    return tuple((name.strip(), value.strip()) for name, _, value in pairs)


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _paths(meaning: str, *, required: bool = True) -> Argument:
    return Argument(meaning, split_paths.parse, required)


_BOXES = {"boxes": Argument(f"what coordinates are, one of {', '.join(BOX_UNITS)}; pixels")}
_SCALED_BOXES = {
    "scale_boxes": Argument("whether boxes follow resized pictures; false", _flag),
    **_BOXES,
}
_DATASET = {"dataset": Argument("name of the data set, stored with every example")}
_IMAGES = {"images": _paths("folder of the pictures; several are separated by commas"), **_DATASET}

FORMATS: Mapping[str, Format] = {
    "prepared": Format(
        "shards that ofa_jax.prepare wrote",
        PreparedSource,
        {
            "folder": Argument("folder of the shards", required=True),
            "types": Argument(f"types of examples to keep, of {', '.join(schema.TYPES)}", _names),
        },
    ),
    "tsv": Format(
        "official OFA TSV files, of pretraining and of every fine-tuning",
        TsvSource,
        {
            "paths": _paths("the file"),
            "layout": Argument(f"one of {', '.join(LAYOUTS)}", required=True),
            "types": Argument(f"rows to keep of vision_language, of {', '.join(TYPES)}", _names),
            "columns": Argument("the file's columns, if not the official ones; _ skips", _names),
            **_BOXES,
            **_DATASET,
        },
    ),
    "coco_captions": Format(
        "COCO captions: captions_*.json",
        CocoCaptions,
        {"annotations": _paths("the JSON file"), **_IMAGES},
    ),
    "karpathy": Format(
        "captions with Karpathy's splits: dataset_coco.json, dataset_flickr30k.json",
        KarpathyCaptions,
        {
            "annotations": _paths("the JSON file"),
            "with_restval": Argument("whether train includes restval; true", _flag),
            **_IMAGES,
        },
    ),
    "coco_instances": Format(
        "boxes in COCO's form: instances_*.json, Objects365",
        CocoInstances,
        {"annotations": _paths("the JSON file"), **_SCALED_BOXES, **_IMAGES},
    ),
    "vqa": Format(
        "VQAv2: v2_OpenEnded_mscoco_*_questions.json, v2_mscoco_*_annotations.json",
        VqaV2,
        {
            "questions": _paths("the files of questions"),
            "annotations": _paths("the files of answers; none for test sets", required=False),
            "image_name": Argument("file name of a picture: COCO_{subset}_{image_id:012d}.jpg"),
            **_IMAGES,
        },
    ),
    "gqa": Format(
        "GQA: *_questions.json",
        Gqa,
        {
            "questions": _paths("the files"),
            "full_answers": Argument("whether answers are sentences; false", _flag),
            "balanced_only": Argument("whether to drop unbalanced questions; false", _flag),
            **_IMAGES,
        },
    ),
    "refcoco": Format(
        "RefCOCO, RefCOCO+, RefCOCOg: refs(...).p, instances.json",
        RefCoco,
        {
            "refs": _paths("the expressions, a pickle or JSON"),
            "instances": _paths("instances.json of the same folder"),
            **_SCALED_BOXES,
            **_IMAGES,
        },
    ),
    "visual_genome_regions": Format(
        "Visual Genome: region_descriptions.json",
        VisualGenomeRegions,
        {"annotations": _paths("the JSON file"), **_BOXES, **_IMAGES},
    ),
    "visual_genome_questions": Format(
        "Visual Genome: question_answers.json",
        VisualGenomeQuestions,
        {"annotations": _paths("the JSON file"), **_IMAGES},
    ),
    "visual_genome_objects": Format(
        "Visual Genome: objects.json",
        VisualGenomeObjects,
        {"annotations": _paths("the JSON file"), **_BOXES, **_IMAGES},
    ),
    "snli_ve": Format(
        "SNLI-VE: snli_ve_*.jsonl beside the pictures of Flickr30k",
        SnliVe,
        {"annotations": _paths("the JSON-lines file"), **_IMAGES},
    ),
    "open_images": Format(
        "OpenImages: *-annotations-bbox.csv",
        OpenImagesBoxes,
        {
            "boxes": _paths("the CSV file of boxes"),
            "classes": _paths("class-descriptions-boxable.csv"),
            "with_groups": Argument("whether to keep boxes around groups; false", _flag),
            **_IMAGES,
        },
    ),
    "picture_folder": Format(
        "a tree of pictures, with class folders or text files beside them",
        PictureFolder,
        {
            "kind": Argument(f"one of {', '.join(WEBDATASET_KINDS)}; image"),
            "label_names": Argument("file of classes and their words, for ImageNet's folders"),
            **_IMAGES,
        },
    ),
    "webdataset": Format(
        "uncompressed tars of key.jpg, key.txt, key.json, as img2dataset writes them",
        WebdatasetSource,
        {
            "paths": _paths("the tars; * and commas are allowed"),
            "kind": Argument(f"one of {', '.join(WEBDATASET_KINDS)}; caption"),
            "caption_key": Argument("key of the caption where only JSON is there; caption"),
            **_DATASET,
        },
    ),
    "parquet": Format(
        "parquet files of hubs, arrow files of the datasets library",
        ParquetSource,
        {
            "paths": _paths("the files; * and commas are allowed"),
            "columns": Argument(
                "field=column,...: image=image.bytes,answers=answers[].answer",
                _pairs,
                required=True,
            ),
            "constants": Argument(
                "field=text,... of every row: type=caption,dataset=sbu", _pairs, required=True
            ),
            "box_form": Argument(f"one of {', '.join(BOX_FORMS)}; xyxy"),
            **_BOXES,
        },
    ),
    "table": Format(
        "own data: a CSV, TSV with a header, JSONL or JSON that names images",
        TableSource,
        {
            "paths": _paths("the tables"),
            "images": _paths("folder that image paths start from; the table's", required=False),
            **{
                name: Argument(f"column of {meaning}; guessed from the header")
                for name, meaning in {
                    "image": "image paths",
                    "caption": "captions",
                    "question": "questions",
                    "answer": "answers",
                    "phrase": "phrases that mean a box",
                    "box": "boxes, or four columns with commas: x0,y0,x1,y1",
                    "label": "classes, of the box or of the image",
                    "split": "names of splits",
                }.items()
            },
            "box_form": Argument(f"one of {', '.join(BOX_FORMS)}; xyxy"),
            "held_out": Argument("every so many images one is for validation; 0", int),
            **_BOXES,
            **_DATASET,
        },
    ),
    "tfds": Format(
        "a data set of TensorFlow Datasets",
        TfdsSource,
        {
            "name": Argument("as TFDS has it: coco_captions, glue/mnli", required=True),
            "data_dir": Argument("folder of prepared data sets; TFDS's own"),
            "kind": Argument(f"how to read records, one of {', '.join(TFDS_KINDS)}"),
            "label_names": Argument("file of classes and their words, for imagenet2012"),
            **_DATASET,
        },
    ),
    "text": Format(
        "lines of text or JSON, also compressed",
        TextSource,
        {
            "paths": _paths("the files; * and commas are allowed"),
            "form": Argument(f"one of {', '.join(FORMS)}; jsonl"),
            "key": Argument("key of the text in an object; text"),
            **_DATASET,
        },
    ),
}


def read_arguments(words: Sequence[str]) -> dict[str, str]:
    """Arguments of a format as a command line gives them.

    Args:
      words: `--NAME=VALUE`, or `--NAME` and `VALUE`.

    Returns:
      Name to value, for `source`.

    Raises:
      FormatError: a word that is neither, a name without value, or one given twice.
    """
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        match = _ARGUMENT.fullmatch(word)
        if not match:
            raise FormatError(f"{word!r} is not --NAME=VALUE; see --help")
        name, value = match.groups()
        if value is None:
            if not rest or rest[0].startswith("--"):
                raise FormatError(f"--{name} has no value")
            value = rest.pop(0)
        if name in found:
            raise FormatError(f"--{name} is given twice")
        found[name] = value
    return found


def source(name: str, arguments: Mapping[str, str]) -> Source:
    """Makes a source.

    Args:
      name: key of `FORMATS`.
      arguments: argument to text. Paths may hold `{split}` and `{DATA_DIR}`, or be given as
        `train=PATH validation=PATH`.

    Returns:
      The source; no file is opened yet.

    Raises:
      FormatError: an unknown format or argument, a missing one, or a value that cannot be read.
    """
    if name not in FORMATS:
        raise FormatError(f"unknown format {name!r}{schema.nearest(name, FORMATS)}")
    known = FORMATS[name].arguments
    for argument in arguments:
        if argument not in known:
            raise FormatError(
                f"format {name!r} has no argument {argument!r}{schema.nearest(argument, known)}"
            )
    if missing := [one for one in known if known[one].required and one not in arguments]:
        raise FormatError(
            f"format {name!r} needs {', '.join(f'{one} ({known[one].meaning})' for one in missing)}"
        )
    values = {}
    for argument, text in arguments.items():
        try:
            values[argument] = known[argument].read(text)
        except ValueError as error:
            raise FormatError(f"format {name!r}, argument {argument!r}: {error}") from error
    try:
        return FORMATS[name].make(**values)
    except ValueError as error:
        raise FormatError(f"format {name!r}: {error}") from error


def manual() -> str:
    """All formats and their arguments, for `--help`."""
    lines = []
    for name, one in FORMATS.items():
        lines.append(f"{name}: {one.about}")
        for argument, about in one.arguments.items():
            needed = " (required)" if about.required else ""
            lines.append(f"    --{argument}: {about.meaning}{needed}")
    return "\n".join(lines)
