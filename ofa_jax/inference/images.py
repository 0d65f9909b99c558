"""Images that a person gives: files, directories, patterns, arrays, PIL images."""

from __future__ import annotations

import dataclasses
import functools
import glob
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ofa_jax.data.ops.image import decode_image, read_image
from ofa_jax.data.ops.image_files import SUFFIXES, images_below
from ofa_jax.data.sources.array_record import PreparedSource

logger = logging.getLogger("ofa_jax")


def find_images(names: Sequence[str]) -> list[str]:
    """Image files behind files, directories and patterns, in order, each directory sorted.

    Args:
      names: as the user gave them.

    Raises:
      ValueError: something that does not exist, or a directory without images.
    """
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        path = pathlib.Path(name)
        if path.is_dir():
            inside, others = images_below(path)
            if others:
                logger.warning(
                    "%s: %d files are no images and are left out, %s for example",
                    *(name, len(others), others[0]),
                )
            if not inside:
                raise ValueError(
                    f"--image {name}: the directory has no images ({', '.join(sorted(SUFFIXES))})"
                )
            found += [str(path / one) for one in inside]
        elif path.is_file():
            found.append(name)
        elif matches := sorted(glob.glob(name, recursive=True)):
            found += [match for match in matches if pathlib.Path(match).is_file()]
        else:
            raise ValueError(f"--image {name}: no such file or directory")
    return found


@dataclasses.dataclass(frozen=True)
class ListedImage:
    """One of many images, read when it is its turn.

    Attributes:
      key: by which its answer is found again.
      name: for people, the path or the id of the data set.
      identity: what tells it from another state of the same file.
      read: gives the example's id and uint8[y, x, 3], or raises ValueError or OSError.
    """

    key: str
    name: str
    identity: Mapping[str, object]
    read: Callable[[], tuple[str, np.ndarray]]


def image_files(paths: Sequence[str]) -> list[ListedImage]:
    """The files as a list."""

    def listed(path: str) -> ListedImage:
        status = os.stat(path)
        identity = {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        return ListedImage(path, path, identity, lambda: (path, read_image(path)))

    return [listed(path) for path in paths]


def prepared_images(directory: str, split: str) -> list[ListedImage]:
    """The images of a prepared data set.

    Raises:
      ValueError: no such directory or split.
    """
    records = PreparedSource(directory).open(split)

    def read(index: int) -> tuple[str, np.ndarray]:
        example = records[index]
        image = example.get("image", b"")
        pixels = decode_image(image) if isinstance(image, bytes) else np.asarray(image)
        return str(example.get("image_id", index)), pixels

    def listed(index: int) -> ListedImage:
        return ListedImage(str(index), f"{split} {index}", {}, functools.partial(read, index))

    return [listed(index) for index in range(len(records))]
