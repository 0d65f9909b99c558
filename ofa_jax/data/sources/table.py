"""Own data as people have them: a table or list of records beside the images it names.

CSV, TSV with a header and JSON lines (also compressed, with a byte-order mark or UTF-16), a JSON
list of records, or a JSON mapping of image to caption. A row may serve several tasks: one with a
caption and a question becomes an example of each.
"""

from __future__ import annotations

import ast
import codecs
import csv
import dataclasses
import io
import logging
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from ofa_jax.data.ops.image_files import has_image_name, image_ids, stem_of
from ofa_jax.data.sources import columns, split_paths
from ofa_jax.data.sources.annotated_images import AnnotatedRow, BoxedImages, ImageRecords, MadeRows
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.json_items import items
from ofa_jax.data.sources.left_out import READING_ERRORS, LeftOut
from ofa_jax.data.sources.lines import utf16_without_mark
from ofa_jax.data.sources.schema import may_lack_truth
from ofa_jax.data.sources.text import opened
from ofa_jax.data.sources.values import number, optional_text, text
from ofa_jax.schema import nearest, parse_json, require_known

logger = logging.getLogger("ofa_jax")

_DELIMITERS = ",\t;|"
# What a column is called, by what it holds: small letters, without "_" and blanks.
_USUAL = {
    "image": "filename imagepath path filepath imagefile imagename image img file image photo",
    "caption": "caption captions text description title",
    "question": "question questions",
    "answer": "answer answers multiplechoiceanswer",
    "phrase": "phrase phrases refexp expression expressions referringexpression",
    "box": "box boxes bbox bboxes region objects.bbox",
    "label": "label labels class category categories objects.category objects.categories",
    "split": "split subset",
}
_CORNERS = (
    "x0 y0 x1 y1",
    "x1 y1 x2 y2",
    "xmin ymin xmax ymax",
    "left top right bottom",
    "x y w h",
    "x y width height",
    "left top width height",
)
_FIELDS = {
    "caption": "captions",
    "question": "question",
    "answer": "answers",
    "phrase": "refexps",
    "box": "boxes",
    "label": "labels",
}
# Type of example -> columns that it needs, and those that it takes along.
_TYPES = {
    "visual_grounding": (("box", "phrase"), ()),
    "qa": (("question",), ("answer",)),
    "detection": (("box", "label"), ()),
    "caption": (("caption",), ()),
    "classification": (("label",), ()),
}
# Cells may hold long texts, of many answers or boxes.
csv.field_size_limit(1 << 27)
# Columns that may be empty in a test split, or not there.
_TRUTH = frozenset({"caption", "answer", "box", "label"})

