"""An example, and where examples come from: the protocol of every source."""

from __future__ import annotations

from typing import Any, Protocol

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


class InstructionError(ValueError):
    """An instruction line that cannot be parsed, or an example that does not fit one."""
