"""Examples as pictures: boxes drawn, words below; a contact sheet, and tiles for the page."""

from __future__ import annotations

import dataclasses
import pathlib
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ofa_jax.data.ops.image import BadImageError, decode_image
from ofa_jax.data.sources.example import Example
from ofa_jax.report.images import DrawnBox, draw_boxes, font

_TILE_WIDTH, _TILE_HEIGHT = 300, 225
_GAP = 22
_MARGIN = 34
_LINE_HEIGHT = 20
_WORD_LINES = 6
_WRAP = 38
_INK, _MUTED, _LINE, _ACCENT, _BLANK = "#16202e", "#5b6776", "#e2e6eb", "#2454d6", "#f5f6f8"
# More boxes than this hide the image.
_MOST_BOXES = 12
_LONGEST_TAG = 24


@dataclasses.dataclass(frozen=True)
class Words:
    """One line of text about an example.

    Attributes:
      name: what it is ("caption", "question", ...).
      text: the words.
    """

    name: str
    text: str


@dataclasses.dataclass(frozen=True)
class Tile:
    """One example to show.

    Attributes:
      record: its number.
      image_id: its identifier.
      example_type: its `type`.
      picture: RGB with boxes drawn; None where there is none or it cannot be decoded.
      trouble: why an image is missing, or "".
      words: lines about it.
      hidden_boxes: boxes that are not drawn.
      size: width and height of the stored image in pixels, or None.
    """

    record: int
    image_id: str
    example_type: str
    picture: Image.Image | None
    trouble: str
    words: tuple[Words, ...]
    hidden_boxes: int = 0
    size: tuple[int, int] | None = None


def boxes_to_draw(example: Example) -> tuple[list[DrawnBox], int]:
    """The largest boxes with their names, and how many were left out.

    A box is named by its label, else by the first expression that means it.
    """
    boxes = np.asarray(example.get("boxes", ()), np.float64).reshape(-1, 4)
    names = list(example.get("labels", ())) or [""] * len(boxes)
    for text, number in zip(example.get("refexps", ()), example.get("refexp_box_index", ())):
        if 0 <= number < len(names) and not names[number]:
            names[number] = str(text)
    finite = [number for number, box in enumerate(boxes) if np.isfinite(box).all()]
    areas = {number: np.prod(boxes[number, 2:] - boxes[number, :2]) for number in finite}
    chosen = sorted(finite, key=areas.__getitem__, reverse=True)[:_MOST_BOXES]
    drawn = []
    for number in chosen:
        name = names[number] if number < len(names) else ""
        drawn.append(DrawnBox(boxes[number].tolist(), False, _shortened(name, _LONGEST_TAG)))
    return drawn, len(boxes) - len(drawn)


def words_of(example: Example) -> tuple[Words, ...]:
    """What an example says, one line per field."""
    captions = list(example.get("captions", ()))
    lines = [Words("caption", str(text)) for text in captions[:1]]
    if captions[1:]:
        noun = "caption" if len(captions) == 2 else "captions"
        lines.append(Words("", f"and {len(captions) - 1} more {noun}"))
    if example.get("question"):
        lines.append(Words("question", str(example["question"])))
    answers = list(example.get("answers", ()))
    if answers:
        confidences = example.get("answer_conf", [1.0] * len(answers))
        pairs = zip(answers[:3], confidences)
        shown = [a if c == 1 else f"{a} ({c:.2g})" for a, c in pairs]
        lines.append(Words("answer", ", ".join(shown) + (", …" if answers[3:] else "")))
    expressions = [str(text) for text in example.get("refexps", ())]
    if expressions:
        shown = "; ".join(expressions[:3]) + (" …" if expressions[3:] else "")
        lines.append(Words("expression", shown))
    if len(example.get("labels", ())):
        lines.append(Words("labels", ", ".join(dict.fromkeys(map(str, example["labels"])))))
    others = ("hypothesis", "label", "text", "summary", "sentence1", "sentence2")
    lines += [Words(field, str(example[field])) for field in others if example.get(field)]
    codes = example.get("image_codes")
    if codes is not None and len(codes):
        first = " ".join(map(str, np.asarray(codes).reshape(-1)[:6].tolist()))
        lines.append(Words("codes", f"{first} … ({len(codes)})"))
    return tuple(lines)


