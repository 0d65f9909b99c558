"""Webdataset tars, as img2dataset writes them: `key.jpg`, `key.txt`, `key.json` side by side.

Uncompressed tars are indexed by their headers, so samples are read in any order. Tars of images
alone (ImageNet-21K has one per class) work as well. An index is kept per tar and process; opening
a split reads all headers once to count, so millions of samples are better prepared first.

A key ends at the first dot of a file's name, as webdataset has it. Where that would put several
images into one sample (`22.00.jpg`, `22.01.jpg`), it ends at the last dot.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from ofa_jax.data.ops.image_files import SUFFIXES
from ofa_jax.data.sources import schema, split_paths, tar_index
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example, FileRecords, ends_of
from ofa_jax.data.sources.file_cache import cached_by_file
from ofa_jax.data.sources.left_out import LeftOut
from ofa_jax.data.sources.values import text
from ofa_jax.schema import parse_json, require_known

_TEXT_SUFFIXES = ("txt", "caption", "text")
_CLASS_SUFFIXES = ("cls", "cls.txt", "cls.name")
# What a sample has beside its image; files of other endings are read by nobody.
_BESIDE = (*_TEXT_SUFFIXES, *_CLASS_SUFFIXES, "json")

# What a sample is taken for.
KINDS = ("caption", "image", "classification")


class _File(NamedTuple):
    """Where a file of a sample lies: ending, first byte, number of bytes."""

    suffix: str
    start: int
    size: int


class _Sample(NamedTuple):
    """One sample: the image, and the files beside it."""

    key: str
    picture: _File
    beside: tuple[_File, ...]


@dataclasses.dataclass(frozen=True)
class WebdatasetSource:
    """Samples of some tars, those with an image.

    Attributes:
      paths: the tars; `*` and commas are allowed.
      kind: `caption` (the text file, or `caption_key` of the JSON file), `image` (the image
        alone) or `classification` (a `.cls` file, or the tar's name).
      caption_key: key of the caption in the JSON file, where there is no text file.
      dataset: name of the data set.
    """

    paths: split_paths.Paths
    kind: str = "caption"
    caption_key: str = "caption"
    dataset: str = ""

    def __post_init__(self) -> None:
        require_known("kind of sample", self.kind, KINDS)

    def open(self, split: str) -> WebdatasetRecords:
        """Indexes the tars of a split.

        Raises:
          ValueError: a tar is missing, damaged or compressed, or none holds an image.
        """
        paths = split_paths.files(self.paths, split, "webdataset samples")
        ends = ends_of(len(_index(path)[0]) for path in paths)
        if not ends[-1]:
            left_out = WebdatasetRecords(paths, (), self).left_out
            lost = f"; left out: {left_out}" if left_out.total else ""
            raise SourceError(f"{', '.join(paths[:3])}: no sample with an image{lost}")
        optional = schema.may_lack_truth(split)
        return WebdatasetRecords(paths, ends, self, optional)


@dataclasses.dataclass(frozen=True)
class WebdatasetRecords(FileRecords):
    """Random access to the samples of some tars.

    Attributes:
      source: how samples become examples.
      optional: whether samples may lack a caption, as in a test split.
    """

    source: WebdatasetSource
    optional: bool = False

    @property
    def left_out(self) -> LeftOut:
        """Files of the tars that are in no sample, and samples without an image."""
        found = LeftOut()
        for path in self.paths:
            found.update(_index(path)[1])
        return found

    def __getitem__(self, index: int) -> Example:
        path, position = self.place(index)
        sample = _index(path)[0][position]
        try:
            return self._example(path, sample)
        except ValueError as error:
            raise SourceError(f"{path}, sample {sample.key}: {error}") from error

    def _example(self, path: str, sample: _Sample) -> Example:
        files = {file.suffix: file for file in sample.beside}
        read = functools.partial(_read, path)
        example: Example = {
            "image_id": sample.key,
            "image": read(sample.picture),
            "type": self.source.kind,
        }
        if self.source.dataset:
            example["dataset"] = self.source.dataset
        if self.source.kind == "caption" and not (self.optional and not files):
            caption = self._caption(sample, files, read)
            example |= {"captions": [caption], "caption": caption}
        elif self.source.kind == "classification":
            suffix = next((one for one in _CLASS_SUFFIXES if one in files), None)
            label = _text(read(files[suffix])) if suffix else pathlib.Path(path).stem
            example["label"] = label
        return example

    def _caption(self, sample: _Sample, files: dict[str, _File], read: Any) -> str:
        if suffix := next((one for one in _TEXT_SUFFIXES if one in files), None):
            return _text(read(files[suffix]))
        if "json" not in files:
            raise SourceError(
                f"there is no caption beside the image, only "
                f"{', '.join((sample.picture.suffix, *files))}; kind 'image' reads images alone",
                Reason.EMPTY_TEXT,
            )
        metadata = parse_json(read(files["json"]), "its JSON file", SourceError)
        key = self.source.caption_key
        if not isinstance(metadata, dict) or key not in metadata:
            raise SourceError(f"its JSON file has no text under {key!r}", Reason.EMPTY_TEXT)
        return text(metadata[key], f"{key!r} of its JSON file").strip()


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig").replace("\0", "").strip()


@cached_by_file(8192)
def _index(path: str) -> tuple[tuple[_Sample, ...], LeftOut]:
    """The samples of a tar that have an image, in order, and what is in none."""
    left_out = LeftOut()
    groups: dict[str, list[_File]] = {}
    for name, start, size in tar_index.members(path):
        directory, _, file = name.removeprefix("./").rpartition("/")
        if any(
            part.startswith((".", "__MACOSX")) for part in (*directory.split("/"), file) if part
        ):
            left_out.add(Reason.UNREAD_FILE, f"{path}, {name}")
            continue
        stem, _, suffix = file.partition(".")
        key = f"{directory}/{stem}" if directory else stem
        groups.setdefault(key, []).append(_File(suffix.lower(), start, size))
    samples = [
        sample for key, files in groups.items() for sample in _samples(path, key, files, left_out)
    ]
    return tuple(sorted(samples, key=lambda sample: sample.picture.start)), left_out


def _samples(path: str, key: str, files: list[_File], left_out: LeftOut) -> Iterator[_Sample]:
    """The samples of the files whose names are the same up to the first dot."""
    place = f"{path}, sample {key}"
    suffixes = [file.suffix for file in files]
    if len(set(suffixes)) < len(suffixes):
        left_out.add(Reason.DUPLICATED_ID, f"{place}: it is there twice")
        return
    plain = [file for file in files if _is_image(file) and "." not in file.suffix]
    if not plain and sum(map(_is_image, files)) == 1:
        # One sample, whose files have names of their own (key.input.jpg, key.output.txt).
        parts = {file.suffix.rpartition(".")[0] for file in files}
        key = f"{key}.{parts.pop()}" if len(parts) == 1 else key
        yield from _sample(place, key, [_last_part(file) for file in files], left_out)
        return
    own = [file for file in files if "." not in file.suffix or file.suffix in _BESIDE]
    others: dict[str, list[_File]] = {}
    for file in files:
        if not (plain and file in own):
            others.setdefault(file.suffix.rpartition(".")[0], []).append(_last_part(file))
    if plain:
        yield from _sample(place, key, own, left_out)
    for part, members in others.items():
        # Beside a plain image, another image alone is a mask or the like, no sample.
        if plain and not any(file.suffix in _BESIDE for file in members):
            left_out.add(Reason.UNREAD_FILE, f"{place}: {part}.{members[0].suffix}", len(members))
        else:
            name = f"{key}.{part}" if part else key
            yield from _sample(f"{path}, sample {name}", name, members, left_out)


def _sample(place: str, key: str, files: list[_File], left_out: LeftOut) -> Iterator[_Sample]:
    """A sample of files with simple endings; what is not read of them is counted."""
    pictures = [file for file in files if _is_image(file)]
    beside = tuple(file for file in files if file.suffix in _BESIDE)
    unread = [file for file in files if file not in beside and file not in pictures[:1]]
    if not pictures and beside:
        left_out.add(Reason.NO_IMAGE, f"{place}: only {', '.join(f.suffix for f in beside)}")
    for file in unread:
        left_out.add(Reason.UNREAD_FILE, f"{place}: .{file.suffix}")
    if pictures:
        yield _Sample(key, pictures[0], beside)


def _is_image(file: _File) -> bool:
    return file.suffix.rpartition(".")[2] in SUFFIXES


def _last_part(file: _File) -> _File:
    return file._replace(suffix=file.suffix.rpartition(".")[2])


def _read(path: str, place: _File) -> bytes:
    file = _file(path)  # held here, so that no other thread's eviction closes it
    return os.pread(file.fileno(), place.size, place.start)


@cached_by_file(256)
def _file(path: str) -> Any:
    return open(path, "rb", buffering=0)
