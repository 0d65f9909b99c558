"""Items of a data set that stand in no example, counted by reason.

A box without coordinates, a caption of an image that is not listed: one such item is left out and
counted here; the rest of its file is read. Records that cannot be made are not among them: those
are errors of reading, which preparation counts as dropped.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ofa_jax.data.sources.errors import Reason, reason_of

# What reading an entry of an annotation file may raise, whatever stands there.
READING_ERRORS = (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError)

# Items that are named per reason.
NAMED = 20
# Characters of an item that are shown.
_SHOWN = 80

_Result = TypeVar("_Result")


@dataclasses.dataclass
class LeftOut:
    """Counts of what was left out.

    Attributes:
      counts: items by reason.
      named: the first of each, such as a text of file, place, and what was wrong.
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    named: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

    def add(self, reason: Reason, detail: object, items: int = 1) -> None:
        """Counts one item, or several with the same fault."""
        self.counts[reason.value] += items
        named = self.named.setdefault(reason.value, [])
        if len(named) < NAMED:
            named.append(detail)

    def add_error(self, place: str, error: Exception, items: int = 1, *, entry: Any = None) -> None:
        """Counts an item that could not be read.

        Args:
          place: file and entry.
          error: what its reading raised.
          items: how many items it concerns.
          entry: the item, shown where Python's words are all that is known.
        """
        detail: object = error
        if isinstance(error, KeyError):
            detail = f"it lacks {error}"
        elif isinstance(error, TypeError | AttributeError):
            shown = json.dumps(entry, default=str)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
            detail = f"it has another form than this format: {shown}"
        self.add(reason_of(error, Reason.BAD_FIELDS), f"{place}: {detail}", items)

    def read_each(
        self, entries: Iterable[Any], read: Callable[[Any], _Result], place: str
    ) -> list[_Result]:
        """Reads the parts of an entry; those that cannot be read are counted.

        Args:
          read: one part to what is kept of it.
          place: file, entry and the name of the parts, such as "a.json, entry 3, regions".

        Returns:
          What could be read, in order.
        """
        found = []
        for number, entry in enumerate(entries):
            try:
                found.append(read(entry))
            except READING_ERRORS as error:
                self.add_error(f"{place}[{number}]", error, entry=entry)
        return found

    def update(self, later: LeftOut) -> None:
        """Adds the counts of items that come after these."""
        self.counts.update(later.counts)
        for reason, details in later.named.items():
            named = self.named.setdefault(reason, [])
            named.extend(details[: NAMED - len(named)])

    @property
    def total(self) -> int:
        """Items of all reasons."""
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, object]:
        """Counts and named items by reason, as the manifest shows them."""
        return {
            reason: {"count": count, "examples": self.named[reason]}
            for reason, count in sorted(self.counts.items())
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LeftOut:
        """The inverse of `as_dict`."""
        counts = collections.Counter({reason: one["count"] for reason, one in values.items()})
        return cls(counts, {reason: list(one["examples"]) for reason, one in values.items()})

    def __str__(self) -> str:
        """One clause: counts, and the first item."""
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(self.counts.items()))
        if not counts:
            return "nothing"
        most = max(sorted(self.named), key=lambda reason: self.counts[reason])
        return f"{counts} (such as {self.named[most][0]})"
