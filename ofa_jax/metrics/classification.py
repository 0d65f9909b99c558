"""Labels against labels: entailment, GLUE, image-text matching, image classification.

Labels are any hashable values, usually the words that the model wrote ("yes", "no", "maybe").
"""

from __future__ import annotations

import collections
import math
from collections.abc import Hashable, Sequence

from ofa_jax.metrics.pairing import check_pairs

__all__ = ["accuracy", "confusion_counts", "f1", "majority_baseline", "matthews_correlation"]


def accuracy(predicted: Sequence[Hashable], true: Sequence[Hashable]) -> float:
    """Share of equal labels.

    Args:
      predicted: n labels.
      true: n labels.

    Returns:
      Share in [0, 1].

    Raises:
      ValueError: where the lengths differ or are zero.
    """
    n = check_pairs(predicted, true, names="predicted and true labels")
    return sum(p == t for p, t in zip(predicted, true)) / n


def confusion_counts(
    predicted: Sequence[Hashable], true: Sequence[Hashable], positive: Hashable
) -> tuple[int, int, int, int]:
    """Counts of true positives, false positives, false negatives, true negatives.

    Every label other than `positive` is negative.

    Args:
      predicted: n labels.
      true: n labels.
      positive: the positive label.

    Returns:
      (TP, FP, FN, TN), which sum to n.

    Raises:
      ValueError: where the lengths differ or are zero.
    """
    n = check_pairs(predicted, true, names="predicted and true labels")
    tp = sum(p == positive and t == positive for p, t in zip(predicted, true))
    fp = sum(p == positive and t != positive for p, t in zip(predicted, true))
    fn = sum(p != positive and t == positive for p, t in zip(predicted, true))
    return tp, fp, fn, n - tp - fp - fn


def f1(
    predicted: Sequence[Hashable], true: Sequence[Hashable], positive: Hashable = "yes"
) -> float:
    """F1 of one positive label: 2 TP / (2 TP + FP + FN) (SPEC 8.7: MRPC, QQP).

    Args:
      predicted: n labels.
      true: n labels.
      positive: the positive label.

    Returns:
      Share in [0, 1]; 0 where the positive label occurs on neither side.

    Raises:
      ValueError: where the lengths differ or are zero.
    """
    tp, fp, fn, _ = confusion_counts(predicted, true, positive)
    total = 2 * tp + fp + fn
    return 2 * tp / total if total else 0.0


def matthews_correlation(
    predicted: Sequence[Hashable], true: Sequence[Hashable], positive: Hashable = "yes"
) -> float:
    """Matthews correlation coefficient of a two-way decision (SPEC 8.7: CoLA).

    (TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN)).

    Args:
      predicted: n labels.
      true: n labels.
      positive: the positive label; all others are negative.

    Returns:
      Correlation in [-1, 1]; 0 where a row or column of the confusion table is empty.

    Raises:
      ValueError: where the lengths differ or are zero.
    """
    tp, fp, fn, tn = confusion_counts(predicted, true, positive)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0


def majority_baseline(true: Sequence[Hashable]) -> tuple[Hashable, float]:
    """The most frequent label and the accuracy of always answering it.

    Args:
      true: n labels.

    Returns:
      (label, share in (0, 1]). Ties go to the label that occurs first.

    Raises:
      ValueError: where there are no labels.
    """
    if len(true) == 0:
        raise ValueError("labels are empty; a baseline needs at least one example")
    label, count = collections.Counter(true).most_common(1)[0]
    return label, count / len(true)
