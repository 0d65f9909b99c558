"""Right, partly right or wrong: the judgement of one prediction.

A task's scorer decides it, by the same rule as the metric; predictions files carry it; the report
reads it there and decides nothing itself.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Verdict(enum.StrEnum):
    """Judgement of one prediction; NONE where a score measures but nothing is right or wrong."""

    RIGHT = "right"
    PARTLY = "partly"
    WRONG = "wrong"
    NONE = ""


def of_hits(hits: Iterable[bool]) -> list[Verdict]:
    """Verdicts of predictions that are either right or wrong."""
    return [Verdict.RIGHT if hit else Verdict.WRONG for hit in hits]


def of_shares(shares: Iterable[float]) -> list[Verdict]:
    """Verdicts of scores in [0, 1]: 1 is right, 0 wrong, anything between partly right."""
    return [
        Verdict.RIGHT if share >= 1 else Verdict.PARTLY if share > 0 else Verdict.WRONG
        for share in shares
    ]
