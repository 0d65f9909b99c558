"""Compares mixtures with the full one: differences, their significance, their interval.

Fourth step; numpy and scipy only. Runs of equal seed begin with the same weights and draw from the
same streams, so the test of a difference is a t-test paired over seeds; Welch's test, which does
not use that, stands beside it. p values are adjusted for the number of comparisons in the table
(Holm 1979). The bootstrap resamples examples: it says how much hangs on which examples were scored,
not how much on the seed.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from ofa_jax.ablation.scores import ExampleScores, Scores, TaskSeeds


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One cell of the table.

    Attributes:
      metric: primary metric of the task.
      values: seed to value.
      mean: over seeds.
      spread: sample standard deviation over seeds; None for one seed.
      difference: mean over common seeds of (this - full); None for the full mixture itself.
      paired_p: two-sided p value of the t-test paired over common seeds; None for fewer than two.
      welch_p: that of Welch's t-test over all seeds.
      adjusted_p: `paired_p` after Holm's adjustment over the table.
      interval: 95 percent bootstrap interval, over examples, of the difference of mean example
        scores; None without predictions.
    """

    metric: str
    values: Mapping[int, float]
    mean: float
    spread: float | None
    difference: float | None = None
    paired_p: float | None = None
    welch_p: float | None = None
    adjusted_p: float | None = None
    interval: tuple[float, float] | None = None


# Row -> task -> cell.
Comparisons = dict[str, dict[str, Comparison]]


def paired_p_value(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Two-sided p value of the paired t-test.

    Args:
      values: float[n].
      others: float[n], in the same order of seeds.

    Returns:
      None for fewer than two pairs; 1 where all pairs are equal.
    """
    differences = np.subtract(values, others)
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0
    return _p_value(stats.ttest_rel, values, others)


def welch_p_value(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Two-sided p value of Welch's t-test, which pairs nothing.

    Args:
      values: float[n].
      others: float[m].

    Returns:
      None where either has fewer than two values; 1 where all of them are equal.
    """
    if min(len(values), len(others)) < 2:
        return None
    if len({*values, *others}) == 1:
        return 1.0

    def welch(a: Sequence[float], b: Sequence[float]) -> object:
        return stats.ttest_ind(a, b, equal_var=False)

    return _p_value(welch, values, others)


def _p_value(test: Callable, values: Sequence[float], others: Sequence[float]) -> float | None:
    with warnings.catch_warnings():
        # scipy warns where the spread is (nearly) nothing, which makes p 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        value = float(test(list(values), list(others)).pvalue)
    return None if math.isnan(value) else value


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted by Holm's step-down method, in the given order."""
    order = np.argsort(p_values)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def bootstrap_interval(
    values: Mapping[int, ExampleScores],
    others: Mapping[int, ExampleScores],
    *,
    samples: int,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 percent interval of the mean difference of example scores, by resampling examples.

    Args:
      values: seed to scores by example.
      others: the same of the full mixture; seeds and examples that both have are compared.
      samples: resamples.
      seed: of the resampling.

    Returns:
      Percentiles 2.5 and 97.5, or None where there is nothing to compare.
    """
    seeds = sorted(values.keys() & others.keys())
    if not samples or not seeds:
        return None
    names = sorted(set.intersection(*({*values[s]} & {*others[s]} for s in seeds)))
    if len(names) < 2:
        return None
    differences = np.array(
        [np.mean([values[s][name] - others[s][name] for s in seeds]) for name in names]
    )
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(names), size=(samples, len(names)))
    low, high = np.percentile(differences[chosen].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def compare(scores: Scores, reference: str, *, bootstrap_samples: int) -> Comparisons:
    """Every row beside the full mixture.

    Args:
      scores: of all rows.
      reference: name of the full mixture.
      bootstrap_samples: resamples of examples; 0 takes none.

    Returns:
      A cell for each task that a row has scores of.
    """
    base = scores[reference]
    cells: Comparisons = {
        row: {
            task: _cell(found, base.get(task) if row != reference else None, bootstrap_samples)
            for task, found in tasks.items()
        }
        for row, tasks in scores.items()
    }
    tested = [
        (row, task, cell.paired_p)
        for row, tasks in cells.items()
        for task, cell in tasks.items()
        if cell.paired_p is not None
    ]
    for (row, task, _), adjusted in zip(tested, holm([p for *_, p in tested])):
        cells[row][task] = dataclasses.replace(cells[row][task], adjusted_p=adjusted)
    return cells


def _cell(found: TaskSeeds, base: TaskSeeds | None, samples: int) -> Comparison:
    values = list(found.values.values())
    cell = Comparison(
        metric=found.metric,
        values=dict(found.values),
        mean=float(np.mean(values)),
        spread=float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )
    common = sorted(found.values.keys() & base.values.keys()) if base else []
    if base is None or not common:
        return cell
    own, full = [found.values[s] for s in common], [base.values[s] for s in common]
    return dataclasses.replace(
        cell,
        difference=float(np.mean(np.subtract(own, full))),
        paired_p=paired_p_value(own, full),
        welch_p=welch_p_value(values, list(base.values.values())),
        interval=bootstrap_interval(found.examples, base.examples, samples=samples),
    )
