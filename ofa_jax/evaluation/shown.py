"""Which examples of a split keep their images: decided after scoring, so that wrong ones are shown.

Images are written in the finishing pass (`streaming`), by preparing the chosen examples once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ofa_jax.report.examples import choose, score_of, verdict_of

# Examples of a task whose images are kept and shown.
IMAGES = 48


def shown_examples(
    judgements: Mapping[int, Mapping[str, Any]], limit: int = IMAGES
) -> frozenset[int]:
    """Numbers of the examples whose images are kept, by the rule that the report shows them by.

    Args:
      judgements: by record number, `Result.judgement` or `NOT_JUDGED`.
      limit: largest number of examples.
    """
    numbers = sorted(judgements)
    rows = [judgements[number] for number in numbers]
    chosen = choose([verdict_of(row) for row in rows], [score_of(row) for row in rows], limit)
    return frozenset(numbers[place] for place in chosen)
