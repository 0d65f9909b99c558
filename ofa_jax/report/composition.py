"""Naming what was never seen together: the split `compositions` beside the main one.

A matrix of colors by shapes says how often an object of each pair is named right, and examples
show what was said, what is there, and which word was wrong.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from markupsafe import Markup
from PIL import Image

from ofa_jax.metrics.verdict import Verdict
from ofa_jax.report import cards
from ofa_jax.report.collect import RunRecord
from ofa_jax.report.examples import Family, Prediction, task_family, verdict_of

SPLIT = "compositions"

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Cell:
    """How often objects of one pair are named right.

    Attributes:
      right: of the objects, how many.
      count: objects of the pair.
      held_out: the pair occurs in the split alone.
    """

    right: int
    count: int
    held_out: bool

    @property
    def share(self) -> float | None:
        """Of the objects that are named right; None without any."""
        return self.right / self.count if self.count else None


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Colors by shapes for one task.

    Attributes:
      title: of the task.
      colors: of the rows.
      shapes: of the columns.
      cells: [color][shape].
    """

    title: str
    colors: Sequence[str]
    shapes: Sequence[str]
    cells: Sequence[Sequence[Cell]]

    @property
    def description(self) -> str:
        """What is seen, in a sentence."""
        seen, held = (
            [cell for row in self.cells for cell in row if cell.held_out is flag and cell.count]
            for flag in (False, True)
        )

        def share(cells: Sequence[Cell]) -> str:
            count = sum(cell.count for cell in cells)
            return f"{100 * sum(cell.right for cell in cells) / count:.0f} %" if count else "none"

        return (
            f"{self.title}: {share(held)} of the objects with one of {len(held)} pairs that "
            f"training never drew are named right, {share(seen)} of the others."
        )


@dataclasses.dataclass(frozen=True)
class Said:
    """One example: what was said and what is there.

    Attributes:
      name: of the example.
      verdict: of the answer.
      image: drawn on, or None where its file is missing.
      said: the answer, words that are wrong in <del>.
      there: the truth, words that were missed in <ins>.
    """

    name: str
    verdict: Verdict
    image: Image.Image | None
    said: Markup
    there: Markup


@dataclasses.dataclass(frozen=True)
class Composition:
    """What the section shows: matrices, and examples by the title of their task."""

    matrices: Sequence[Matrix]
    examples: Mapping[str, Sequence[Said]]


def _pair(label: str) -> Pair | None:
    """(color, shape) of "red circle" or "a small red circle"; None where a label has one word."""
    words = label.split()
    return (words[-2], words[-1]) if len(words) > 1 else None


def _named(family: Family, rows: Iterable[Prediction]) -> Iterator[tuple[Pair, bool]]:
    """Every object that should have been named, and whether it was."""
    for row in rows:
        if family is Family.DETECTION:
            found = row.get("found") or ()
            labels = [str(one["label"]) for one in row.get("true_objects") or ()]
            named = [(label, index in found) for index, label in enumerate(labels)]
        else:
            named = [(str(row.get("target_text", "")), verdict_of(row) is Verdict.RIGHT)]
        for label, right in named:
            if pair := _pair(label):
                yield pair, right


def matrix(title: str, family: Family, main: Sequence[Prediction], split: Sequence[Prediction]):
    """How often objects of each pair are named right, in both splits together.

    A pair that the split has and the main one has not is held out.

    Args:
      title: of the task.
      family: detection, or a description of a region.
      main: rows of the main split.
      split: rows of the split with unseen pairs.

    Returns:
      A `Matrix`, or None where labels are no pairs or no pair is held out.
    """
    usual, unseen = list(_named(family, main)), list(_named(family, split))
    held_out = {pair for pair, _ in unseen} - {pair for pair, _ in usual}
    if not usual or not held_out:
        return None
    counts, right = collections.Counter[Pair](), collections.Counter[Pair]()
    for pair, is_right in (*usual, *unseen):
        counts[pair] += 1
        right[pair] += is_right
    colors = sorted({color for color, _ in counts})
    shapes = sorted({shape for _, shape in counts})
    return Matrix(
        title,
        colors,
        shapes,
        [[Cell(right[c, s], counts[c, s], (c, s) in held_out) for s in shapes] for c in colors],
    )


def _said(record: RunRecord, family: Family, row: Prediction) -> Said:
    predicted = str(row.get("prediction_text", ""))
    if family is Family.DETECTION:
        predicted, target = (
            ", ".join(sorted(str(one["label"]) for one in row.get(field) or ()))
            for field in ("predicted_objects", "true_objects")
        )
    else:
        # Of several true captions the one that is nearest to what was said.
        references = [str(one) for one in row.get("references") or [row.get("target_text", "")]]
        target = max(references, key=lambda text: cards.likeness(predicted, text))
    said, there = cards.difference_html(predicted, target)
    if verdict_of(row) is Verdict.RIGHT and family is not Family.DETECTION:
        said, there = cards.text_html(predicted), cards.text_html(target)
    pictures = cards.pictures_of(record, family, row)
    return Said(
        f"example {row.get('example_id', '')}",
        verdict_of(row),
        pictures[0][1] if pictures else None,
        said or Markup("—"),
        there,
    )


def composition(
    record: RunRecord, titles: Mapping[str, str], limit: int = 12
) -> Composition | None:
    """What the report says about pairs that training never drew.

    Args:
      titles: readable names of the tasks.
      limit: examples per task; wrong ones come first.

    Returns:
      None where the run has no predictions of the split, or no task that names objects.
    """
    rows_of = record.split_predictions.get(SPLIT, {})
    inner = dataclasses.replace(record, path=record.path / "splits" / SPLIT)
    matrices, examples = [], {}
    for name, rows in rows_of.items():
        family = task_family(name, rows)
        if family not in (Family.DETECTION, Family.REGION, Family.CAPTIONING):
            continue
        title = titles.get(name, name)
        if family is not Family.CAPTIONING:
            found = matrix(title, family, record.predictions.get(name, ()), rows)
            matrices += [found] if found else []
        shown = [row for row in rows if row.get("image")]
        shown.sort(key=lambda row: verdict_of(row) is Verdict.RIGHT)
        examples[title] = [_said(inner, family, row) for row in shown[:limit]]
    return Composition(matrices, examples) if matrices else None
