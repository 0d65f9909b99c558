"""Text against text: exact match, edit distance (OCR, text infilling), ROUGE (summaries).

Captions have their own scores in `caption`, answers in `vqa`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from ofa_jax.metrics.dependency import require_package
from ofa_jax.metrics.pairing import check_pairs

__all__ = ["ROUGE", "edit_distance", "edit_similarity", "exact_match", "rouge"]

ROUGE = ("rouge1", "rouge2", "rougeL")


def exact_match(predicted: Sequence[str], true: Sequence[str]) -> float:
    """Share of predictions that equal their target, blanks at the two ends aside.

    Args:
      predicted: n texts.
      true: n texts.

    Returns:
      Share in [0, 1].

    Raises:
      ValueError: where the lengths differ or are zero.
    """
    n = check_pairs(predicted, true, names="predicted and true texts")
    return sum(p.strip() == t.strip() for p, t in zip(predicted, true)) / n


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Levenshtein distance: fewest insertions, deletions and replacements from `a` to `b`.

    Args:
      a: text (compared by characters) or any sequence of tokens.
      b: the same kind.

    Returns:
      Number of edits, from 0 to max(len(a), len(b)).
    """
    if len(a) < len(b):
        a, b = b, a
    previous = list(range(len(b) + 1))
    for i, item in enumerate(a, start=1):
        current = [i]
        for j, other in enumerate(b, start=1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (item != other)))
        previous = current
    return previous[-1]


def edit_similarity(predicted: Sequence[str], true: Sequence[str]) -> float:
    """Mean of 1 - edits / length of the longer text, over characters (SPEC 8.9, OCR).

    Args:
      predicted: n texts; the caller removes spaces where the benchmark does.
      true: n texts.

    Returns:
      Share in [0, 1]; two empty texts are equal.

    Raises:
      ValueError: where the lengths differ or are zero.
    """
    n = check_pairs(predicted, true, names="predicted and true texts")
    return (
        sum(1 - edit_distance(p, t) / max(len(p), len(t), 1) for p, t in zip(predicted, true)) / n
    )


def rouge(predicted: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """F1 of each summary, by the package rouge_score.

    The published Gigaword figures are with Porter stemming (SPEC 7.8). ROUGE-L in `caption` is
    another formula, that of the caption server.

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
    scorer = module.RougeScorer(list(ROUGE), use_stemmer=True)
    rows = [scorer.score(target, guess) for guess, target in zip(predicted, references)]
    return {rouge: np.array([row[rouge].fmeasure for row in rows]) for rouge in ROUGE}