def _shortened(text: object, width: int) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def tile(record: int, example: Example) -> Tile:
    """Decodes the image of an example and draws its boxes."""
    image, trouble, size = example.get("image"), "", None
    picture: Image.Image | None = None
    drawn, hidden = boxes_to_draw(example)
    if image is None or len(image) == 0:
        hidden = 0
    else:
        try:
            pixels = decode_image(image) if isinstance(image, bytes) else np.asarray(image)
            size = pixels.shape[1], pixels.shape[0]
            picture = draw_boxes(Image.fromarray(pixels), drawn, size)
        except BadImageError as error:
            trouble = str(error)
    return Tile(
        record=record,
        image_id=str(example.get("image_id", "")),
        example_type=str(example.get("type", "")),
        picture=picture,
        trouble=trouble,
        words=words_of(example),
        hidden_boxes=hidden,
        size=size,
    )


def _lines(one: Tile) -> list[tuple[str, str]]:
    """(name, line) of the words below a tile; the name stands before the first of its lines."""
    lines: list[tuple[str, str]] = []
    room = _WORD_LINES if one.picture is not None or one.trouble else _WORD_LINES + 9
    for words in one.words:
        text = f"{words.name}: {words.text}" if words.name else words.text
        wrapped = textwrap.wrap(" ".join(text.split()), _WRAP)
        for number, line in enumerate(wrapped):
            name = f"{words.name}:" if words.name and number == 0 else ""
            lines.append((name, line.removeprefix(name).lstrip() if name else line))
    if len(lines) > room:
        name, line = lines[room - 1]
        lines = [*lines[: room - 1], (name, _shortened(line, _WRAP - 2).rstrip("…") + " …")]
    return lines


def _draw_words(
    draw: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[tuple[str, str]]
) -> None:
    for name, line in lines:
        start = x
        if name:
            draw.text((start, y), name, fill=_MUTED, font=font(13, False))
            start += round(font(13, False).getlength(name)) + 5
        draw.text((start, y), line, fill=_INK, font=font(13, False))
        y += _LINE_HEIGHT


def save_sheet(tiles: Sequence[Tile], path: pathlib.Path, *, columns: int = 4) -> bool:
    """Writes all tiles side by side as a PNG.

    Args:
      tiles: examples, in order.
      path: PNG to write.
      columns: tiles in a row.

    Returns:
      Whether there was anything to write.
    """
    if not tiles:
        return False
    columns = min(columns, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    words = [[_lines(one) for one in row] for row in rows]
    pictures = [any(one.picture is not None or one.trouble for one in row) for row in rows]
    heights = [
        24 + (_TILE_HEIGHT + 8) * has + _LINE_HEIGHT * max(len(lines) for lines in row)
        for has, row in zip(pictures, words)
    ]
    width = 2 * _MARGIN + columns * (_TILE_WIDTH + _GAP) - _GAP
    height = 2 * _MARGIN + sum(heights) + _GAP * (len(rows) - 1)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    y = _MARGIN
    for row, row_words, row_height, has_images in zip(rows, words, heights, pictures):
        for column, (one, lines) in enumerate(zip(row, row_words)):
            x = _MARGIN + column * (_TILE_WIDTH + _GAP)
            _draw_head(draw, x, y, one)
            below = y + 24
            if has_images:
                _paste(canvas, draw, x, below, one)
                below += _TILE_HEIGHT + 8
            _draw_words(draw, x, below, lines)
        y += row_height + _GAP
    canvas.save(path, compress_level=6)
    return True


def _draw_head(draw: ImageDraw.ImageDraw, x: int, y: int, one: Tile) -> None:
    number = f"{one.record:,}"
    draw.text((x, y), number, fill=_ACCENT, font=font(13))
    start = x + round(font(13).getlength(number)) + 8
    room = _TILE_WIDTH - (start - x)
    title = _shortened(f"{one.image_id}  {one.example_type}", 60)
    while title and font(13, False).getlength(title) > room:
        title = title[:-2].rstrip() + "…" if len(title) > 2 else ""
    draw.text((start, y), title, fill=_MUTED, font=font(13, False))


def _paste(canvas: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, one: Tile) -> None:
    frame = (x, y, x + _TILE_WIDTH - 1, y + _TILE_HEIGHT - 1)
    draw.rectangle(frame, fill=_BLANK, outline=_LINE)
    if one.picture is None:
        text = one.trouble or "no image"
        lines = textwrap.fill(_shortened(text, 120), 36)
        middle = (x + _TILE_WIDTH / 2, y + _TILE_HEIGHT / 2)
        draw.multiline_text(
            middle, lines, fill=_MUTED, font=font(13, False), anchor="mm", align="center"
        )
        return
    picture = one.picture.copy()
    picture.thumbnail((_TILE_WIDTH, _TILE_HEIGHT), Image.Resampling.LANCZOS)
    canvas.paste(
        picture,
        (x + (_TILE_WIDTH - picture.width) // 2, y + (_TILE_HEIGHT - picture.height) // 2),
    )
