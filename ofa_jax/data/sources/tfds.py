"""Data sets of TensorFlow Datasets: captions, boxes, expressions, classes, sentences, texts.

Data prepared with `--file_format=array_record` are read in any order without TensorFlow's graph.
TFRecord files, TFDS's default, have no random access: those are read in blocks, which is right
for `ofa_jax.prepare` (it goes forward) and slow for shuffled training.

This is the only source that needs tensorflow_datasets, an import of seconds, so it happens when a
data set is opened.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, SupportsInt

import numpy as np

from ofa_jax import quiet_tensorflow
from ofa_jax.data.sources import locations, split_paths
from ofa_jax.data.sources.box_units import with_pixel_boxes
from ofa_jax.data.sources.class_names import class_words
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example, Records, check_index
from ofa_jax.schema import nearest, require_known

_BLOCK = 256
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# Order of TFDS's boxes: ymin, xmin, ymax, xmax, in fractions of the image's sides.
_XYXY = [1, 0, 3, 2]


class _Feature(Protocol):
    """What TFDS knows of a feature, or of several by name."""

    def __getitem__(self, name: str) -> _Feature: ...


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """One data set of TFDS.

    Attributes:
      name: as TFDS has it, with configuration and version: `glue/mnli`, `coco_captions:1.1.0`.
      data_dir: directory of prepared data sets; "" means TFDS's own, `~/tensorflow_datasets`.
      kind: key of `KINDS`; "" means the one of this data set.
      label_names: file with a class and its words per line (`n01440764 tench, Tinca tinca`), for
        data sets whose classes are numbers of WordNet.
      dataset: name of the data set in the examples; "" means TFDS's.
    """

    name: str
    data_dir: str = ""
    kind: str = ""
    label_names: split_paths.File = ""
    dataset: str = ""

    def __post_init__(self) -> None:
        if self.kind:
            require_known("kind", self.kind, KINDS)
        self.reader()

    def reader(self) -> str:
        """The key of `KINDS` by which examples are read.

        Raises:
          ValueError: the data set is not known here and no kind is given.
        """
        builder = self.name.split("/")[0].split(":")[0]
        if not self.kind and builder not in BUILDERS:
            raise ValueError(
                f"how examples of {builder!r} are to be read is not known; give a kind, one of "
                f"{', '.join(KINDS)}; known data sets: {', '.join(BUILDERS)}"
            )
        return self.kind or BUILDERS[builder]

    def data_files(self, split: str) -> tuple[str, ...]:
        """The directory of the prepared data set, and the file of classes."""
        names = (locations.resolve(self.label_names),) if self.label_names else ()
        return (TfdsRecords(self, split).directory, *names)

    def open(self, split: str) -> TfdsRecords:
        """Opens a split.

        Raises:
          ValueError: TFDS has no such data set or split, or it is not prepared on this machine.
        """
        records = TfdsRecords(self, split)
        len(records)
        return records


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """Access to the examples of one split.

    Attributes:
      source: the data set.
      split: its split, TFDS's slices such as `train[:1000]` included where access is random.
    """

    source: TfdsSource
    split: str

    def __len__(self) -> int:
        return len(self._opened()[1])

    @property
    def directory(self) -> str:
        """Where TFDS keeps the data set of this version."""
        return self._opened()[2]

    def __getitem__(self, index: int) -> Example:
        features, data, _ = self._opened()
        check_index(index, len(data))
        read = KINDS[self.source.reader()]
        try:
            example = read(data[int(index)], features)
            if self.source.label_names and "label" in example:
                example["label"] = class_words(self.source.label_names, example["label"])
        except KeyError as error:
            raise SourceError(
                f"{self.source.name}, {self.split}, example {index}: there is no feature {error}; "
                f"kind {self.source.reader()!r} does not fit this data set"
            ) from error
        except ValueError as error:
            where = f"{self.source.name}, {self.split}, example {index}"
            raise SourceError(f"{where}: {error}") from error
        example.setdefault("image_id", f"{self.split}-{index}")
        example["dataset"] = self.source.dataset or self.source.name.split(":")[0]
        return example

    def _opened(self) -> tuple[_Feature, Records, str]:
        return _open(self.source.name, self.source.data_dir, self.split, os.getpid())


@functools.lru_cache(maxsize=16)
def _open(name: str, data_dir: str, split: str, process: int) -> tuple[_Feature, Records, str]:
    """Features of a data set, what `len` and `[]` read it by, and its directory, per process."""
    del process
    quiet_tensorflow.load()
    import tensorflow_datasets as tfds

    directory = os.path.expanduser(locations.resolve(data_dir)) or None
    try:
        builder: Any = tfds.builder(name, data_dir=directory)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        there = _versions_there(name, directory)
        raise SourceError(f"TFDS has no data set {name!r}: {first}{there}") from error
    features, place = builder.info.features, str(builder.data_path)
    decoders: dict[str, object] = {}
    if "image" in features:
        decoders["image"] = tfds.decode.SkipDecoding()
    if "objects" in features and "mask" in features["objects"]:
        decoders["objects"] = {"mask": tfds.decode.SkipDecoding()}
    try:
        return features, builder.as_data_source(split, decoders=decoders or None), place
    except NotImplementedError:
        others = _versions_there(name, directory)
        return features, _Blocks(tfds, builder, split, decoders, others), place
    except (ValueError, KeyError) as error:
        raise SourceError(f"{name} has no split {split!r}: {error}") from error


def _versions_there(name: str, directory: str | None) -> str:
    """A clause about what is prepared of a data set: other versions and other configurations."""
    plain = name.partition(":")[0].rstrip("/")
    place = pathlib.Path(directory or "~/tensorflow_datasets").expanduser()
    top = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain.partition("/")[0]).lower()
    files = (place / top).glob("**/dataset_info.json")
    found = {
        path.parent.relative_to(place) for path in files if _VERSION.fullmatch(path.parent.name)
    }
    names = sorted(f"{path.parent.as_posix()}:{path.name}" for path in found)
    # Versions of the same configuration, where there are some.
    same = [one for one in names if one.rpartition(":")[0] == plain]
    what = "version" if same else "configuration"
    names = " or ".join(same or names)
    return f"; another {what} is prepared there, to be named {names}" if names else ""


class _Blocks:
    """Examples of a data set without random access; the last block stays in memory."""

    def __init__(self, tfds: Any, builder: Any, split: str, decoders: dict[str, Any], others: str):
        if not builder.info.splits:
            named = builder.info.full_name.rpartition("/")[0]
            raise SourceError(
                f"{builder.info.full_name} is not prepared in {builder.data_dir}{others}; run: "
                f"tfds build {named} --file_format=array_record"
            )
        if split not in builder.info.splits:
            raise SourceError(
                f"{builder.info.full_name} has no split {split!r}"
                f"{nearest(split, list(builder.info.splits))}"
            )
        self._tfds, self._builder, self._split = tfds, builder, split
        self._decoders = decoders or None
        self._current: tuple[int, list[Example]] = (-1, [])

    def __len__(self) -> int:
        return self._builder.info.splits[self._split].num_examples

    def __getitem__(self, index: int) -> Example:
        number, position = divmod(index, _BLOCK)
        held, block = self._current
        if held != number:
            end = min(len(self), (number + 1) * _BLOCK)
            dataset = self._builder.as_dataset(
                split=f"{self._split}[{number * _BLOCK}:{end}]",
                decoders=self._decoders,
                shuffle_files=False,
                # One file after the other: the order of the records, whatever their number.
                read_config=self._tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
            )
            block = list(self._tfds.as_numpy(dataset))
            self._current = (number, block)
        return block[position]


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _list(values: Iterable[object]) -> list[Any]:
    """A feature of several values as a list; nested ones come as TensorFlow's ragged tensors."""
    if hasattr(values, "to_list"):
        return values.to_list()
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _texts(values: Iterable[object]) -> list[str]:
    return [_text(value) for value in _list(values)]


