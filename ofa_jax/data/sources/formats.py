"""Every source by the name of its format, built from texts as a command line gives them.

`python -m ofa_jax.prepare --source=FORMAT --ARGUMENT=VALUE ...` and `ofa_jax.inspect` come here.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from ofa_jax.data.sources import schema, split_paths
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.coco import CocoCaptions, CocoInstances, KarpathyCaptions
from ofa_jax.data.sources.example import Source
from ofa_jax.data.sources.image_folder import ImageFolder
from ofa_jax.data.sources.open_images import OpenImagesBoxes
from ofa_jax.data.sources.parquet import ParquetSource
from ofa_jax.data.sources.questions import Gqa, VqaV2
from ofa_jax.data.sources.refcoco import RefCoco
from ofa_jax.data.sources.snli_ve import SnliVe
from ofa_jax.data.sources.table import TableSource
from ofa_jax.data.sources.text import TextSource
from ofa_jax.data.sources.tfds import KINDS as TFDS_KINDS
from ofa_jax.data.sources.tfds import TfdsSource
from ofa_jax.data.sources.tsv import TsvSource
from ofa_jax.data.sources.tsv_layouts import LAYOUTS, TYPES
from ofa_jax.data.sources.visual_genome import (
    VisualGenomeObjects,
    VisualGenomeQuestions,
    VisualGenomeRegions,
)
from ofa_jax.data.sources.webdataset import WebdatasetSource
from ofa_jax.schema import meanings, nearest

_ARGUMENT = re.compile(r"--(\w+)(?:=(.*))?", re.DOTALL)


# What a kind of file may be, by its ending: people know the ending, formats are named by content.
_TABLE = "give --source=table for a table of images, boxes, captions or answers, or --source=text"
_KINDS_OF_FILES = {
    **dict.fromkeys(("csv", "xlsx", "jsonl", "json_lines"), _TABLE),
    "json": f"{_TABLE}; --source=coco_captions, vqa and others read the files of known data sets",
    **dict.fromkeys(("tar", "wds"), "give --source=webdataset"),
    **dict.fromkeys(("jpg", "jpeg", "png", "images"), "give --source=image_folder"),
    "txt": "give --source=text",
}


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
    read: Callable[[str], object]
    required: bool


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of data.

    Attributes:
      about: one line for people.
      make: the source, a dataclass; its fields are the arguments of the format.
    """

    about: str
    make: Callable[..., Source]

    @functools.cached_property
    def arguments(self) -> Mapping[str, Argument]:
        """By name: those of the source's own class first, then those of its base classes."""
        fields = {field.name: field for field in dataclasses.fields(cast(Any, self.make))}
        found: dict[str, Argument] = {}
        for owner in cast(type, self.make).__mro__:
            about = meanings(owner)
            for name in vars(owner).get("__annotations__", ()):
                field, meaning = fields[name], about.get(name, "")
                if (self.make, name) in _VALUES:
                    meaning += f" Known: {', '.join(_VALUES[self.make, name])}."
                required = field.default is dataclasses.MISSING
                if not required and field.default not in ("", ()):
                    meaning += f" Default: {field.default}."
                found.setdefault(name, Argument(meaning, _READERS.get(field.type, str), required))
        return found


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


# Annotation of an attribute -> how its text is read; of all others the text is the value.
_READERS: Mapping[object, Callable[[str], object]] = {
    "split_paths.Paths": split_paths.parse,
    "tuple[str, ...]": _names,
    "tuple[tuple[str, str], ...]": _pairs,
    "bool": _flag,
    "int": int,
}
# Values that the docstrings name by the name of their list.
_VALUES: Mapping[tuple[object, str], Iterable[str]] = {
    (PreparedSource, "types"): schema.TYPES,
    (TsvSource, "layout"): LAYOUTS,
    (TsvSource, "types"): TYPES,
    (TfdsSource, "kind"): TFDS_KINDS,
}

FORMATS: Mapping[str, Format] = {
    "prepared": Format("shards that ofa_jax.prepare wrote", PreparedSource),
    "tsv": Format("official OFA TSV files, of pretraining and of every fine-tuning", TsvSource),
    "coco_captions": Format("COCO captions: captions_*.json", CocoCaptions),
    "karpathy": Format(
        "captions with Karpathy's splits: dataset_coco.json, dataset_flickr30k.json",
        KarpathyCaptions,
    ),
    "coco_instances": Format("boxes in COCO's form: instances_*.json, Objects365", CocoInstances),
    "vqa": Format(
        "VQAv2: v2_OpenEnded_mscoco_*_questions.json, v2_mscoco_*_annotations.json", VqaV2
    ),
    "gqa": Format("GQA: *_questions.json", Gqa),
    "refcoco": Format("RefCOCO, RefCOCO+, RefCOCOg: refs(...).p, instances.json", RefCoco),
    "visual_genome_regions": Format("Visual Genome: region_descriptions.json", VisualGenomeRegions),
    "visual_genome_questions": Format(
        "Visual Genome: question_answers.json", VisualGenomeQuestions
    ),
    "visual_genome_objects": Format("Visual Genome: objects.json", VisualGenomeObjects),
    "snli_ve": Format("SNLI-VE: snli_ve_*.jsonl beside the images of Flickr30k", SnliVe),
    "open_images": Format("OpenImages: *-annotations-bbox.csv", OpenImagesBoxes),
    "image_folder": Format(
        "a tree of images, with class directories or text files beside them", ImageFolder
    ),
    "webdataset": Format(
        "uncompressed tars of key.jpg, key.txt, key.json, as img2dataset writes them",
        WebdatasetSource,
    ),
    "parquet": Format("parquet files of hubs, arrow files of the datasets library", ParquetSource),
    "table": Format(
        "own data: a CSV, TSV with a header, JSONL or JSON that names images", TableSource
    ),
    "tfds": Format("a data set of TensorFlow Datasets", TfdsSource),
    "text": Format("lines of text or JSON, also compressed", TextSource),
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
        if advice := _KINDS_OF_FILES.get(name.lower().lstrip(".")):
            raise FormatError(f"{name!r} is a kind of file, not a format; {advice}")
        raise FormatError(f"unknown format {name!r}{nearest(name, FORMATS)}")
    known = FORMATS[name].arguments
    for argument in arguments:
        if argument not in known:
            raise FormatError(
                f"format {name!r} has no argument {argument!r}{nearest(argument, known)}"
            )
    needed = {one: about.meaning for one, about in known.items() if about.required}
    if missing := [
        f"{one} ({meaning.partition('. ')[0].rstrip('.')})"
        for one, meaning in needed.items()
        if one not in arguments
    ]:
        raise FormatError(f"format {name!r} needs {', '.join(missing)}")
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
