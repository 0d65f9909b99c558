"""An inspection as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ofa_jax.inspection.survey import TEXTS, FieldSummary, Survey
from ofa_jax.inspection.tokens import Piece, TaskView

_WIDTH = 100
_SHOWN_IDS = 24


def share(count: int, total: int) -> str:
    """A count as a share: "all", "none", "62%"."""
    if count in (0, total):
        return "all" if count else "none"
    return f"{100 * count / total:.0f}%" if 0.005 < count / total < 0.995 else f"{count:,}"


def spread(values: Sequence[float] | np.ndarray) -> str:
    """Smallest, median and largest of some numbers: "3 .. 11 .. 40", or one number."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    if low == high:
        return f"{low:,.4g}"
    return " .. ".join(f"{value:,.4g}" for value in (low, middle, high))


def entries(field: FieldSummary) -> str:
    """Number of entries of a field's lists, or ""."""
    return spread(field.entries) if field.entries else ""


def table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> list[str]:
    """Lines of a table with aligned columns; the last column is cut at the page's width."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header) - 1)]
    lines = []
    for row in cells:
        line = "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]])
        lines.append("  " + (line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…").rstrip())
    return lines


def counts(pairs: Iterable[tuple[str, int]]) -> str:
    """Names with their numbers on one line."""
    return ", ".join(f"{name} {number:,}" for name, number in pairs)


def id_line(tokens: Sequence[Piece]) -> str:
    """Ids of a sequence; a long one loses its middle."""
    ids = [str(one.token_id) for one in tokens]
    if len(ids) > _SHOWN_IDS:
        cut = len(ids) - _SHOWN_IDS
        ids = [*ids[: _SHOWN_IDS - 4], f"... {cut} more ...", *ids[-4:]]
    return " ".join(ids)


def text_of(
    title: str, found: Survey, facts: Sequence[tuple[str, str]], views: Sequence[TaskView]
) -> str:
    """The whole summary.

    Args:
      title: what was inspected.
      facts: further lines, (name, value).
      views: tasks over its records; none where there is no vocabulary.

    Returns:
      Lines, without a newline at the end.
    """
    read = len(found.sampled)
    seen = "all of them" if found.complete else f"{read:,} evenly spread ones"
    lines = [title, "", f"records      {found.total:,}, looked at {seen}"]
    lines += [f"{name:<12} {value}" for name, value in facts]
    if found.types:
        lines.append(f"{'kinds':<12} {counts(found.types.most_common())}")
    if found.data_sets:
        lines.append(f"{'data sets':<12} {counts(found.data_sets.most_common(8))}")
    if found.widths:
        lines.append(
            f"{'pictures':<12} {counts(found.formats.most_common())}; width "
            f"{spread(found.widths)}, height {spread(found.heights)} pixels"
        )
    if found.turned:
        lines.append(
            f"{'rotation tag':<12} {found.turned:,} images carry one; boxes are taken as pixels "
            "of the stored one; prepare --upright turns the images"
        )
    if found.boxes:
        lines.append(f"{'boxes':<12} {spread(found.boxes)} per record")
    fields = [
        (
            one.name,
            share(one.present, read),
            ", ".join(name for name, _ in one.types.most_common() if name != "empty"),
            entries(one),
            one.example,
        )
        for one in found.fields.values()
    ]
    lines += ["", "fields (entries: least .. median .. most)"]
    lines += table(fields, ("field", "present", "holds", "entries", "for example"))
    words = [
        (TEXTS[field], f"{len(lengths):,}", spread(lengths))
        for field, lengths in found.words.items()
        if lengths
    ]
    if words:
        lines += ["", "lengths in words"]
        lines += table(words, ("text", "number", "least .. median .. most"))
    for field, values in found.frequent.items():
        if values:
            lines += [
                "",
                f"most frequent {TEXTS.get(field, field)}s: " + counts(values.most_common(8)),
            ]
    lines += _faults(found)
    lines += _tasks(views)
    return "\n".join(lines)


def _faults(found: Survey) -> list[str]:
    if not found.faults:
        return ["", "faults: none"]
    lines = ["", f"faults: {found.faulty:,}"]
    for fault in found.faults.values():
        lines.append(f"  {fault.what}: {fault.count:,}")
        lines += [f"    {message}" for message in fault.examples[:2]]
    return lines


def _tasks(views: Sequence[TaskView]) -> list[str]:
    lines: list[str] = []
    for view in views:
        if not view.matches:
            continue
        lines += ["", f"task {view.task.name}: {view.task.instructions[0].text}"]
        one = view.examples[0]
        lines += [
            f"  record {one.record} ({one.image_id})",
            f"    source  {one.source_text!r}",
            f"            {id_line(one.inputs)}",
            f"    target  {_shortened(one.target_text)!r}, weight {one.weight:g}",
            f"            {id_line(one.targets)}",
        ]
    others = [view.task.name for view in views if not view.matches]
    if others:
        lines += ["", "tasks that cannot read these records: " + ", ".join(others)]
    return lines


def _shortened(text: str, width: int = 160) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
