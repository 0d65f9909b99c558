"""Builds the report of a run: reads, draws, writes RUN_DIR/report.html and RUN_DIR/report/."""

from __future__ import annotations

import dataclasses
import pathlib

from ofa_jax.report import plots, tables
from ofa_jax.report.collect import RunRecord, collect
from ofa_jax.report.page import page_html

DEFAULT_EXAMPLES = 24
MAX_PAGE_BYTES = 8_000_000


def _fitting_page(record: RunRecord, groups: dict[str, plots.PanelGroup], examples: int) -> str:
    """The page with as many examples as fit: halved until the page is small enough."""
    limit = examples
    page = page_html(record, groups, limit)
    while len(page.encode("utf-8")) > MAX_PAGE_BYTES and limit > 1:
        limit //= 2
        notice = f"Only {limit} examples per task are shown, to keep the page small."
        page = page_html(
            dataclasses.replace(record, notices=(*record.notices, notice)), groups, limit
        )
    return page


def build_report(run_dir: str | pathlib.Path, *, examples: int = DEFAULT_EXAMPLES) -> pathlib.Path:
    """Writes the report of a run.

    Beside RUN_DIR/report.html, the folder RUN_DIR/report/ gets the curves as PNG, and the scores
    as Markdown and CSV.

    Args:
      run_dir: directory of the run (see `collect.collect` for its files).
      examples: largest number of examples per task.

    Returns:
      Path of the page.

    Raises:
      RecordError: where the directory does not exist or a file in it is malformed.
      ValueError: where `examples` is not positive.
    """
    if examples < 1:
        raise ValueError(f"examples must be positive, got {examples}")
    record = collect(run_dir)
    groups = {
        "loss": plots.loss_group(record),
        "scores": plots.score_group(record),
        "speed": plots.speed_group(record),
    }
    folder = record.path / "report"
    plots.save_groups(list(groups.values()), folder)
    if record.tasks:
        (folder / "scores.csv").write_text(tables.score_table(record).to_csv(), encoding="utf-8")
        pieces = [f"# {record.name}", "## Scores", tables.score_table(record).to_markdown()]
        splits = tables.split_table(record)
        if splits is not None:
            pieces += ["## Splits", splits.to_markdown()]
            (folder / "splits.csv").write_text(splits.to_csv(), encoding="utf-8")
        (folder / "scores.md").write_text("\n\n".join(pieces), encoding="utf-8")
    page = record.path / "report.html"
    page.write_text(_fitting_page(record, groups, examples), encoding="utf-8")
    return page