_Record = tuple[str, Mapping[str, object]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSource(BoxedImages):
    """Examples of tables with a column of image paths.

    Attributes:
      paths: the tables.
      images: directory that the paths start from; "" is the directory of each table.
      image: column of image paths. Of this and of those that follow, "" guesses from the header;
        `objects.bbox` reaches into records.
      caption: column of captions.
      question: column of questions.
      answer: column of answers.
      phrase: column of phrases that mean a box.
      box: column of boxes, or four that make one: `x0,y0,x1,y1`.
      label: column of classes, of the box or of the image.
      split: column of names of splits; rows of the others are not read.
      box_form: what four numbers of a box are: `xyxy`, or `xywh` with width and height; "" is
        `xyxy` unless the guessed columns say otherwise.
      held_out: every so many images, one belongs to `validation` and not to `train`; 0 for none.
    """

    paths: split_paths.Paths
    images: split_paths.Paths = ""
    image: str = ""
    caption: str = ""
    question: str = ""
    answer: str = ""
    phrase: str = ""
    box: str = ""
    label: str = ""
    split: str = ""
    box_form: str = ""
    held_out: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("form of boxes", self.box_form or "xyxy", columns.BOX_FORMS)
        if self.held_out < 0 or self.held_out == 1:
            raise ValueError(f"held_out is 0, or 2 and more images, not {self.held_out}")

    def open(self, split: str) -> ImageRecords:
        """Reads the tables of a split.

        Raises:
          ValueError: a file or directory is missing, or a table has no column of images.
        """
        if self.images:
            return super().open(split)
        files = split_paths.files(self.paths, split, "tables")
        around = dict.fromkeys(str(pathlib.Path(path).parent) for path in files)
        return dataclasses.replace(self, images=",".join(around)).open(split)

    def data_files(self, split: str) -> tuple[str, ...]:
        """The tables, and the directories of images where they are given."""
        found = split_paths.files(self.paths, split, "tables")
        directories = split_paths.directories(self.images, split, "images") if self.images else ()
        return (*found, *directories)

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """One row per type of example that a record can be."""
        directories = split_paths.directories(self.images, split, "the images")
        made: list[AnnotatedRow] = []
        for path in split_paths.files(self.paths, split, "tables"):
            found, form = self._columns(path)
            optional = _TRUTH if may_lack_truth(split) else ()
            types = _types(found, optional)
            numbers: dict[str, int] = {}
            for place, record in _records(path, left_out):
                try:
                    cells = {name: _cell(record, column) for name, column in found.items()}
                    name = _inside(
                        text(cells.pop("image"), f"column {found['image']!r}"), directories
                    )
                    number = numbers.setdefault(name, len(numbers))
                    if self._belongs(split, optional_text(cells.pop("split", None)), number):
                        rows = self._rows(
                            place, name, cells, found, types, form, optional, left_out
                        )
                        made += rows
                except READING_ERRORS as error:
                    left_out.add_error(place, error, entry=record)
        ids = image_ids(pathlib.PurePosixPath(row.picture).name for row in made)
        for row in made:
            row.fields["image_id"] = ids[pathlib.PurePosixPath(row.picture).name]
        return MadeRows(lambda row: row._replace(fields=dict(row.fields)), made)

    def _belongs(self, split: str, stated: str | None, number: int) -> bool:
        if stated is not None:
            return split_paths.usual_split(stated.lower()) == split_paths.usual_split(split)
        if self.held_out and split in ("train", "validation"):
            # The last of each group: small tables keep an image to train on.
            return (number % self.held_out == self.held_out - 1) == (split == "validation")
        return True

    def _rows(
        self,
        place: str,
        name: str,
        cells: Mapping[str, object],
        found: Mapping[str, str],
        types: Sequence[str],
        form: str,
        optional: Collection[str],
        left_out: LeftOut,
    ) -> Iterator[AnnotatedRow]:
        """The examples of one record; what a record lacks of all types is left out."""
        missing, made = "", False
        for example_type in types:
            needed, further = _TYPES.get(example_type, ((), ()))
            lacking = [one for one in needed if not _holds(cells.get(one))]
            if any(one not in optional for one in lacking):
                missing = missing or next(one for one in lacking if one not in optional)
                continue
            image_id = stem_of(pathlib.PurePosixPath(name).name)
            fields: Example = {"image_id": image_id, "type": example_type}
            try:
                for one in (*needed, *(one for one in further if one in cells)):
                    if one in optional and not _holds(cells.get(one)):
                        continue
                    if one == "answer" and not _holds(cells[one]):
                        raise SourceError("there is no answer", Reason.NO_ANSWER)
                    field = "label" if example_type == "classification" else _FIELDS[one]
                    fields[field] = columns.field_value(
                        field,
                        _numbers(cells[one]) if one == "box" else _listed(cells[one]),
                        f"column {found[one]!r}",
                        mapped=[_FIELDS[other] for other in needed],
                        box_form=form,
                    )
                fields = columns.completed(fields)
                if "boxes" in fields and "refexps" in fields and "refexp_box_index" not in fields:
                    raise SourceError(
                        f"{len(fields['refexps'])} phrases for {len(fields['boxes'])} boxes",
                        Reason.NOT_ONE_TARGET,
                    )
            except READING_ERRORS as error:
                left_out.add_error(place, error, entry=dict(cells))
                made = True
                continue
            made = True
            relative = self.boxes == "fractions" and "boxes" in fields
            yield AnnotatedRow(place, name, fields, relative=relative)
        if not made:
            reason = Reason.NO_BOX if missing == "box" else Reason.EMPTY_TEXT
            left_out.add(reason, f"{place}: column {found[missing]!r} is empty")

    def _columns(self, path: str) -> tuple[dict[str, str], str]:
        """Column of each use, given or guessed, and the form of the boxes."""
        header = _header(path)
        plain = {re.sub(r"[\s_-]", "", one).lower(): one for one in reversed(header)}
        form = self.box_form
        found: dict[str, str] = {}
        for use, usual in _USUAL.items():
            if given := getattr(self, use):
                known = {*header, *(one.partition(".")[0] for one in header)}
                for one in given.split(","):
                    if columns.parts(one)[0] not in known:
                        raise SourceError(f"{path} has no column {one!r}{nearest(one, header)}")
                found[use] = given
            elif name := next((plain[one] for one in usual.split() if one in plain), ""):
                found[use] = name
        if "box" not in found:
            for four in _CORNERS:
                if all(one in plain for one in four.split()):
                    found["box"] = ",".join(plain[one] for one in four.split())
                    form = form or ("xywh" if four.split()[2][0] == "w" else "xyxy")
                    break
        if "image" not in found:
            raise SourceError(
                f"{path} has the columns {', '.join(header)}, none of a usual name for images; "
                "say which holds their paths, --image=COLUMN"
            )
        # A text beside a box says what is in it.
        boxed = "box" in found and "label" not in found and "phrase" not in found
        if boxed and "caption" in found and not self.caption:
            found["phrase"] = found.pop("caption")
        shown = ", ".join(f"{use}={name}" for use, name in found.items())
        used = {one for name in found.values() for one in (name, *name.split(","))}
        tops = {columns.parts(one)[0] for one in used}
        unused = [one for one in header if one not in used | tops and "." not in one]
        rest = f"; not used: {', '.join(unused)}" if unused else ""
        logger.info("%s: columns %s%s", path, shown, rest)
        return found, form or "xyxy"


def has_image_column(path: str) -> bool:
    """Whether a column of a table has a usual name of a column of image paths, and holds such."""
    _, record = next(_records(path, LeftOut()), ("", {}))
    plain = {re.sub(r"[\s_-]", "", one).lower(): one for one in record}
    found = next((plain[one] for one in _USUAL["image"].split() if one in plain), None)
    return found is not None and has_image_name(pathlib.PurePath(str(record[found])).name)


def _header(path: str) -> list[str]:
    for _, record in _records(path, LeftOut()):
        return [
            name
            for key, value in record.items()
            for name in (key, *(f"{key}.{part}" for part in _parts_of(value)))
        ]
    raise SourceError(f"{path} holds no row below a header")


def _parts_of(value: object) -> list[str]:
    first = value[0] if isinstance(value, list) and value else value
    return list(first) if isinstance(first, dict) else []


def _types(found: Mapping[str, str], optional: Collection[str]) -> list[str]:
    """Types of examples that the columns make, where those of the truth are optional."""
    types = [
        example_type
        for example_type, (needed, _) in _TYPES.items()
        if all(one in found for one in needed)
        or (example_type == "visual_grounding" and "box" in optional and "phrase" in found)
    ]
    if "detection" in types:
        types.remove("classification")
    return types or ["image"]


def _records(path: str, left_out: LeftOut) -> Iterator[_Record]:
    """Place and cells by column of every row."""
    name = path.lower()
    if name.endswith(".json"):
        for item in items(path):
            place, value = f"{path}, {item.place}", item.value
            if isinstance(item.key, str):
                # A mapping of image to caption, or to the record of the image.
                one = {} if isinstance(value, dict) else {"caption": value}
                value = {"image": item.key, **one, **(value if isinstance(value, dict) else {})}
            if isinstance(value, dict):
                yield place, value
            else:
                left_out.add(Reason.BAD_FIELDS, f"{place}: not an object")
        return
    with io.TextIOWrapper(opened(path), _encoding(path), "replace", newline="") as file:
        if re.search(r"\.(jsonl|ndjson)(\.\w+)?$", name):
            yield from _json_lines(path, file, left_out)
            return
        first = file.readline()
        delimiter = max(_DELIMITERS, key=first.count)
        names = [one.strip() for one in next(csv.reader([first], delimiter=delimiter), ())]
        reader = csv.reader((line.replace("\0", "") for line in file), delimiter=delimiter)
        for cells in reader:
            place = f"{path}, line {reader.line_num + 1}"
            if not any(cells):
                continue
            if len(cells) != len(names):
                left_out.add(
                    Reason.WRONG_COLUMN_COUNT,
                    f"{place}: {len(cells)} cells, the header has {len(names)}; a cell with "
                    f"{delimiter!r} in it stands in double quotes",
                )
            elif any("\ufffd" in cell for cell in cells):
                left_out.add(Reason.INVALID_UTF8, f"{place}: the text is not UTF-8")
            else:
                yield place, dict(zip(names, cells))


def _json_lines(path: str, file: io.TextIOBase, left_out: LeftOut) -> Iterator[_Record]:
    for row, line in enumerate(file, 1):
        if not line.strip():
            continue
        place = f"{path}, line {row}"
        try:
            record = parse_json(line, "the line", SourceError)
            if not isinstance(record, dict):
                raise SourceError("the line is no object", Reason.BAD_FIELDS)
        except ValueError as error:
            left_out.add(Reason.UNREADABLE_RECORD, f"{place}: {error}")
            continue
        yield place, record


def _encoding(path: str) -> str:
    with opened(path) as file:
        start = file.read(256)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return utf16_without_mark(start) or "utf-8-sig"


def _cell(record: Mapping[str, object], column: str) -> object:
    """The value of a column, of a part of one, or of four that make a box."""
    if "," in column and column not in record:
        cells = [record.get(one) for one in column.split(",")]
        return None if not all(map(_holds, cells)) else [number(one, column) for one in cells]
    if column in record:
        value = record[column]
    else:
        top, *below = columns.parts(column)
        value = columns.reached(record.get(top), below, top)
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = _structure(value)
    return value


def _numbers(cell: object) -> object:
    """The list of four numbers that a text holds; what is no text as it is."""
    if not isinstance(cell, str):
        return cell
    parts = cell.replace(",", " ").replace(";", " ").strip(" ()").split()
    try:
        found = [number(one) for one in parts]
    except SourceError:
        found = []
    if len(found) != 4:
        raise SourceError(f"the box {cell[:60]!r} is not four numbers", Reason.BAD_FIELDS)
    return found


def _structure(cell: str) -> object:
    """A cell that holds a list or an object of JSON or Python; any other as it is."""
    for read in (lambda text: parse_json(text, "the cell"), ast.literal_eval):
        try:
            return read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return cell


def _holds(value: object) -> bool:
    return value is not None and value != [] and not (isinstance(value, str) and not value.strip())


def _listed(value: object) -> object:
    """Answers and texts that are structures with one part, such as {"answer": "yes"}."""
    if isinstance(value, list):
        return [
            one["answer"] if isinstance(one, dict) and "answer" in one else one for one in value
        ]
    return value


def _inside(name: str, directories: Sequence[str]) -> str:
    """An image's path as one inside a directory of images: of any system, absolute ones too."""
    name = name.strip().replace("\\", "/") if "\\" in name else name.strip()
    for directory in directories:
        whole = f"{pathlib.Path(directory).resolve()}/"
        if name.startswith(whole):
            return name.removeprefix(whole)
    return name.removeprefix("file://").lstrip("/")
