"""Curves of a run as small multiples: one panel per task, steps along x.

Each panel is drawn by one function on given axes, and used twice: as an SVG of its own for the
page, and together with its siblings in a PNG beside it.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import pathlib
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ofa_jax.report import labels
from ofa_jax.report.collect import RunRecord

_INK = "#16202e"
_MUTED = "#5b6776"
_GRID = "#e8ebef"
_LINE = "#2454d6"
_FAINT = "#a9bdf2"
_BASELINE = "#9a5b00"
_AIM = "#0f7b4d"
_PANEL_SIZE = (3.7, 2.35)  # inches
_COLUMNS = 4
_MAX_POINTS = 500
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.edgecolor": "#c4cbd4",
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "text.color": _INK,
    "svg.fonttype": "none",
}
# The page's fonts are narrower than the one that the layout was measured with: nothing overflows.
_PAGE_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclasses.dataclass(frozen=True)
class Panel:
    """One chart of a group.

    Attributes:
      title: what it shows.
      description: the same in a sentence with numbers, for readers who cannot see it.
      draw: draws it on given axes.
    """

    title: str
    description: str
    draw: Callable[[Axes], None]


@dataclasses.dataclass(frozen=True)
class PanelGroup:
    """Panels that belong together.

    Attributes:
      name: file name of the PNG, without its ending.
      title: heading.
      note: one sentence on how to read it.
      panels: the charts.
    """

    name: str
    title: str
    note: str
    panels: tuple[Panel, ...]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centered moving average over `window` points; shorter at the two ends.

    Args:
      values: float[n].
      window: number of points, rounded up to an odd number.

    Returns:
      float64[n].
    """
    half = max(window // 2, 0)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighboring points, so that at most `_MAX_POINTS` are drawn."""
    if len(x) <= _MAX_POINTS:
        return x, y
    edges = np.linspace(0, len(x), _MAX_POINTS + 1).astype(int)
    return (
        np.add.reduceat(x, edges[:-1]) / np.diff(edges),
        np.add.reduceat(y, edges[:-1]) / np.diff(edges),
    )


def _steps_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: labels.format_tick(v)))
    axes.set_xlim(left=0)
    axes.set_xlabel("step", labelpad=1)


def _title(axes: Axes, title: str, unit: str, latest: str) -> None:
    """Title and latest value above the panel; the unit of y below the title, read level."""
    axes.set_title(title, loc="left", x=-0.09, fontsize=9.5, fontweight="bold", pad=17)
    axes.set_title(latest, loc="right", fontsize=9.5, color=_LINE, fontweight="bold", pad=17)
    axes.annotate(
        unit,
        (-0.09, 1.0),
        xycoords="axes fraction",
        textcoords="offset points",
        xytext=(0, 6),
        fontsize=8,
        color=_MUTED,
    )


def finish(axes: Axes, title: str, unit: str, right: str = "") -> None:
    """Ticks along both axes, heading and unit.

    Args:
      right: text at the right of the heading.
    """
    axes.yaxis.set_major_locator(MaxNLocator(4))
    _steps_axis(axes)
    _title(axes, title, unit, right)


