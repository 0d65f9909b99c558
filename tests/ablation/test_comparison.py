"""The statistics of an ablation, against scipy and by hand."""

import pytest
from scipy import stats

from ofa_jax.ablation.comparison import bootstrap_interval, holm, paired_p_value, welch_p_value


def test_paired_test_is_scipys_and_uses_the_pairs():
    full, changed = [0.70, 0.75, 0.80], [0.68, 0.735, 0.775]
    assert paired_p_value(changed, full) == pytest.approx(stats.ttest_rel(changed, full).pvalue)
    # Seeds differ by more than mixtures: only the paired test sees the difference.
    assert paired_p_value(changed, full) < 0.05 < welch_p_value(changed, full)


@pytest.mark.parametrize("test", [paired_p_value, welch_p_value])
def test_edges(test):
    assert test([0.5], [0.6]) is None
    assert test([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert test([0.5, 0.5], [0.6, 0.6]) == pytest.approx(0, abs=1e-6)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_bootstrap_pairs_examples():
    full = {0: {f"e{i}": float(i % 2) for i in range(100)}}
    better = {
        0: {name: min(1.0, score + (int(name[1:]) % 4 == 0)) for name, score in full[0].items()}
    }
    low, high = bootstrap_interval(better, full, samples=500)
    assert 0.1 < low < 0.25 < high < 0.4
    assert bootstrap_interval(full, full, samples=500) == (0.0, 0.0)
    assert bootstrap_interval(full, {}, samples=500) is None
    assert bootstrap_interval(full, {0: {"other": 1.0}}, samples=500) is None
