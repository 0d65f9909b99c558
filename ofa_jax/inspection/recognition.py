"""Which format a path has, judged by names and first bytes; `--source` says it for the rest.

First half of opening: a path becomes the name of a format of `ofa_jax.data.sources.formats` with
its arguments. Only what is unmistakable is recognized; a guess would show wrong data as right.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable

from ofa_jax.data.ops.image_files import is_image_file, stem_of
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.parquet import schema_of
from ofa_jax.data.sources.table import has_image_column
from ofa_jax.data.sources.tsv_layouts import LAYOUTS
from ofa_jax.inspection.splits import split_prefix

# Official TSV files by the beginning of their names (SPEC 4.1, 8).
_TSV_LAYOUTS = {
    "vision_language_examples": "vision_language",
    "detection_examples": "detection",
    "image_examples": "image",
    "text_examples": "text",
    "caption_stage1": "caption_stage1",
    "caption_stage2": "caption_stage2",
    "refcoco": "refcoco",
    "vqa_": "vqa",
    "snli_ve": "snli_ve",
    "imagenet": "imagenet",
    "coco_vqgan": "image_gen",
}
_TABLE = re.compile(r"\.(csv|jsonl|ndjson)(\.gz|\.bz2|\.xz|\.zst)?$", re.IGNORECASE)
_TEXT = re.compile(r"\.(jsonl|txt)(\.gz|\.bz2|\.xz|\.zst)?$", re.IGNORECASE)
_HEAD_BYTES = 1 << 16
# Levels below a directory that are searched for images.
_DEPTH = 2


class UnknownFormatError(ValueError):
    """A path whose format cannot be told; says what would help."""


@dataclasses.dataclass(frozen=True)
class Recognized:
    """A format with its arguments, as `formats.source` takes them.

    Attributes:
      name: key of `formats.FORMATS`.
      arguments: argument to text.
    """

    name: str
    arguments: dict[str, str]


def recognize(path: pathlib.Path) -> Recognized:
    """Tells the format of a file or directory.

    Args:
      path: exists.

    Returns:
      Name and arguments.

    Raises:
      UnknownFormatError: it cannot be told, or a directory holds several data sets.
    """
    return _directory(path) if path.is_dir() else _file(path)


def _directory(path: pathlib.Path) -> Recognized:
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if any(name.endswith(".array_record") for name in names):
        return Recognized("prepared", {"directory": str(path)})
    if tars := [name for name in names if name.endswith(".tar")]:
        return Recognized("webdataset", {"paths": f"{path}/{split_prefix(tars)}*.tar"})
    for ending in (".parquet", ".arrow"):
        if files := [name for name in names if name.endswith(ending)]:
            return _parquet(path / files[0], f"{path}/{split_prefix(files)}*{ending}")
    prepared = [name for name in names if any((path / name).glob("*.array_record"))]
    if prepared:
        raise UnknownFormatError(
            f"{path} holds several prepared data sets; give one of them: {', '.join(prepared)}"
        )
    files = [file for file in (*path.iterdir(), *path.glob("*/*")) if file.is_file()]
    found: dict[str, Recognized] = {}
    for file in sorted(files):
        if file.suffix in (".json", ".jsonl", ".tsv", ".p", ".csv"):
            try:
                one = _file(file)
            except UnknownFormatError:
                continue
            if one.name != "text":
                found[str(file.relative_to(path))] = one
    whole = [one for one in found.values() if one.name == "refcoco"]
    if len(found) == 1 or len(whole) == 1:  # instances.json is a part of RefCOCO
        return (whole or list(found.values()))[0]
    if found:
        raise UnknownFormatError(
            f"{path} holds several data sets; give one of its files: {', '.join(found)}"
        )
    if pictures := _image_directory(path):
        return pictures
    shown = ", ".join(names[:6]) + (", ..." if names[6:] else "")
    raise UnknownFormatError(
        f"{path} is no data set that can be recognized ({shown or 'it is empty'}); give a file in "
        "it, or --source with its arguments"
    )


def _image_directory(path: pathlib.Path) -> Recognized | None:
    """Images in a directory or below it; with captions where a `.txt` has the name of an image."""
    for directory in _image_directories_below(path):
        first = next(entry for entry in _entries(directory) if is_image_file(entry))
        text = first.with_name(f"{stem_of(first.name)}.txt")
        example_type = "caption" if text.is_file() else "image"
        return Recognized("image_folder", {"images": str(path), "kind": example_type})
    return None


def _file(path: pathlib.Path) -> Recognized:
    name = path.name
    if name.endswith(".array_record"):
        raise UnknownFormatError(f"{path} is one shard; give its directory, {path.parent}")
    if path.suffix == ".tsv":
        if (table := _table(path)) is not None:
            return table
        return Recognized("tsv", {"paths": str(path), "layout": _tsv_layout(path)})
    if path.suffix == ".tar":
        return Recognized("webdataset", {"paths": str(path)})
    if path.suffix in (".parquet", ".arrow"):
        return _parquet(path, str(path))
    if _TABLE.search(name) and (table := _table(path)):
        return table
    if match := _TEXT.search(name):
        return Recognized("text", {"paths": str(path), "form": match[1].lower()})
    if path.suffix == ".p" and name.startswith("refs"):
        instances = str(_sibling(path, "instances", ".json"))
        return _beside(path, "refcoco", refs=str(path), instances=instances)
    if path.suffix == ".csv" and "bbox" in name:
        classes = str(_sibling(path, "class-descriptions", ".csv"))
        return _beside(path, "open_images", boxes=str(path), classes=classes)
    if path.suffix == ".json":
        return _json(path)
    raise UnknownFormatError(
        f"{path}: a file of this name is not recognized; give --source (see --help for all)"
    )


def _tsv_layout(path: pathlib.Path) -> str:
    for start, layout in _TSV_LAYOUTS.items():
        if path.name.startswith(start):
            return layout
    with open(path, "rb") as file:
        columns = file.readline(1 << 26).count(b"\t") + 1
    fitting = [name for name, layout in LAYOUTS.items() if len(layout.columns) == columns]
    if columns == len(LAYOUTS["vision_language"].columns):
        return "vision_language"
    raise UnknownFormatError(
        f"{path} has {columns} columns; say which layout it has, --layout "
        f"{' or '.join(fitting or LAYOUTS)}"
    )


def _parquet(path: pathlib.Path, paths: str) -> Recognized:
    """Columns of the usual names: an image, a caption or a text."""
    try:
        columns = schema_of(str(path))
    except SourceError as error:
        raise UnknownFormatError(str(error)) from error
    names = {name.lower(): name for name in columns.names}

    def first(*usual: str) -> str | None:
        return next((names[name] for name in usual if name in names), None)

    picture = first("image", "jpg", "img", "picture")
    words = first("caption", "captions", "text", "txt")
    question = first("question") if picture else None
    if picture and hasattr(columns.field(picture).type, "fields"):
        picture += ".bytes"  # hubs store {bytes, path}
    if words is None and question is None:
        raise UnknownFormatError(
            f"{path} has the columns {', '.join(columns.names)}; say what they mean, as in "
            "--source parquet --columns image=image.bytes,captions=text --constants type=caption"
        )
    if question:
        answers = first("answers", "answer", "multiple_choice_answer")
        pairs = f"image={picture},question={question}" + (f",answers={answers}" if answers else "")
        if answers == "answers" and "struct" in str(columns.field(answers).type):
            pairs += "[].answer"
    else:
        pairs = f"image={picture},captions={words}" if picture else f"text={words}"
    example_type = "qa" if question else "caption" if picture else "text"
    constants = f"type={example_type}"
    return Recognized("parquet", {"paths": paths, "columns": pairs, "constants": constants})


def _table(path: pathlib.Path) -> Recognized | None:
    """A table of own data, if a column has a usual name for images that lie beside it."""
    try:
        if has_image_column(str(path)):
            return Recognized("table", {"paths": str(path)})
    except (ValueError, OSError, EOFError):
        pass
    return None


def _json(path: pathlib.Path) -> Recognized:
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, path.stat().st_size - _HEAD_BYTES))
        ends = head + file.read()
    # The first rule that fits; sections may come in any order, so both ends are looked at.
    rules: Iterable[tuple[Callable[[], bool], str, str]] = (
        (lambda: b'"sentids"' in head or b'"sentences"' in head, "karpathy", "annotations"),
        (lambda: b'"qas"' in head, "visual_genome_questions", "annotations"),
        (lambda: b'"phrase"' in head, "visual_genome_regions", "annotations"),
        (lambda: b'"objects"' in head and b'"names"' in head, "visual_genome_objects",
         "annotations"),
        (lambda: b'"fullAnswer"' in head or b'"imageId"' in head, "gqa", "questions"),
        (lambda: b'"question_id"' in ends and b'"questions"' in ends, "vqa", "questions"),
        (lambda: b'"bbox"' in ends, "coco_instances", "annotations"),
        (lambda: b'"caption"' in ends and b'"image_id"' in ends, "coco_captions", "annotations"),
    )  # fmt: skip
    for fits, name, argument in rules:
        if fits():
            arguments = {argument: str(path)}
            if name == "vqa" and (answers := _vqa_answers(path)):
                arguments["annotations"] = str(answers)
            return _beside(path, name, **arguments)
    if table := _table(path):
        return table
    raise UnknownFormatError(
        f"{path}: the JSON has the form of no known data set; give --source (see --help for all)"
    )


def _vqa_answers(path: pathlib.Path) -> pathlib.Path | None:
    """`v2_mscoco_train2014_annotations.json` of `v2_OpenEnded_mscoco_train2014_questions.json`."""
    name = path.name.replace("OpenEnded_", "").replace("questions", "annotations")
    other = path.with_name(name)
    return other if other != path and other.is_file() else None


def _sibling(path: pathlib.Path, start: str, suffix: str) -> pathlib.Path:
    for other in sorted(path.parent.glob(f"{start}*{suffix}")):
        return other
    raise UnknownFormatError(f"{path} needs {start}{suffix} beside it")


def _beside(path: pathlib.Path, name: str, **arguments: str) -> Recognized:
    """Adds the directories of images around a file of annotations."""
    directories = image_directories(path.parent)
    if not directories:
        raise UnknownFormatError(
            f"{path} looks like {name}, but there is no directory of images near it; give --images"
        )
    return Recognized(name, arguments | {"images": ",".join(map(str, directories))})


def image_directories(start: pathlib.Path) -> list[pathlib.Path]:
    """Directories with pictures: a directory and those below it, or else those around it.

    The nearest ones only, since images of other data sets may have the same names.
    """
    around = start.resolve().parent if start.is_absolute() else start.parent
    return _image_directories_below(start) or _image_directories_below(around)


def _image_directories_below(top: pathlib.Path) -> list[pathlib.Path]:
    found: list[pathlib.Path] = []
    level = [top]
    for _ in range(_DEPTH + 1):
        deeper: list[pathlib.Path] = []
        for directory in level:
            entries = _entries(directory)
            if any(is_image_file(entry) for entry in entries):
                found.append(directory)
            deeper += [e for e in entries if e.is_dir() and not e.name.startswith(".")]
        level = deeper
    return found


def _entries(directory: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(directory.iterdir())
    except PermissionError:
        return []
