"""Writes what an ablation found: `table.md`, `table.csv`, `chart.png`.

Last step; can be repeated at any time from the runs that are finished.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from ofa_jax.ablation.chart import save_chart
from ofa_jax.ablation.comparison import compare
from ofa_jax.ablation.runs import Run
from ofa_jax.ablation.scores import read_scores
from ofa_jax.ablation.settings import Ablation
from ofa_jax.ablation.table import interval_table, mixture_table, to_csv

TABLE = "table.md"


def write_results(ablation: Ablation, runs: Sequence[Run]) -> pathlib.Path | None:
    """Compares the finished runs.

    Args:
      runs: all of its runs.

    Returns:
      The table's file, None where no run is finished.

    Raises:
      ValueError: a run's files are malformed.
    """
    finished = [run for run in runs if run.state() == "finished"]
    if not finished:
        return None
    cells = compare(
        read_scores(runs), ablation.reference, bootstrap_samples=ablation.bootstrap_samples
    )
    done = {row: sum(run.row.name == row for run in finished) for row in cells}
    seeds = ", ".join(map(str, ablation.seeds))
    text = f"# {ablation.title}\n\n{ablation.steps:,} steps per run, seeds {seeds}.\n\n"
    table = mixture_table(
        cells, expected=len(ablation.seeds), level=ablation.significance, done=done
    )
    text += table.to_markdown()
    if intervals := interval_table(cells):
        text += f"\n{intervals.to_markdown()}"
    directory = pathlib.Path(ablation.directory)
    (directory / TABLE).write_text(text, encoding="utf-8")
    (directory / "table.csv").write_text(to_csv(cells), encoding="utf-8")
    save_chart(cells, directory / "chart.png", title=ablation.title, level=ablation.significance)
    return directory / TABLE
