"""Pairs of texts that another reader yields, held in memory: the records of a text task."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ofa_jax.data.sources.example import Example

# More are better prepared: records in memory are copied into every worker.
MOST_PAIRS = 1_000_000


class TextPairs:
    """A source whose splits are read as a whole the first time one is opened.

    Pickled it holds the records that it has read, and reads no more.
    """

    def __init__(self, name: str, read: Callable[[str], Iterable[Example]]) -> None:
        """Reads nothing yet.

        Args:
          name: of the task, for errors.
          read: yields the examples of a split, in the same order every time.
        """
        self.name = name
        self._read: Callable[[str], Iterable[Example]] | None = read
        self._records: dict[str, list[Example]] = {}

    def open(self, split: str) -> list[Example]:
        """The examples of a split.

        Raises:
          ValueError: see `read`; or there are more than fit.
        """
        if split not in self._records:
            if self._read is None:
                raise ValueError(f"task {self.name!r}: split {split!r} was not read")
            found: list[Example] = []
            for example in self._read(split):
                if len(found) == MOST_PAIRS:
                    raise ValueError(
                        f"task {self.name!r}, split {split!r}: more than {MOST_PAIRS:,} examples "
                        "of a seqio task do not go into a mixture; write them by "
                        "ofa_jax.prepare and declare the task by add_task"
                    )
                found.append(example)
            self._records[split] = found
        return self._records[split]

    def __getstate__(self) -> dict[str, object]:
        return {"name": self.name, "_read": None, "_records": self._records}
