"""Classification and text scores against other formulas of the same or hand-made values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_jax.metrics import classification, text

PREDICTED = ["yes", "no", "yes", "yes", "no", "maybe", "no", "yes"]
TRUE = ["yes", "no", "no", "yes", "yes", "no", "no", "yes"]


def test_accuracy_f1_and_correlation():
    assert classification.accuracy(PREDICTED, TRUE) == 5 / 8
    assert classification.confusion_counts(PREDICTED, TRUE, "yes") == (3, 1, 1, 3)
    assert classification.f1(PREDICTED, TRUE) == pytest.approx(0.75)
    assert classification.matthews_correlation(PREDICTED, TRUE) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_correlation_is_pearson_s_and_f1_the_harmonic_mean(pairs):
    found, true = np.array(pairs).T
    labels = [["yes" if value else "no" for value in values] for values in (found, true)]
    if found.std() and true.std():
        expected = np.corrcoef(found, true)[0, 1]
        assert classification.matthews_correlation(*labels) == pytest.approx(expected)
    if (found & true).any():
        precision, recall = true[found].mean(), found[true].mean()
        expected = 2 / (1 / precision + 1 / recall)
        assert classification.f1(*labels) == pytest.approx(expected)


def test_degenerate_tables_score_zero():
    assert classification.matthews_correlation(["yes"] * 4, ["yes", "no"] * 2) == 0
    assert classification.f1(["no"], ["no"]) == 0


def test_majority_baseline():
    assert classification.majority_baseline(["b", "a", "a", "c"]) == ("a", 0.5)
    assert classification.majority_baseline(["b", "a"]) == ("b", 0.5)


def test_exact_match_ignores_outer_blanks_only():
    assert text.exact_match([" a b", "a  b", "A b"], ["a b"] * 3) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2), ("", "", 0)],
)
def test_edit_distance(a, b, edits):
    assert text.edit_distance(a, b) == edits
    assert text.edit_distance(b, a) == edits


def test_edit_distance_of_tokens():
    assert text.edit_distance([1, 2, 3], [1, 3]) == 1


def test_edit_similarity():
    assert text.edit_similarity(["kitten", ""], ["sitting", ""]) == pytest.approx((4 / 7 + 1) / 2)


@pytest.mark.parametrize(
    "metric",
    [
        classification.accuracy,
        classification.f1,
        classification.matthews_correlation,
        text.exact_match,
        text.edit_similarity,
    ],
)
def test_mismatches_are_named(metric):
    with pytest.raises(ValueError, match="got 2 and 1"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="empty"):
        metric([], [])