def _class_name(feature: _Feature, value: SupportsInt) -> str:
    names = getattr(feature, "names", None)
    if names and not 0 <= int(value) < len(names):
        raise SourceError(f"there is no class {value}, only {len(names)}", Reason.UNDECLARED_CLASS)
    return names[int(value)] if names else str(int(value))


def _class_names(feature: _Feature, values: Iterable[SupportsInt]) -> list[str]:
    return [_class_name(feature, value) for value in values]


def _boxes(values: Iterable[object]) -> np.ndarray:
    """x0, y0, x1, y1 of boxes, in fractions."""
    return np.reshape(_list(values), (-1, 4))[:, _XYXY]


def _picture(record: Example) -> Example:
    example: Example = {"image": bytes(record["image"])}
    for key in ("image/id", "image_id", "file_name", "image/filename"):
        if key in record:
            example["image_id"] = _text(record[key])
            break
    return example


def _caption(record: Example, features: _Feature) -> Example:
    captions = _texts(record["captions"]["text"])
    example = {**_picture(record), "captions": captions, "type": "caption"}
    if captions:
        example["caption"] = captions[0]
    if "objects" in record:
        labels = _class_names(features["objects"]["label"], _list(record["objects"]["label"]))
        example["objects"] = list(dict.fromkeys(labels))
    return example


