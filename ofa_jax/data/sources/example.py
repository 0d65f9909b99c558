"""An example, and where examples come from: the protocol of every source."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any, Protocol

__all__ = [
    "Example",
    "FileRecords",
    "InstructionError",
    "Records",
    "Source",
    "check_index",
    "ends_of",
]

Example = dict[str, Any]


class Records(Protocol):
    """One split of a source, with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Source(Protocol):
    """Where examples come from. Picklable; opens its files on demand."""

    def open(self, split: str) -> Records:
        """Random access to the examples of one split.

        Raises:
          ValueError: the source has no such split, or its files are missing.
        """
        ...


def check_index(index: int, count: int) -> None:
    """Fails on an index that none of `count` records has.

    Raises:
      IndexError: it is negative, or too large.
    """
    if not 0 <= index < count:
        raise IndexError(f"index {index} is out of range for {count} records")


@dataclasses.dataclass(frozen=True)
class FileRecords:
    """Base of random access to the records of some files, one file after the other.

    Attributes:
      paths: the files.
      ends: for each, the number of records up to and including it.
    """

    paths: tuple[str, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def place(self, index: int) -> tuple[str, int]:
        """File of a record, and its position there, from 0.

        Raises:
          IndexError: there is no such record.
        """
        check_index(index, FileRecords.__len__(self))
        number = bisect.bisect_right(self.ends, index)
        return self.paths[number], index - (self.ends[number - 1] if number else 0)


def ends_of(counts: Iterable[int]) -> tuple[int, ...]:
    """`FileRecords.ends` of files with so many records."""
    return tuple(map(int, itertools.accumulate(counts)))


class InstructionError(ValueError):
    """An instruction line that cannot be parsed, or an example that does not fit one."""
