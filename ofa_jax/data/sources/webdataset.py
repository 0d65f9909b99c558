"""Webdataset tars, as img2dataset writes them: `key.jpg`, `key.txt`, `key.json` side by side.

Uncompressed tars are indexed by their headers, so samples are read in any order. Tars of pictures
alone (ImageNet-21K has one per class) work as well. An index is kept per tar and process; opening
a split reads all headers once to count, so millions of samples are better prepared first.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from ofa_jax.data.instruction import Example
from ofa_jax.data.ops.image_files import SUFFIXES
from ofa_jax.data.sources import split_paths, tar_index
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.file_cache import cached_by_file
from ofa_jax.data.sources.schema import nearest

_TEXT_SUFFIXES = ("txt", "caption", "text")
_CLASS_SUFFIXES = ("cls", "cls.txt", "cls.name")

# What a sample is taken for.
KINDS = ("caption", "image", "classification")


class _Sample(NamedTuple):
    """Where the files of one sample lie: suffix, first byte, number of bytes."""

    key: str
    members: tuple[tuple[str, int, int], ...]


@dataclasses.dataclass(frozen=True)
class WebdatasetSource:
    """Samples of some tars, those with a picture.

    Attributes:
      paths: the tars; `*` and commas are allowed.
      kind: `caption` (the text file, or `caption_key` of the JSON file), `image` (the picture
        alone) or `classification` (a `.cls` file, or the tar's name).
      caption_key: key of the caption in the JSON file, where there is no text file.
      dataset: name of the data set.
    """

    paths: split_paths.Paths
    kind: str = "caption"
    caption_key: str = "caption"
    dataset: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of sample {self.kind!r}{nearest(self.kind, KINDS)}")

    def open(self, split: str) -> WebdatasetRecords:
        """Indexes the tars of a split.

        Raises:
          ValueError: a tar is missing, damaged or compressed, or none holds a picture.
        """
        paths = split_paths.files(self.paths, split, "webdataset samples")
        ends = np.cumsum([len(_index(path)) for path in paths], dtype=np.int64)
        if not ends[-1]:
            raise SourceError(f"{', '.join(paths[:3])}: no sample with a picture")
        return WebdatasetRecords(self, paths, tuple(ends.tolist()))


@dataclasses.dataclass(frozen=True)
class WebdatasetRecords:
    """Random access to the samples of some tars.

    Attributes:
      source: how samples become examples.
      paths: the tars.
      ends: for each, the number of samples up to and including it.
    """

    source: WebdatasetSource
    paths: tuple[str, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} samples, there is no number {index}")
        tar = bisect.bisect_right(self.ends, index)
        path = self.paths[tar]
        sample = _index(path)[index - (self.ends[tar - 1] if tar else 0)]
        try:
            return self._example(path, sample)
        except ValueError as error:
            raise SourceError(f"{path}, sample {sample.key}: {error}") from error

    def _example(self, path: str, sample: _Sample) -> Example:
        files = {suffix: (start, size) for suffix, start, size in sample.members}
        read = functools.partial(_read, path)
        picture = next(suffix for suffix in files if suffix in SUFFIXES)
        example: Example = {
            "image_id": sample.key,
            "image": read(*files[picture]),
            "type": self.source.kind,
        }
        if self.source.dataset:
            example["dataset"] = self.source.dataset
        if self.source.kind == "caption":
            caption = self._caption(files, read)
            example |= {"captions": [caption], "caption": caption}
        elif self.source.kind == "classification":
            suffix = next((one for one in _CLASS_SUFFIXES if one in files), None)
            example["label"] = (
                read(*files[suffix]).decode("utf-8").strip() if suffix else pathlib.Path(path).stem
            )
        return example

    def _caption(self, files: dict[str, tuple[int, int]], read: Any) -> str:
        if suffix := next((one for one in _TEXT_SUFFIXES if one in files), None):
            return read(*files[suffix]).decode("utf-8").strip()
        if "json" not in files:
            raise SourceError(
                f"there is no caption beside the picture, only {', '.join(files)}; kind 'image' "
                "reads pictures alone"
            )
        metadata = json.loads(read(*files["json"]))
        caption = metadata.get(self.source.caption_key) if isinstance(metadata, dict) else None
        if not isinstance(caption, str):
            raise SourceError(f"its JSON file has no text under {self.source.caption_key!r}")
        return caption.strip()


@cached_by_file(8192)
def _index(path: str) -> tuple[_Sample, ...]:
    """The samples of a tar that have a picture, in order."""
    samples: dict[str, list[tuple[str, int, int]]] = {}
    for name, start, size in tar_index.members(path):
        folder, _, file = name.removeprefix("./").rpartition("/")
        stem, _, suffix = file.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        samples.setdefault(key, []).append((suffix.lower(), start, size))
    return tuple(
        _Sample(key, tuple(members))
        for key, members in samples.items()
        if any(suffix in SUFFIXES for suffix, _, _ in members)
    )


def _read(path: str, start: int, size: int) -> bytes:
    file = _file(path)  # held here, so that no other thread's eviction closes it
    return os.pread(file.fileno(), size, start)


@cached_by_file(256)
def _file(path: str) -> Any:
    return open(path, "rb", buffering=0)
