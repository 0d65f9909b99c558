"""One HTML page of an inspection, in the style of the report of a run; no external request."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ofa_jax.inspection.opening import OpenedData
from ofa_jax.inspection.sheet import Tile
from ofa_jax.inspection.summary import entries, share, spread
from ofa_jax.inspection.survey import TEXTS, Survey
from ofa_jax.inspection.tokens import Piece, TaskView, TokenExample
from ofa_jax.report import rendering
from ofa_jax.report.cards import text_html
from ofa_jax.report.images import DrawnBox, draw_boxes
from ofa_jax.report.labels import task_labels
from ofa_jax.report.plots import PanelGroup, panel_svg

# Sequences longer than this lose their middle.
_MOST_TOKENS = 64
_KEPT_END = 8
_IMAGE_SIDE = 320
# Facts of more characters get a line of their own.
_LONG_FACT = 36
# Cells of at most so many characters stay on one line.
_SHORT_CELL = 20


def _facts(opened: OpenedData, found: Survey) -> list[tuple[str, str]]:
    seen = "all" if found.complete else f"{len(found.sampled):,}, evenly spread"
    facts = [("Split", opened.split), ("Records looked at", seen), *opened.facts]
    if found.data_sets:
        sets = ", ".join(f"{name} {count:,}" for name, count in found.data_sets.most_common(4))
        facts.append(("Data set field", sets))
    return [(name[:1].upper() + name[1:], value) for name, value in facts]


def _headlines(opened: OpenedData, found: Survey) -> list[tuple[str, str]]:
    """(number, words) of what to know first."""
    read = len(found.sampled)
    tiles = [(f"{found.total:,}", f"records of split {opened.split}")]
    tiles += [(share(count, read), f"of type {name}") for name, count in found.types.most_common(3)]
    if found.widths:
        size = f"{np.median(found.widths):.0f} × {np.median(found.heights):.0f}"
        tiles.append((size, "pixels, median image"))
    if found.box_sides:
        tiles.append((f"{np.mean(found.boxes):.1f}", "boxes per record"))
    faults = f"{found.faulty:,}" if found.faults else "none"
    return [*tiles, (faults, "faults" if found.complete else "faults in the sample")]


def _fields(found: Survey) -> list[tuple[str, ...]]:
    read = len(found.sampled)
    return [
        (
            one.name,
            share(one.present, read),
            ", ".join(name for name, _ in one.types.most_common() if name != "empty") or "empty",
            entries(one),
            one.example,
            one.meaning,
        )
        for one in found.fields.values()
    ]


def _lengths(found: Survey) -> list[tuple[str, ...]]:
    return [
        (TEXTS[field], f"{len(lengths):,}", spread(lengths), f"{sum(lengths):,}")
        for field, lengths in found.words.items()
        if lengths
    ]


def _small(image: Image.Image) -> Image.Image:
    picture = image.copy()
    picture.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE), Image.Resampling.LANCZOS)
    return picture


def _under(one: Tile) -> str:
    size = f"{one.size[0]} × {one.size[1]}" if one.size else ""
    notes = [one.example_type, size, f"{one.hidden_boxes} more boxes" if one.hidden_boxes else ""]
    return " · ".join(note for note in notes if note)


def _token(one: Piece) -> tuple[str, str, int]:
    """(classes, text, id)."""
    css, shown = "", one.text
    if one.text in ("<s>", "</s>", "<pad>"):
        css = " special"
    elif match := re.match("<(bin|code|mask)[_>]", one.text):
        css, shown = f" {match[1]}", one.text.strip("<>")
    return css + ("" if one.trained else " untrained"), shown, one.token_id


def _tokens(found: Sequence[Piece]) -> list[tuple[str, str, int] | int]:
    """Tokens; a number stands for so many that are left out."""
    if len(found) <= _MOST_TOKENS:
        return list(map(_token, found))
    start = map(_token, found[: _MOST_TOKENS - _KEPT_END])
    return [*start, len(found) - _MOST_TOKENS, *map(_token, found[-_KEPT_END:])]


def _drawn(one: TokenExample) -> tuple[Image.Image, str] | None:
    """The image that the model reads, with the boxes of the source, and its caption."""
    if one.image is None:
        return None
    regions = [DrawnBox(box.tolist(), False) for box in one.regions[:12]]
    height, width = one.image.shape[:2]
    picture = draw_boxes(Image.fromarray(one.image), regions, (width, height))
    caption = f"record {one.record}, {one.image_id}: {width} × {height} as the model reads it"
    return _small(picture), caption


def page_html(
    opened: OpenedData,
    found: Survey,
    groups: Sequence[PanelGroup],
    tiles: Sequence[Tile],
    views: Sequence[TaskView],
    notice: str = "",
) -> str:
    """The whole page.

    Args:
      groups: charts; those without panels are left out.
      tiles: examples.
      views: tasks over the records.
      notice: why there are no token ids, or what else to know about them.

    Returns:
      HTML without any external reference.
    """
    groups = [group for group in groups if group.panels]
    matching = [view for view in views if view.matches]
    links = [("top", "Overview")]
    links += [("faults", "Faults")] if found.faults else []
    links += [("fields", "Fields"), *((group.name, group.title) for group in groups)]
    links += [("examples", "Examples"), ("tokens", "Token ids")]
    names = task_labels(view.task.name for view in matching)
    return rendering.page(
        "inspection/data_set.html",
        opened=opened,
        found=found,
        links=links,
        task_links=[(f"task-{n}", names[v.task.name]) for n, v in enumerate(matching)],
        facts=_facts(opened, found),
        headlines=_headlines(opened, found),
        fields=_fields(found),
        lengths=_lengths(found),
        groups=[(group, [panel_svg(panel) for panel in group.panels]) for group in groups],
        tiles=[(one, one.picture and _small(one.picture), _under(one)) for one in tiles],
        views=views,
        others=[(view.task.name, view.refusal) for view in views if not view.matches],
        matching=[
            (
                view,
                [(e, _drawn(e), _tokens(e.inputs), _tokens(e.targets)) for e in view.examples],
            )
            for view in matching
        ],
        notice=notice,
        long_fact=_LONG_FACT,
        short_cell=_SHORT_CELL,
        text_html=text_html,
    )
