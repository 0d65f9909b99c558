"""Builds the report of a run: reads, draws, writes RUN_DIR/report.html and RUN_DIR/report/."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from ofa_jax.report import DEFAULT_EXAMPLES, plots, tables
from ofa_jax.report.collect import RunRecord, collect
from ofa_jax.report.gallery import save_gallery
from ofa_jax.report.page import Charts, page_html

MAX_PAGE_BYTES = 8_000_000


def _fitting_page(record: RunRecord, charts: Sequence[Charts], examples: int) -> str:
    """The page with as many examples as fit: fewer per task until the page is small enough."""
    limit = examples
    page = page_html(record, charts, limit)
    while (size := len(page.encode("utf-8"))) > MAX_PAGE_BYTES and limit > 1:
        limit = max(1, min(limit - 1, int(0.9 * limit * MAX_PAGE_BYTES / size)))
        notice = f"Only {limit} examples per task are shown, to keep the page small."
        page = page_html(
            dataclasses.replace(record, notices=(*record.notices, notice)), charts, limit
        )
    return page


def build_report(run_dir: str | pathlib.Path, *, examples: int = DEFAULT_EXAMPLES) -> pathlib.Path:
    """Writes the report of a run.

    Beside RUN_DIR/report.html, the directory RUN_DIR/report/ gets the curves and a sheet of
    examples as PNG, and the scores as Markdown and CSV.

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
    groups = [plots.score_group(record), plots.loss_group(record), plots.speed_group(record)]
    if (codes := plots.codes_group(record)).panels:
        groups.insert(1, codes)
    directory = record.path / "report"
    plots.save_groups(groups, directory)
    save_gallery(record, directory / "examples.png")
    if record.tasks:
        (directory / "scores.csv").write_text(tables.score_table(record).to_csv(), encoding="utf-8")
        pieces = [f"# {record.name}", "## Scores", tables.score_table(record).to_markdown()]
        splits = tables.split_table(record)
        if splits is not None:
            pieces += ["## Splits", splits.to_markdown()]
            (directory / "splits.csv").write_text(splits.to_csv(), encoding="utf-8")
        (directory / "scores.md").write_text("\n\n".join(pieces), encoding="utf-8")
    page = record.path / "report.html"
    charts = [(group, tuple(plots.panel_svg(panel) for panel in group.panels)) for group in groups]
    page.write_text(_fitting_page(record, charts, examples), encoding="utf-8")
    return page
