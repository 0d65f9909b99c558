"""The chart of an ablation: a panel per task, a line per mixture, a dot per seed.

Sixth step; reads the comparison only.
"""

from __future__ import annotations

import math
import pathlib

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ofa_jax.ablation.comparison import Comparisons
from ofa_jax.ablation.table import is_significant, tasks_of
from ofa_jax.report import labels

_INK, _MUTED, _GRID = "#16202e", "#5b6776", "#e8ebef"
_SAME, _DIFFERENT = "#2454d6", "#b93a0a"
_COLUMNS = 4
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": "#c4cbd4",
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def save_chart(cells: Comparisons, path: pathlib.Path, *, title: str, level: float) -> None:
    """Draws the comparison.

    Args:
      cells: of all rows; the first is the full mixture.
      path: PNG file.
      title: heading.
      level: of significance.
    """
    tasks, rows = tasks_of(cells), list(cells)
    names = labels.task_labels(tasks)
    columns = min(_COLUMNS, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    height = 0.95 + 0.27 * len(rows)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(1.9 + 2.5 * columns, 0.95 + height * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for index, axes in enumerate(grid.flat):
            if index >= len(tasks):
                axes.set_visible(False)
                continue
            task = tasks[index]
            found = {row: cells[row][task] for row in rows if task in cells[row]}
            metric = next(iter(found.values())).metric
            share = labels.is_share(metric)
            scale = 100 if share else 1
            axes.set_title(names[task], loc="left", fontsize=10, fontweight="bold")
            unit = " (%)" if share else ""
            axes.set_xlabel(f"{labels.metric_label(metric)}{unit}", fontsize=8)
            axes.set_yticks(range(len(rows)), rows)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.tick_params(length=0)
            axes.margins(x=0.12)
            axes.grid(axis="x", color=_GRID)
            axes.set_axisbelow(True)
            if rows[0] in found:
                axes.axvline(scale * found[rows[0]].mean, color=_MUTED, linewidth=1, dashes=(3, 3))
            for place, row in enumerate(rows):
                if row not in found:
                    axes.text(
                        0.02, place, "no score", transform=axes.get_yaxis_transform(),
                        va="center", color=_MUTED, fontsize=8,
                    )  # fmt: skip
                    continue
                cell = found[row]
                different = is_significant(cell, level)
                colour = _DIFFERENT if different else _SAME
                values = [scale * value for value in cell.values.values()]
                axes.plot(values, [place] * len(values), "o", ms=5, color=colour, alpha=0.35, mew=0)
                if cell.spread is not None:
                    reach = [scale * (cell.mean + side * cell.spread) for side in (-1, 1)]
                    axes.plot(reach, [place, place], color=colour, linewidth=1.6)
                marker = "D" if different else "|"
                axes.plot(scale * cell.mean, place, marker, ms=6 if different else 11,
                          color=colour, mew=2)  # fmt: skip
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
        keys = [
            Line2D([], [], marker="o", ls="", color=_SAME, alpha=0.35, mew=0, label="one seed"),
            Line2D([], [], marker="|", ms=11, mew=2, color=_SAME, label="mean ± std over seeds"),
            Line2D([], [], marker="D", ms=6, color=_DIFFERENT, label=f"differs (p < {level:g})"),
            Line2D([], [], color=_MUTED, linewidth=1, dashes=(3, 3), label=f"mean of {rows[0]}"),
        ]
        figure.legend(handles=keys, loc="outside lower left", ncols=4, frameon=False, fontsize=8)
        figure.savefig(path, dpi=130, facecolor="white")
