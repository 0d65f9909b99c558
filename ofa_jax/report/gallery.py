"""One image with a row of held-out examples per task, for a README or a slide.

The page has more examples with more words; this is what fits on one sheet.
"""

from __future__ import annotations

import pathlib
import textwrap

from PIL import Image, ImageDraw

from ofa_jax.metrics.verdict import Verdict
from ofa_jax.report import labels
from ofa_jax.report.cards import pictures_of
from ofa_jax.report.collect import RunRecord
from ofa_jax.report.examples import Family, Prediction, choose_rows, is_pictured, judge, task_family
from ofa_jax.report.images import font

_TILE = 216
_GAP = 18
_MARGIN = 36
_TITLE_WIDTH = 236
_TEXT_LINES = 4
_LINE_HEIGHT = 19
_INK, _MUTED, _LINE = "#16202e", "#5b6776", "#e2e6eb"
# Kinds whose answer is seen.
_DRAWN = (
    Family.GROUNDING,
    Family.DETECTION,
    Family.IMAGE_INFILLING,
    Family.IMAGE_GENERATION,
    Family.RECONSTRUCTION,
)
_MARKS = {
    Verdict.RIGHT: ("✓ ", "#0f7b4d"),
    Verdict.WRONG: ("✗ ", "#b93a0a"),
    Verdict.PARTLY: ("~ ", "#8a6100"),
    Verdict.NONE: ("", _INK),
}


def _words(family: Family, row: Prediction, measure: str) -> str:
    """What stands below a tile: the answer, or the measure where the answer is drawn."""
    if family in _DRAWN:
        return measure or ", ".join(str(o["label"]) for o in row.get("predicted_objects") or ())
    return str(row.get("prediction_text", "")).strip() or "no answer"


def _question(text: object) -> str:
    """The input without bins, on a few short lines."""
    words = [w for w in str(text or "").split() if not w.startswith("<bin_")]
    return textwrap.shorten(" ".join(words), 84, placeholder=" ...")


def _tile(images: list[Image.Image]) -> Image.Image:
    """One square: the image, two side by side, or the four of an infilling in its quarters."""
    tile = Image.new("RGB", (_TILE, _TILE), "white")
    for index, image in enumerate(images):
        part = image.copy()
        side = _TILE if len(images) == 1 else _TILE // 2 - 2
        part.thumbnail((side, side), Image.Resampling.LANCZOS)
        x = (_TILE - part.width) // 2 if len(images) == 1 else (index % 2) * (side + 4)
        y = (_TILE - part.height) // 2 if len(images) <= 2 else (index // 2) * (side + 4)
        tile.paste(part, (x, y))
    return tile


def save_gallery(record: RunRecord, path: pathlib.Path, *, columns: int = 6) -> bool:
    """Writes a sheet of examples: a row per task that has images.

    Infilling tiles show original, input, prediction and codebook ceiling in reading order.

    Args:
      path: PNG to write.
      columns: examples per task.

    Returns:
      Whether there was anything to write.
    """
    titles = labels.task_labels(record.task_names)
    rows = []
    for task in record.task_names:
        predictions = record.predictions.get(task, ())
        pictured = [row for row in predictions if is_pictured(row)]
        family = task_family(task, predictions)
        tiles = []
        for index in choose_rows(pictured, columns):
            row, judgement = pictured[index], judge(family, pictured[index])
            images = [image for _, image in pictures_of(record, family, row) if image is not None]
            if images:
                mark, colour = _MARKS[judgement.verdict]
                asked = textwrap.wrap(_question(row.get("input_text")), 27)[:_TEXT_LINES]
                words = mark + _words(family, row, judgement.measure)
                said = textwrap.wrap(words, 24)[:_TEXT_LINES]
                tiles.append((_tile(images), colour, asked, said))
        if tiles:
            rows.append((task, tiles))
    if not rows:
        return False

    heights = [
        _TILE + 8 + _LINE_HEIGHT * max(len(asked) + len(said) for *_, asked, said in tiles)
        for _, tiles in rows
    ]
    width = 2 * _MARGIN + _TITLE_WIDTH + columns * (_TILE + _GAP) - _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + sum(heights) + 2 * _GAP * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    y = _MARGIN
    for (task, tiles), height in zip(rows, heights):
        draw.line((_MARGIN, y - _GAP, width - _MARGIN, y - _GAP), fill=_LINE, width=1)
        title = textwrap.fill(titles[task], 18)
        draw.multiline_text((_MARGIN, y), title, fill=_INK, font=font(21), spacing=5)
        below = y + 30 * (title.count("\n") + 1) + 4
        scores = record.tasks.get(task)
        if scores is not None and scores.primary is not None:
            value = labels.format_metric(scores.primary, scores.value)
            draw.text((_MARGIN, below), value, fill="#2454d6", font=font(26))
            metric = textwrap.fill(labels.metric_label(scores.primary), 24)
            draw.multiline_text((_MARGIN, below + 36), metric, fill=_MUTED, font=font(14, False))
        for column, (tile, colour, asked, said) in enumerate(tiles):
            x = _MARGIN + _TITLE_WIDTH + column * (_TILE + _GAP)
            sheet.paste(tile, (x, y))
            draw.rectangle((x - 1, y - 1, x + _TILE, y + _TILE), outline=_LINE)
            at = y + _TILE + 8
            for line in asked:
                draw.text((x, at), line, fill=_MUTED, font=font(13, False))
                at += _LINE_HEIGHT
            for line in said:
                draw.text((x, at), line, fill=colour, font=font(14))
                at += _LINE_HEIGHT
        y += height + 2 * _GAP
    sheet.save(path, compress_level=6)
    return True