def _detection(record: Example, features: _Feature) -> Example:
    # OpenImages calls its boxes `bobjects` ("objects" are labels of whole images there).
    key = "bobjects" if "bobjects" in record else "objects"
    objects, example = record[key], _picture(record)
    crowds = _list(objects["is_crowd"]) if "is_crowd" in objects else []
    kept = [number for number, crowd in enumerate(crowds) if not crowd]
    labels = _class_names(features[key]["label"], _list(objects["label"]))
    boxes = _boxes(objects["bbox"])
    if crowds:
        labels, boxes = [labels[number] for number in kept], boxes[kept]
    names = list(dict.fromkeys(labels))
    fields = {"boxes": boxes, "labels": labels, "objects": names, "type": "detection"}
    return with_pixel_boxes({**example, **fields})


def _referring(record: Example, features: _Feature) -> Example:
    del features
    example, objects = _picture(record), record["objects"]
    expressions = [_texts(group) for group in _list(objects["refexp"]["raw"])]
    fields = {
        "boxes": _boxes(objects["bbox"]),
        "refexps": [one for group in expressions for one in group],
        "refexp_box_index": [number for number, group in enumerate(expressions) for _ in group],
        "type": "visual_grounding",
    }
    return with_pixel_boxes({**example, **fields})


def _classification(record: Example, features: _Feature) -> Example:
    example = _picture(record)
    # Test sets write -1.
    if int(record["label"]) >= 0:
        example["label"] = _class_name(features["label"], record["label"])
    return {**example, "type": "classification"}


# What GLUE's tasks call their sentences, in the order of the official prompts (SPEC 8.7).
_SENTENCES = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("sentence",),
)


def _sentences(record: Example, features: _Feature) -> Example:
    names = next((one for one in _SENTENCES if all(name in record for name in one)), None)
    if names is None:
        raise KeyError(" or ".join(map(" and ".join, _SENTENCES)))
    example: Example = {"type": "sentences"}
    for field, name in zip(("sentence1", "sentence2"), names):
        example[field] = _text(record[name])
    if int(record["label"]) >= 0:
        example["label"] = _class_name(features["label"], record["label"])
    if "idx" in record:
        example["image_id"] = str(int(record["idx"]))
    return example


def _summary(record: Example, features: _Feature) -> Example:
    del features
    document, summary = _text(record["document"]), _text(record["summary"])
    return {"text": document, "summary": summary, "type": "summary"}


def _plain_text(record: Example, features: _Feature) -> Example:
    del features
    return {"text": _text(record["text"]), "type": "text"}


def _image(record: Example, features: _Feature) -> Example:
    del features
    return {**_picture(record), "type": "image"}


# How records of a data set become examples.
KINDS: Mapping[str, Callable[[Example, _Feature], Example]] = {
    "caption": _caption,
    "detection": _detection,
    "visual_grounding": _referring,
    "classification": _classification,
    "sentences": _sentences,
    "summary": _summary,
    "text": _plain_text,
    "image": _image,
}

# Data sets of TFDS 4.9 that the tasks name, and their kinds (DATA 1.1, 1.2).
BUILDERS: Mapping[str, str] = {
    "coco_captions": "caption",
    "ref_coco": "visual_grounding",
    "open_images_v4": "detection",
    "open_images_challenge2019_detection": "detection",
    "coco": "detection",
    "lvis": "detection",
    "voc": "detection",
    "imagenet2012": "classification",
    "imagenet_v2": "classification",
    "imagenet_resized": "classification",
    "glue": "sentences",
    "gigaword": "summary",
    "c4": "text",
    "wikipedia": "text",
    "wiki40b": "text",
    "lm1b": "text",
}
