"""Records that could not be used, or not wholly, counted where the training loop sees them.

The readers (`pipeline`) put an example without weight in the place of a bad record;
this is the account of them.
"""

from __future__ import annotations

import collections
import dataclasses
import logging

logger = logging.getLogger("ofa_jax")

# The first of each task are named in the log.
NAMED = 20
# A task of which more than half is bad after this many records has the wrong preparation or files.
TRIAL = 64


@dataclasses.dataclass
class SkippedRecords:
    """How many records of each task were read and how many of these were bad.

    Counts the batches that this host has been given since the pipeline was made; an epoch that
    comes again counts its bad records again.

    Attributes:
      read: task name to records read.
      bad: task name to bad records.
      reasons: task name to what was wrong with its first bad records.
      truncated: task name to records whose image is cut off and was decoded all the same.
    """

    read: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bad: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    reasons: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    truncated: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def total(self) -> int:
        """Bad records of all tasks."""
        return sum(self.bad.values())

    def count_truncated(self, task: str, notes: list[str]) -> None:
        """Takes account of one batch's images that are cut off: one note each."""
        for note in notes[: max(NAMED - self.truncated[task], 0)]:
            logger.warning("%s", note)
        self.truncated[task] += len(notes)

    def count(self, task: str, reasons: list[str], read: int) -> None:
        """Takes account of one batch's records of one task.

        Args:
          reasons: one per bad record.
          read: records of the task in the batch, the bad ones included.

        Raises:
          ValueError: more than half of the task's records are bad.
        """
        self.read[task] += read
        if not reasons:
            return
        self.bad[task] += len(reasons)
        named = self.reasons.setdefault(task, [])
        for reason in reasons[: max(NAMED - len(named), 0)]:
            named.append(reason)
            logger.warning("skipped a bad record: %s", reason)
        if self.read[task] >= TRIAL and 2 * self.bad[task] > self.read[task]:
            raise ValueError(
                f"{self.bad[task]} of the first {self.read[task]} records of task {task!r} cannot "
                f"be used, so its files or its preparation are wrong: {named[-1]}"
            )
