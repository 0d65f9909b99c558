"""The published results of OFA, from `published.toml`; `paper_tables` adds the rows of runs."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tomllib
from collections.abc import Mapping

# A row of numbers, in the order of the table's columns; None where nothing is published.
Values = tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a published table.

    Attributes:
      head: what stands above it.
      task: registered name of the task whose runs can fill it.
      metric: key in the run's scores.
      split: split that it is about; "" = the row says which.
      scale: what a run's value is multiplied by; 100 for shares and for CIDEr-D.
    """

    head: str
    task: str
    metric: str
    split: str = ""
    scale: float = 100.0


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A table of the paper.

    Attributes:
      name: of its files.
      title: heading.
      columns: after the column of models.
      rows: model to numbers.
      note: one sentence on what is compared.
      tuned: only runs of parameter-efficient tuning belong to it, and to no other table.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Values]
    note: str = ""
    tuned: bool = False


def published_tables() -> tuple[PublishedTable, ...]:
    """Every table, in the order of the file."""
    text = pathlib.Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return tuple(
        PublishedTable(
            name,
            table["title"],
            tuple(Column(*column) for column in table["columns"]),
            {
                model: tuple(None if math.isnan(value) else value for value in values)
                for model, values in table["rows"].items()
            },
            table.get("note", ""),
            table.get("tuned", False),
        )
        for name, table in tomllib.loads(text).items()
    )
