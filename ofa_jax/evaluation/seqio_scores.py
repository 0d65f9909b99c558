"""Scores for `seqio.Evaluator`: a task's scorer over decoded texts.

seqio hands over predictions as texts; boxes and codes are read back from their tokens, which
`Tokenizer.decode` writes out. A task's recipe (prompts, candidates, beams) is not seqio's to
follow: what is scored is what the model said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_jax.data.sources.example import Example
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.evaluation import scorers
from ofa_jax.evaluation.rows import decoded


def truth(task: OFATask, example: Example, target: str) -> Example:
    """What a prediction is compared with.

    Args:
      example: prepared.
      target: the decoded target. Where a text to infill is longer than the model reads, the truth
        is the part that it reads.
    """
    if task.masks_text:
        return {**example, task.instructions[0].target_slot.field: target.strip()}
    return example


def guess(task: OFATask, text: str) -> object:
    """A prediction of the target's modality.

    Args:
      text: the decoded prediction.
    """
    try:
        ids = task.tokenizer().encode(text)
    except ValueError:  # a code or bin that the vocabulary lacks
        ids = []
    return decoded(task, np.array(ids, np.int32))


def scores(task: OFATask, examples: Sequence[Example], guesses: list[object]) -> dict[str, float]:
    """The metrics of a task's scorer.

    Args:
      examples: prepared, of which those without truth are left out.
      guesses: of `guess`, one per example.

    Returns:
      Name to value; {} where no example has a truth.
    """
    pairs = [pair for pair in zip(guesses, examples) if scorers.has_truth(task, pair[1])]
    return scorers.score(task, *map(list, zip(*pairs))).metrics if pairs else {}
