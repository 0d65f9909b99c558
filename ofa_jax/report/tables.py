"""Tables of scores as Markdown and CSV, and for pages; the comparison of several runs.

One `Table` holds text and, where there is one, the number behind it; the writers only differ in
syntax.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence

from ofa_jax.report import labels
from ofa_jax.report.collect import BASELINE_KEYS, RunRecord, TaskScores


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
      text: what is read.
      value: the number behind it, for CSV; None for words.
      strong: emphasised (the best of a row).
      note: small text after it ("±2.1").
      tint: background strength in [-1, 1]; 0 is none, negative is a loss.
    """

    text: str
    value: float | None = None
    strong: bool = False
    note: str = ""
    tint: float = 0.0

    @property
    def background(self) -> str:
        """CSS colour of the tint, "" for none."""
        colour = "194,65,12" if self.tint < 0 else "15,123,77"
        opacity = min(abs(self.tint), 1) * 0.28
        return f"rgba({colour},{opacity:.3f})" if abs(self.tint) >= 0.02 else ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a head.

    Attributes:
      columns: names of the columns; the first column is text, the others are numbers.
      rows: rows of as many cells.
      caption: one sentence about the table, or "".
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {index} has {len(row)} cells, the table has {len(self.columns)} columns"
                )

    def to_markdown(self) -> str:
        """GitHub Markdown; strong cells are bold."""

        def write(cell: Cell) -> str:
            text = cell.text.replace("|", "\\|")
            text = f"**{text}**" if cell.strong else text
            return f"{text} {cell.note}".strip()

        lines = [f"| {' | '.join(self.columns)} |"]
        lines.append("|" + "|".join([" --- ", *[" ---: "] * (len(self.columns) - 1)]) + "|")
        lines += [f"| {' | '.join(write(cell) for cell in row)} |" for row in self.rows]
        if self.caption:
            lines += ["", self.caption]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """Comma-separated values with full precision; missing numbers are empty."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow(
                [
                    repr(cell.value) if cell.value is not None else cell.text.replace("–", "")
                    for cell in row
                ]
            )
        return buffer.getvalue()


def _metric_cell(metric: str | None, value: float | None, **options) -> Cell:
    if metric is None or value is None:
        return Cell("–")
    return Cell(labels.format_metric(metric, value), value, **options)


def _error_note(scores: TaskScores) -> str:
    if scores.value is None or not scores.n or not labels.is_proportion(str(scores.primary)):
        return ""
    return f"±{100 * labels.sampling_error(scores.value, scores.n):.1f}"


def score_table(record: RunRecord) -> Table:
    """Primary metric of each task against the best answer without a model, floor and aim.

    Floor and aim columns appear only where any task has them.

    Returns:
      One row per task.
    """
    names = labels.task_labels(record.tasks)
    with_floor = any(task.floor is not None for task in record.tasks.values())
    with_aim = any(task.aim is not None for task in record.tasks.values())
    known = [k for k in BASELINE_KEYS if any(k in t.baselines for t in record.tasks.values())]
    columns = ["Task", "Metric", "Score", *(key.capitalize() for key in known)]
    columns += ["Above"] * bool(known)
    columns += ["Floor"] * with_floor + ["Aim"] * with_aim + ["Examples"]
    rows = []
    for name, task in record.tasks.items():
        metric = task.primary
        gain = task.gain
        row = [
            Cell(names[name]),
            Cell(labels.metric_label(metric) if metric else "–"),
            _metric_cell(metric, task.value, strong=True, note=_error_note(task)),
            *(_metric_cell(metric, task.baselines.get(key)) for key in known),
        ]
        if known:
            text = "–" if gain is None else labels.format_difference(str(metric), gain)
            row.append(Cell(text, gain))
        for shown, bound in ((with_floor, task.floor), (with_aim, task.aim)):
            if shown:
                row.append(_bound_cell(metric, task.value, bound))
        row.append(Cell(f"{task.n:,}", float(task.n)) if task.n else Cell("–"))
        rows.append(tuple(row))
    return Table(
        tuple(columns),
        tuple(rows),
        "± is the 95% sampling error of the share, as if the examples were independent. Above: "
        "points above the best answer without a model (chance, majority or other baseline).",
    )


def _bound_cell(metric: str | None, value: float | None, bound: float | None) -> Cell:
    if metric is None or bound is None:
        return Cell("–")
    mark = "" if value is None else ("✓ met" if value >= bound else "✗ below")
    return _metric_cell(metric, bound, note=mark)


def all_metrics_table(record: RunRecord) -> Table:
    """Every metric of every task, one row each."""
    names = labels.task_labels(record.tasks)
    rows = []
    for name, task in record.tasks.items():
        for metric, value in task.metrics.items():
            rows.append(
                (
                    Cell(names[name]),
                    Cell(labels.metric_label(metric)),
                    _metric_cell(metric, value, strong=metric == task.primary),
                )
            )
    return Table(("Task", "Metric", "Score"), tuple(rows), "Bold: the metric that counts.")


def split_table(record: RunRecord) -> Table | None:
    """Primary metric of each task, on the main split and on each other, with the difference.

    Returns:
      One row per task, None where the run has no splits.
    """
    if not record.splits:
        return None
    tasks = list(dict.fromkeys(name for scores in record.splits.values() for name in scores))
    names = labels.task_labels(tasks)
    main = str(record.info.get("split") or "validation")
    groups = {main: record.tasks, **{k: v for k, v in record.splits.items() if k != main}}
    rows = []
    for name in tasks:
        by_split = [group.get(name) for group in groups.values()]
        known = next(s for s in by_split if s is not None)
        metric = known.primary
        first = by_split[0].metrics.get(str(metric)) if by_split[0] else None
        row = [Cell(names[name], note=labels.metric_label(metric) if metric else "")]
        for scores in by_split:
            value = scores.metrics.get(str(metric)) if scores else None
            if value is None or first is None or scores is by_split[0]:
                row.append(_metric_cell(metric, value))
                continue
            difference = value - first
            scale = 0.5 if labels.is_share(str(metric)) else max(abs(first), 1e-9)
            note = labels.format_difference(str(metric), difference)
            row.append(_metric_cell(metric, value, note=note, tint=difference / scale))
        rows.append(tuple(row))
    heads = ("Task", *[split.replace("_", " ").capitalize() for split in groups])
    return Table(heads, tuple(rows), f"Small: difference to {main.replace('_', ' ')}.")


def runs_comparison(
    records: Mapping[str, RunRecord] | Sequence[RunRecord],
    *,
    split: str | None = None,
    reference: str | None = None,
) -> Table:
    """Primary metrics of several runs side by side, the best of each task in bold.

    Args:
      records: runs by name, or runs under their own names.
      split: split to compare; None for the main scores.
      reference: name of the run that differences are taken against; None for no differences.

    Returns:
      One row per task that any run has, one column per run.

    Raises:
      ValueError: where two runs have one name, or `reference` is not among them.
    """
    if not isinstance(records, Mapping):
        named = {record.name: record for record in records}
        if len(named) != len(records):
            raise ValueError(f"runs must have different names, got {[r.name for r in records]}")
        records = named
    if reference is not None and reference not in records:
        raise ValueError(f"reference {reference!r} is not among the runs: {', '.join(records)}")
    scores = {
        run: record.tasks if split is None else record.splits.get(split, {})
        for run, record in records.items()
    }
    tasks = list(dict.fromkeys(name for per_run in scores.values() for name in per_run))
    names = labels.task_labels(tasks)
    rows = []
    for name in tasks:
        metric = next(s[name].primary for s in scores.values() if name in s)
        values = {
            run: s[name].metrics.get(str(metric)) if name in s else None
            for run, s in scores.items()
        }
        best = max((v for v in values.values() if v is not None), default=math.nan)
        base = values.get(reference) if reference is not None else None
        row = [Cell(names[name]), Cell(labels.metric_label(metric) if metric else "–")]
        for run, value in values.items():
            note = ""
            if base is not None and value is not None and run != reference:
                note = labels.format_difference(str(metric), value - base)
            strong = value == best and len(values) > 1
            row.append(_metric_cell(metric, value, strong=strong, note=note))
        rows.append(tuple(row))
    caption = "Bold: best of the row."
    if reference is not None:
        caption += f" Small: difference to {reference}."
    return Table(("Task", "Metric", *records), tuple(rows), caption)