def _loss_panel(title: str, steps: np.ndarray, values: np.ndarray) -> Panel:
    window = max(5, len(values) // 25)
    smoothed = smooth(values, window)
    positive = bool((values > 0).all())
    last = f"{smoothed[-1]:.3g}"

    def draw(axes: Axes) -> None:
        axes.plot(*_thin(steps, values), color=_FAINT, linewidth=0.8)
        axes.plot(*_thin(steps, smoothed), color=_LINE, linewidth=1.8)
        if positive:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
            low, high = values.min(), values.max()
            if high / low < 2.5:  # too narrow for 1-2-5 ticks
                axes.yaxis.set_major_locator(MaxNLocator(4))
        _steps_axis(axes)
        _title(axes, title, "nats per token, log scale" if positive else "nats per token", last)

    text = f"{title}: loss from {values[0]:.3g} to {smoothed[-1]:.3g} over {steps[-1]:.0f} steps"
    return Panel(title, text, draw)


def _score_panel(record: RunRecord, task: str, title: str, key: str) -> Panel:
    steps, values = record.series(key)
    metric = key.split("/", 2)[2]
    scores = record.tasks.get(task)
    only = "" if len(steps) > 1 else ", one evaluation only"
    factor = 100.0 if labels.is_share(metric) else 1.0
    lines = []
    if scores is not None and scores.primary == metric:
        if scores.baselines:
            name = max(scores.baselines, key=scores.baselines.__getitem__)
            lines.append((name, scores.baselines[name], _BASELINE, (0, (4, 3))))
        if scores.aim is not None:
            lines.append(("aim", scores.aim, _AIM, (0, (1, 2))))

    def draw(axes: Axes) -> None:
        axes.plot(steps, factor * values, color=_LINE, linewidth=1.8, marker="o", markersize=3.2)
        for name, value, colour, dashes in lines:
            axes.axhline(factor * value, color=colour, linewidth=1.1, linestyle=dashes)
            axes.annotate(
                name,
                (0.995, factor * value),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                xytext=(0, 2),
                ha="right",
                va="bottom",
                fontsize=7.5,
                color=colour,
            )
        levels = [*(factor * values), *(factor * line[1] for line in lines)]
        top, bottom = max(levels), min(0.0, *levels)
        axes.set_ylim(bottom, top + 0.14 * (top - bottom or 1.0))
        unit = labels.metric_label(metric) + (", %" if factor == 100 else "") + only
        finish(axes, title, unit, labels.format_metric(metric, values[-1]))

    shown = [labels.format_metric(metric, value) for value in (values[0], values[-1])]
    way = f"{shown[1]} after {steps[-1]:.0f} steps"
    if not only:
        way = f"from {shown[0]} after {steps[0]:.0f} steps to {way}"
    level = "".join(f"; {n} {labels.format_metric(metric, value)}" for n, value, *_ in lines)
    return Panel(title, f"{title}: {labels.metric_label(metric)} {way}{only}{level}", draw)


def _plain_panel(
    title: str, unit: str, steps: np.ndarray, values: np.ndarray, *, share: bool, smoothed: bool
) -> Panel:
    factor = 100.0 if share else 1.0
    scaled = factor * values
    middle = float(np.median(scaled[len(scaled) // 10 :]))

    def draw(axes: Axes) -> None:
        line = smooth(scaled, max(5, len(scaled) // 25)) if smoothed else scaled
        if smoothed:
            axes.plot(*_thin(steps, scaled), color=_FAINT, linewidth=0.8)
        axes.plot(*_thin(steps, line), color=_LINE, linewidth=1.8)
        # The first steps compile; one outlier must not flatten the curve.
        settled = scaled[min(3, len(scaled) - 1) :]
        axes.set_ylim(0, max(float(np.quantile(settled, 0.995)) * 1.15, 1e-12))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: labels.format_tick(v)))
        _steps_axis(axes)
        _title(axes, title, unit, f"{labels.format_tick(middle)} median" if smoothed else "")

    return Panel(title, f"{title}: median {middle:.3g} {unit}", draw)


def loss_group(record: RunRecord) -> PanelGroup:
    """Training loss, total and per task ("loss" and "loss/<task>" of metrics.jsonl)."""
    keys = [key for key in record.history_keys if key == "loss" or key.startswith("loss/")]
    names = labels.task_labels(key[5:] for key in keys if key != "loss")
    panels = []
    for key in sorted(keys, key=lambda k: k != "loss"):
        steps, values = record.series(key)
        if len(steps):
            title = "All tasks" if key == "loss" else names[key[5:]]
            panels.append(_loss_panel(title, steps, values))
    note = "Faint: as logged. Bold: moving average; its last value stands at the top right."
    return PanelGroup("loss", "Training loss", note, tuple(panels))


def score_group(record: RunRecord) -> PanelGroup:
    """Primary metric of each task over training ("eval/<task>/<metric>" of metrics.jsonl)."""
    found: dict[str, list[str]] = {}
    for key in record.history_keys:
        parts = key.split("/", 2)
        if parts[0] == "eval" and len(parts) == 3 and len(record.series(key)[0]):
            found.setdefault(parts[1], []).append(key)
    names = labels.task_labels(found)
    panels = []
    for task, keys in found.items():
        scores = record.tasks.get(task)
        primary = f"eval/{task}/{scores.primary}" if scores else ""
        key = primary if primary in keys else keys[0]
        panels.append(_score_panel(record, task, names[task], key))
    note = "Scores on held-out examples while training ran. Dashed: what needs no model."
    return PanelGroup("scores", "Scores over training", note, tuple(panels))


def speed_group(record: RunRecord) -> PanelGroup:
    """Throughput, waiting for data, learning rate and gradient norm."""
    wanted = (
        ("examples_per_second", "Throughput", "examples per second", False, True),
        ("data_wait", "Waiting for data", "% of the time", True, True),
        ("learning_rate", "Learning rate", "per step", False, False),
        ("gradient_norm", "Gradient norm", "before clipping", False, True),
    )
    panels = []
    for key, title, unit, share, smoothed in wanted:
        steps, values = record.series(key)
        if len(steps):
            panels.append(_plain_panel(title, unit, steps, values, share=share, smoothed=smoothed))
    return PanelGroup("speed", "Speed", "", tuple(panels))


def codes_group(record: RunRecord) -> PanelGroup:
    """What an image tokenizer says of its codes and images while it is trained."""
    wanted = (
        ("image/psnr", "PSNR of training images", "dB", False),
        ("codes/perplexity", "Codes in use", "perplexity of a batch", False),
        ("codes/dead", "Dead codes", "% of all", True),
        ("image/codebook", "Codebook loss", "", False),
        ("image/perceptual", "Perceptual loss", "", False),
        ("image/discriminator", "Discriminator loss", "", False),
        ("image/adversarial_weight", "Adaptive weight", "of the generator loss", False),
        ("image/temperature", "Temperature", "", False),
    )
    panels = []
    for key, title, unit, share in wanted:
        steps, values = record.series(key)
        if len(steps):
            panels.append(_plain_panel(title, unit, steps, values, share=share, smoothed=True))
    return PanelGroup("codes", "Image codes", "", tuple(panels))


def panel_svg(panel: Panel) -> str:
    """One panel as a data URI of an SVG that uses the page's fonts."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_PANEL_SIZE)
        figure.subplots_adjust(left=0.115, right=0.97, top=0.81, bottom=0.19)
        panel.draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"'DejaVu Sans'", _PAGE_FONTS.replace("'", "&apos;"), buffer.getvalue())
    encoded = base64.b64encode(svg.encode("utf-8")).decode("ascii")
    return f"data:image/svg+xml;base64,{encoded}"


def save_group(group: PanelGroup, path: pathlib.Path) -> None:
    """Writes all panels of a group side by side as a PNG."""
    columns = min(_COLUMNS, len(group.panels))
    rows = -(-len(group.panels) // columns)
    with matplotlib.rc_context(_STYLE):
        width, height = columns * _PANEL_SIZE[0], rows * _PANEL_SIZE[1]
        figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
        figure.subplots_adjust(
            left=0.115 * _PANEL_SIZE[0] / width,
            right=1 - 0.03 * _PANEL_SIZE[0] / width,
            top=1 - 0.19 * _PANEL_SIZE[1] / height,
            bottom=0.19 * _PANEL_SIZE[1] / height,
            wspace=0.145 / 0.855,
            hspace=0.38 / 0.62,
        )
        for index, panel in enumerate(group.panels):
            panel.draw(figure.add_subplot(rows, columns, index + 1))
        figure.savefig(path)


def save_groups(groups: Sequence[PanelGroup], directory: pathlib.Path) -> list[pathlib.Path]:
    """Writes each group that has panels as `<directory>/<group>.png`; returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for group in groups:
        if group.panels:
            paths.append(directory / f"{group.name}.png")
            save_group(group, paths[-1])
    return paths
