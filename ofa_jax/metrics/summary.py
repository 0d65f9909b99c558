"""Summaries against reference summaries: ROUGE-1, ROUGE-2, ROUGE-L of the package rouge_score.

The published Gigaword figures are F1 with Porter stemming (SPEC 7.8). The caption server's ROUGE-L
in `caption` is another formula.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_jax.metrics.dependency import require_package
from ofa_jax.metrics.pairing import check_pairs

KINDS = ("rouge1", "rouge2", "rougeL")


def rouge(predicted: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """F1 of each summary.

    Args:
      predicted: n summaries.
      references: n summaries.

    Returns:
      "rouge1", "rouge2", "rougeL": float64[n] in [0, 1]; the published scores are means times 100.

    Raises:
      ValueError: where the lengths differ or are zero.
      MissingDependencyError: without the package rouge_score.
    """
    check_pairs(predicted, references, names="predicted and reference summaries")
    module = require_package("rouge_score.rouge_scorer", score="ROUGE")
    scorer = module.RougeScorer(list(KINDS), use_stemmer=True)
    rows = [scorer.score(target, guess) for guess, target in zip(predicted, references)]
    return {kind: np.array([row[kind].fmeasure for row in rows]) for kind in KINDS}
