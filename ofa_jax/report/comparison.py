"""Several runs on one page: the table of their scores, and their curves over each other."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from ofa_jax.report import labels, plots, rendering
from ofa_jax.report.collect import RunRecord
from ofa_jax.report.tables import Table

# Told apart without color, too: by the kind of line.
COLORS = ("#2454d6", "#c9430c", "#0f7b4d", "#8a2be2", "#8a6100", "#16202e")
_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))

# Number of the run, its name, steps, values.
Curve = tuple[int, str, np.ndarray, np.ndarray]


def write_comparison(
    records: Mapping[str, RunRecord], table: Table, path: str | pathlib.Path
) -> pathlib.Path:
    """Writes the page.

    Args:
      records: runs by name.
      table: of their scores, `tables.runs_comparison`.
      path: file to write.

    Returns:
      The path.
    """
    charts = [
        (group, [plots.panel_svg(panel) for panel in group.panels])
        for group in (_scores(records), _losses(records))
        if group.panels
    ]
    styles = {
        name: (_color(index), "solid" if _dash(index) == "-" else "dashed")
        for index, name in enumerate(records)
    }
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = rendering.page("report/comparison.html", table=table, charts=charts, styles=styles)
    path.write_text(page, encoding="utf-8")
    return path


def _scores(records: Mapping[str, RunRecord]) -> plots.PanelGroup:
    tasks = list(dict.fromkeys(name for record in records.values() for name in record.tasks))
    names = labels.task_labels(tasks)
    panels = []
    for task in tasks:
        metric = next(r.tasks[task].primary for r in records.values() if task in r.tasks)
        share = labels.is_share(str(metric))
        unit = labels.metric_label(str(metric)) + (", %" if share else "")
        curves = _curves(records, f"eval/{task}/{metric}", 100.0 if share else 1.0)
        panels += [_panel(names[task], unit, curves)] if curves else []
    return plots.PanelGroup("scores", "Scores over training", "", tuple(panels))


def _losses(records: Mapping[str, RunRecord]) -> plots.PanelGroup:
    keys = [key for record in records.values() for key in record.history_keys]
    keys = [key for key in dict.fromkeys(keys) if key == "loss" or key.startswith("loss/")]
    names = {"": "All tasks", **labels.task_labels(key[5:] for key in keys if key != "loss")}
    panels = [
        _panel(names[key[5:]], "nats per token", _curves(records, key, smoothed=True))
        for key in keys
    ]
    return plots.PanelGroup("loss", "Training loss", "Moving averages.", tuple(panels))


def _curves(
    records: Mapping[str, RunRecord], key: str, factor: float = 1.0, *, smoothed: bool = False
) -> list[Curve]:
    found = []
    for index, (name, record) in enumerate(records.items()):
        steps, values = record.series(key)
        if len(steps):
            values = plots.smooth(values, max(5, len(values) // 25)) if smoothed else values
            found.append((index, name, steps, factor * values))
    return found


def _panel(title: str, unit: str, curves: list[Curve]) -> plots.Panel:
    def draw(axes: Axes) -> None:
        for index, _, steps, values in curves:
            marker = "o" if len(steps) < 40 else ""
            style = {"color": _color(index), "linestyle": _dash(index)}
            axes.plot(steps, values, linewidth=1.6, marker=marker, markersize=3, **style)
        plots.finish(axes, title, unit)

    ends = "; ".join(f"{name} {v[-1]:.3g} after {s[-1]:.0f} steps" for _, name, s, v in curves)
    return plots.Panel(title, f"{title}, {unit}: {ends}", draw)


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _dash(index: int) -> object:
    return _DASHES[index % len(_DASHES)]
