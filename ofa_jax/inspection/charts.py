"""Histograms of a survey, in the style of the report of a run.

Each panel is drawn twice by `ofa_jax.report.plots`: as an SVG for the page, and with its siblings
in a PNG beside it.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ofa_jax.inspection.survey import TEXTS, Survey
from ofa_jax.report import labels
from ofa_jax.report.plots import Panel, PanelGroup

_BAR = "#2454d6"
_MARK = "#9a5b00"
_MUTED = "#5b6776"
_INK = "#16202e"
_MOST_BINS = 40
# Fewer whole numbers than this would be a wall of colour.
_FEWEST_BINS = 9
_MOST_NAMES = 8
_LONGEST_NAME = 16
# Words that survive in a source and in a target (SPEC 4.3), marked where texts are longer.
_WORD_LIMITS = {"captions": 30, "region_captions": 30, "refexps": 80, "question": 80}


def _title(axes: Axes, title: str, unit: str, note: str) -> None:
    """Title and a figure above the panel; the unit of x below it."""
    axes.set_title(title, loc="left", x=-0.09, fontsize=9.5, fontweight="bold", pad=8)
    axes.set_title(note, loc="right", fontsize=8.5, color=_BAR, fontweight="bold", pad=8)
    axes.set_xlabel(unit, labelpad=1)


def edges_of(values: np.ndarray) -> np.ndarray:
    """Bin edges: one bin per whole number where there are few, else even steps.

    Args:
      values: float[n], n > 0.

    Returns:
      Ascending edges. The rarest 1 percent at the upper end shares the last bin, so that one
      outlier does not flatten the rest.
    """
    low = float(values.min())
    high = max(float(np.quantile(values, 0.99)), low)
    whole = bool((values == np.round(values)).all())
    if whole:
        step = max(1, int(np.ceil((high - low + 1) / _MOST_BINS)))
        return np.arange(low, high + step + 0.5, step) - 0.5
    return np.linspace(low, high if high > low else low + 1.0, _MOST_BINS + 1)


def histogram(
    title: str, unit: str, values: Sequence[float] | np.ndarray, *, limit: float | None = None
) -> Panel:
    """A histogram with its median.

    Args:
      title: what is counted.
      unit: of the values, with a plural noun.
      values: at least one.
      limit: a value to mark, such as the words that a task keeps.

    Returns:
      The panel.
    """
    array = np.asarray(values, np.float64)
    edges = edges_of(array)
    counts, _ = np.histogram(np.minimum(array, edges[-1] - 1e-9), edges)
    middle = float(np.median(array))
    tail = bool(array.max() > 1.1 * edges[-1])

    def draw(axes: Axes) -> None:
        width = np.diff(edges)
        places = edges[:-1] + 0.07 * width
        axes.bar(places, counts, width=0.86 * width, align="edge", color=_BAR, linewidth=0)
        whole = bool(edges[0] % 1)
        spare = (_FEWEST_BINS * width[0] - (edges[-1] - edges[0])) / 2
        if whole and spare > 0:
            left = max(edges[0] - spare, min(-0.5 * width[0], edges[0]))
            axes.set_xlim(left, left + _FEWEST_BINS * width[0])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: labels.format_tick(v)))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: labels.format_tick(v)))
        axes.grid(visible=False, axis="x")
        if limit is not None and array.max() > limit:
            axes.axvline(limit + 0.5, color=_MARK, linewidth=1.1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"cut at {limit:g}",
                (limit + 0.5, 0.97),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                xytext=(-3 if limit > edges[len(edges) // 2] else 3, 0),
                ha="right" if limit > edges[len(edges) // 2] else "left",
                va="top",
                fontsize=7.5,
                color=_MARK,
            )
        if tail:
            axes.annotate(
                f"largest {labels.format_tick(array.max())}",
                (1.0, 0.84),
                xycoords="axes fraction",
                ha="right",
                va="top",
                fontsize=7.5,
                color=_MUTED,
            )
        _title(axes, title, unit, f"median {labels.format_tick(middle)}")

    text = (
        f"{title}: {array.min():.4g} to {array.max():.4g} {unit}, median {middle:.4g}, "
        f"{len(array):,} in all"
    )
    return Panel(title, text, draw)


def names(title: str, counts: collections.Counter[str]) -> Panel:
    """The most frequent names as horizontal bars."""
    common = counts.most_common(_MOST_NAMES)
    total = sum(counts.values())
    shown = [_short(name) for name, _ in common]

    def draw(axes: Axes) -> None:
        places = np.arange(len(common))[::-1]
        axes.barh(places, [count for _, count in common], height=0.74, color=_BAR, linewidth=0)
        # Written inside the panel, beside the bars: labels of an axis would need a margin.
        largest = common[0][1]
        for place, name, (_, count) in zip(places, shown, common):
            inside = count > 0.6 * largest
            axes.annotate(
                f"{name} ",
                (count, place),
                textcoords="offset points",
                xytext=(-4 if inside else 4, -0.5),
                ha="right" if inside else "left",
                va="center",
                fontsize=7.2,
                color="white" if inside else _INK,
                annotation_clip=False,
            )
        axes.set_yticks([])
        axes.set_ylim(-0.6, len(common) - 0.4)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: labels.format_tick(v)))
        rest = len(counts) - len(common)
        unit = f"occurrences; {rest:,} more names" if rest > 0 else "occurrences"
        _title(axes, title, unit, f"{total:,} in all")

    listed = ", ".join(f"{name} {count:,}" for name, count in common)
    return Panel(title, f"{title}: {listed}", draw)


def _short(name: str) -> str:
    # A dollar sign would begin a formula.
    name = " ".join(name.replace("$", r"\$").split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _sizes(found: Survey) -> Panel:
    """Width and height of every image as dots."""
    widths, heights = np.array(found.widths), np.array(found.heights)

    def draw(axes: Axes) -> None:
        high = 1.06 * max(np.quantile(widths, 0.99), np.quantile(heights, 0.99))
        axes.plot([0, high], [0, high], color="#c4cbd4", linewidth=0.9, zorder=1)
        axes.scatter(widths, heights, s=9, color=_BAR, alpha=0.35, linewidth=0, zorder=2)
        axes.set_xlim(0, high)
        axes.set_ylim(0, high)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: labels.format_tick(v)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: labels.format_tick(v)))
        middle = f"median {np.median(widths):.0f} x {np.median(heights):.0f}"
        _title(axes, "Image size", "width; upwards: height, pixels", middle)

    text = f"Image sizes: widths {widths.min()} to {widths.max()}, heights {heights.min()} to "
    return Panel("Image size", text + f"{heights.max()} pixels", draw)


def image_group(found: Survey) -> PanelGroup:
    """Sizes of images and of their boxes."""
    panels = []
    if found.widths:
        short = np.minimum(found.widths, found.heights)
        long = np.maximum(found.widths, found.heights)
        panels += [_sizes(found), histogram("Short side", "pixels", short)]
        panels.append(histogram("Long side over short side", "ratio", long / short))
    if found.image_bytes:
        kilobytes = np.asarray(found.image_bytes) / 1000
        panels.append(histogram("Encoded image", "kB", kilobytes))
    if found.boxes:
        panels.append(histogram("Boxes per record", "boxes", found.boxes))
    if found.box_sides:
        panels.append(histogram("Box size", "root of its share of the image", found.box_sides))
    note = "The last bar holds the largest 1 percent as well. Sizes are those of the stored files."
    return PanelGroup("images", "Images and boxes", note, tuple(panels))


def text_group(found: Survey) -> PanelGroup:
    """Lengths of texts in words, and the most frequent labels and answers."""
    panels = [
        histogram(
            f"{noun[:1].upper()}{noun[1:]} length",
            "words",
            found.words[field],
            limit=_WORD_LIMITS.get(field),
        )
        for field, noun in TEXTS.items()
        if found.words.get(field) and field != "labels"
    ]
    for field, counts in found.frequent.items():
        if counts:
            panels.append(names(f"Most frequent {TEXTS.get(field, field)}s", counts))
    note = "Words are separated by spaces. Dashed: what the pretraining tasks keep (SPEC 4.3)."
    return PanelGroup("texts", "Texts", note, tuple(panels))
