"""The result of an ablation: one table as Markdown and CSV.

Fifth step. Rows are mixtures and columns are tasks, as in the ablation table of the OFA paper
(arXiv:2202.03052). The CSV has one line per mixture and task with every number of the comparison.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from ofa_jax.ablation.comparison import Comparison, Comparisons
from ofa_jax.report import labels
from ofa_jax.report.tables import Cell, Table

_FIELDS = (
    "mixture", "task", "metric", "seeds", "mean", "spread", "difference", "paired_p",
    "adjusted_p", "welch_p", "interval_low", "interval_high",
)  # fmt: skip


def tasks_of(cells: Comparisons) -> list[str]:
    """All tasks, those of the first row first."""
    return list(dict.fromkeys(task for tasks in cells.values() for task in tasks))


def is_significant(cell: Comparison, level: float) -> bool:
    """Whether the difference of a cell counts as one."""
    return cell.adjusted_p is not None and cell.adjusted_p < level


def _text(cell: Comparison | None, level: float) -> Cell:
    if cell is None:
        return Cell("–")
    parts = []
    if cell.spread is not None:
        spread = labels.format_metric(cell.metric, cell.spread).removesuffix("%")
        parts.append(f"±{spread}")
    if cell.difference is not None:
        mark = "*" if is_significant(cell, level) else ""
        difference = labels.format_difference(cell.metric, cell.difference)
        p = f", p {cell.paired_p:.2g}" if cell.paired_p is not None else ""
        parts.append(f"({difference}{mark}{p})")
    return Cell(
        labels.format_metric(cell.metric, cell.mean),
        cell.mean,
        strong=is_significant(cell, level),
        note=" ".join(parts),
    )


def mixture_table(
    cells: Comparisons, *, expected: int, level: float, done: Mapping[str, int]
) -> Table:
    """The table that is read.

    Args:
      cells: of all rows.
      expected: seeds that each row should have.
      level: of significance.
      done: finished runs of each row.
    """
    tasks = tasks_of(cells)
    names = labels.task_labels(tasks)
    metrics = {task: next(c[task].metric for c in cells.values() if task in c) for task in tasks}
    rows = []
    for row, found in cells.items():
        note = "" if done[row] == expected else f"({done[row]} of {expected} seeds)"
        rows.append((Cell(row, note=note), *(_text(found.get(task), level) for task in tasks)))
    heads = (f"{names[task]}, {labels.metric_label(metrics[task])}" for task in tasks)
    tested = sum(cell.paired_p is not None for found in cells.values() for cell in found.values())
    return Table(
        ("Mixture", *heads),
        tuple(rows),
        "Mean over seeds ± standard deviation (difference to the first row, p of the t-test "
        f"paired over seeds). Bold and *: p < {level:g} after Holm's adjustment for {tested} "
        "comparisons. –: no score, as of a task that the mixture leaves out.",
    )


def to_csv(cells: Comparisons) -> str:
    """One line per mixture and task, numbers in full; what is not known is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_FIELDS)
    for row, found in cells.items():
        for task, cell in found.items():
            low, high = cell.interval or (None, None)
            numbers = (
                cell.mean, cell.spread, cell.difference, cell.paired_p, cell.adjusted_p,
                cell.welch_p, low, high,
            )  # fmt: skip
            shown = ("" if number is None else repr(number) for number in numbers)
            writer.writerow((row, task, cell.metric, len(cell.values), *shown))
    return buffer.getvalue()


def interval_table(cells: Comparisons) -> Table | None:
    """Differences of mean example scores with their bootstrap intervals, None without predictions.

    Args:
      cells: of all rows.
    """
    tasks = [
        task
        for task in tasks_of(cells)
        if any(c[task].interval for c in cells.values() if task in c)
    ]
    if not tasks:
        return None
    names = labels.task_labels(tasks)
    rows = []
    for row, found in cells.items():
        if not any(cell.interval for cell in found.values()):
            continue
        texts = []
        for task in tasks:
            interval = found[task].interval if task in found else None
            texts.append(
                Cell("–")
                if interval is None
                else Cell(
                    " to ".join(f"{100 * bound:+.1f}" for bound in interval).replace("-", "−")
                )
            )
        rows.append((Cell(row), *texts))
    return Table(
        ("Mixture", *(names[task] for task in tasks)),
        tuple(rows),
        "95% bootstrap interval over examples of the difference of mean example scores, times 100; "
        "seeds are averaged.",
    )
