"""Text against text: exact match, edit distance, token accuracy (OCR, text infilling).

Captions have their own scores in `caption`, answers in `vqa`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ofa_jax.metrics.pairing import check_pairs


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
