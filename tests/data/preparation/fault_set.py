"""A set of rows in the official layout, some of them broken in every way that preparation knows."""

import base64
import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from ofa_jax.data.preparation.reasons import Reason
from ofa_jax.data.sources import tsv_writer
from tests.data.preparation import images as image_files

WIDTH, HEIGHT = 64, 48
_CAPTIONS = ("a red bus on the road", "two dogs under a tree", "a temple and a blue sky")


def _images(size: tuple[int, int]) -> list[bytes]:
    return [image_files.jpeg(*size, seed) for seed in range(8)]


def good_row(index: int, images: list[bytes]) -> bytes:
    """A caption, a question or a box, in turn; its id is `good-<index>`."""
    text = _CAPTIONS[index % len(_CAPTIONS)]
    common = {"image": images[index % len(images)], "image_id": f"good-{index}", "dataset": "made"}
    if index % 3 == 0:
        example = {**common, "type": "caption", "captions": [text]}
    elif index % 3 == 1:
        example = {
            **common,
            "type": "qa",
            "question": "what is to be seen?",
            "answers": ["a bus", "a dog"],
            "answer_conf": [0.9, 0.4],
        }
    else:
        box = np.array([[4, 6, 20 + index % 30, 40]], np.float32)
        example = {**common, "type": "visual_grounding", "refexps": [text], "boxes": box}
    return tsv_writer.vision_language_row(example).encode()


def _row(*, image: bytes | None = None, caption="a bus", refs="", kind="caption") -> bytes:
    data = base64.urlsafe_b64encode(image_files.jpeg(WIDTH, HEIGHT) if image is None else image)
    columns = [b"{id}", data, caption.encode(), b"", refs.encode(), b"", b"made", kind.encode()]
    return b"\t".join(columns)


def _boxed(refs: str) -> bytes:
    return _row(refs=refs, kind="visual_grounding")


# What is broken -> the row, with {id} for its identifier, and the right reason.
FAULTS: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "truncated": (
        lambda: _row(image=image_files.jpeg(WIDTH, HEIGHT)[:-300]),
        Reason.TRUNCATED_IMAGE,
    ),
    "empty": (lambda: _row(image=b""), Reason.EMPTY_IMAGE),
    "cmyk": (lambda: _row(image=image_files.cmyk_jpeg()), Reason.CMYK_IMAGE),
    "one-pixel": (lambda: _row(image=image_files.jpeg(64, 1)), Reason.SIDE_TOO_SHORT),
    "long-side": (lambda: _row(image=image_files.jpeg(20_000, 8)), Reason.SIDE_TOO_LONG),
    "outside": (lambda: _boxed("70,50,90,60"), Reason.BOX_OUTSIDE),
    "inverted": (lambda: _boxed("40,6,4,30"), Reason.BOX_INVERTED),
    "nan": (lambda: _boxed("nan,6,40,30"), Reason.BOX_NOT_FINITE),
    "no-caption": (lambda: _row(caption=""), Reason.EMPTY_TEXT),
    "long-caption": (lambda: _row(caption="word " * 9_999 + "word"), Reason.TEXT_TOO_LONG),
    "utf8": (lambda: _row().replace(b"\ta bus\t", b"\ta caf\xe9\t"), Reason.INVALID_UTF8),
    "columns": (lambda: _row() + b"\tone more", Reason.WRONG_COLUMN_COUNT),
    "bomb": (lambda: _row(image=image_files.png_bomb(60_000, 60_000)), Reason.TOO_MANY_PIXELS),
}


@dataclasses.dataclass(frozen=True)
class FaultSet:
    """The file and what is wrong with it.

    Attributes:
      path: rows of the layout `vision_language`.
      broken: record number to fault.
    """

    path: pathlib.Path
    broken: dict[int, str]

    def expected(self) -> dict[str, list[int]]:
        """Record numbers by reason, in order."""
        found: dict[str, list[int]] = {}
        for record, fault in sorted(self.broken.items()):
            found.setdefault(FAULTS[fault][1].value, []).append(record)
        return found


def write(
    directory: pathlib.Path,
    *,
    records: int,
    broken: int,
    seed: int = 0,
    picture_size: tuple[int, int] = (WIDTH, HEIGHT),
) -> FaultSet:
    """Writes a set with every fault about equally often, at random places."""
    rng = np.random.default_rng(seed)
    places = rng.choice(records, broken, replace=False).tolist()
    faults = {place: list(FAULTS)[turn % len(FAULTS)] for turn, place in enumerate(places)}
    made = {fault: FAULTS[fault][0]() for fault in set(faults.values())}
    images = _images(picture_size)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "vision_language_examples.tsv"
    with path.open("wb") as file:
        for record in range(records):
            if record in faults:
                fault = faults[record]
                line = made[fault].replace(b"{id}", f"{fault}-{record}".encode())
            else:
                line = good_row(record, images)
            file.write(line + b"\n")
    return FaultSet(path, faults)
