"""A directory of images, with or without class directories or text files beside them.

`train/n01440764/n01440764_18.JPEG` as ImageNet has it, or any tree of images (YFCC100M).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from ofa_jax.data.ops.image_files import image_ids, images_below, stem_of
from ofa_jax.data.sources import split_paths
from ofa_jax.data.sources.annotated_images import AnnotatedImages, AnnotatedRow, MadeRows
from ofa_jax.data.sources.class_names import class_words
from ofa_jax.data.sources.coco import caption_fields
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.left_out import LeftOut
from ofa_jax.data.sources.webdataset import KINDS
from ofa_jax.schema import require_known


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(AnnotatedImages):
    """One example per image below the directories, in the order of their names.

    Attributes:
      kind: `image` (the image alone), `classification` (the directory's name is the class) or
        `caption` (`name.txt` beside `name.jpg` is the caption).
      label_names: file with a class and its words per line; "" leaves the directory's name.
    """

    kind: str = "image"
    label_names: split_paths.File = ""

    def __post_init__(self) -> None:
        require_known("kind of image", self.kind, KINDS)

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """Lists the images."""
        entries = []
        for directory in split_paths.directories(self.images, split, "the images"):
            images, others = images_below(directory, ("txt",) if self.kind == "caption" else ())
            entries += [(directory, name) for name in images]
            for name in others:
                left_out.add(Reason.UNREAD_FILE, f"{directory}/{name}")
        names = image_ids(name for _, name in entries)

        def make(entry: tuple[str, str]) -> AnnotatedRow:
            directory, name = entry
            try:
                fields = self._fields(directory, pathlib.PurePosixPath(name), names[name])
            except (ValueError, FileNotFoundError) as error:
                raise SourceError(f"{directory}/{name}: {error}") from error
            return AnnotatedRow(f"{directory}/{name}", name, fields, directory=directory)

        return MadeRows(make, entries)

    def _fields(self, directory: str, path: pathlib.PurePosixPath, image_id: str) -> Example:
        fields: Example = {"image_id": image_id, "type": self.kind}
        if self.kind == "classification":
            label = path.parent.name
            fields["label"] = class_words(self.label_names, label) if self.label_names else label
        elif self.kind == "caption":
            text = pathlib.Path(directory, f"{stem_of(str(path))}.txt").read_text("utf-8-sig")
            fields |= caption_fields(fields["image_id"], [text.strip()])
        return fields
