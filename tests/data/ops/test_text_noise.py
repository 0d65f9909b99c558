"""Text infilling: what is masked, how much, and how long the spans are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_jax.data.ops.text_noise import (
    InfillingNoise,
    infill_noise,
    sample_span_lengths,
    span_length_probabilities,
)

MASK = 100
# Ids 10 .. 49 begin a word, 50 .. 99 go on with it.
WORD_STARTS = np.arange(100) < 50


def words(count: int) -> np.ndarray:
    """Words of one to three pieces, all different enough to be found again."""
    ids = []
    for i in range(count):
        ids.append(10 + i % 40)
        ids.extend([50 + i % 50] * (i % 3))
    return np.array(ids, np.int32)


def test_span_lengths_follow_the_poisson_distribution():
    probabilities = span_length_probabilities(3.0)
    poisson = [math.exp(-3) * 3**k / math.factorial(k) for k in range(len(probabilities))]
    np.testing.assert_allclose(probabilities, poisson, rtol=1e-6)
    # Cut at the first length less likely than 1e-7 (SPEC 4.3.8), which itself is kept.
    assert poisson[-1] < 1e-7 <= poisson[-2]
    assert probabilities.sum() == pytest.approx(1)


def test_sampled_spans_have_poisson_frequencies():
    rng = np.random.default_rng(0)
    lengths = np.concatenate([sample_span_lengths(3000, 3.0, rng)[:-1] for _ in range(20)])
    frequencies = np.bincount(lengths, minlength=9)[:9] / len(lengths)
    np.testing.assert_allclose(frequencies, span_length_probabilities(3.0)[:9], atol=0.01)
    assert lengths.mean() == pytest.approx(3.0, abs=0.05)


@given(budget=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_budget_is_met_exactly(budget, seed):
    lengths = sample_span_lengths(budget, 3.0, np.random.default_rng(seed))
    assert lengths.sum() == budget
    assert lengths.min() >= 0
    assert lengths[-1] > 0


def test_share_of_masked_words_and_number_of_masks():
    """Overlapping spans hide a little less than the ratio; empty spans add masks."""
    rng = np.random.default_rng(1)
    text = words(200)
    gone, masks = [], []
    for _ in range(300):
        noised = infill_noise(text, WORD_STARTS, MASK, rng)
        gone.append(1 - np.count_nonzero(WORD_STARTS[noised[noised != MASK]]) / 200)
        masks.append(np.count_nonzero(noised == MASK))
    assert 0.25 < np.mean(gone) < 0.30
    assert max(gone) <= 0.30 + 1e-9
    # 60 words in spans of 3 on average; a few starts are swallowed by a neighbor.
    assert 17 < np.mean(masks) < 21


@given(count=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=200)
def test_whole_words_vanish_and_order_stays(count, seed):
    text = words(count)
    before = text.copy()
    noised = infill_noise(text, WORD_STARTS, MASK, np.random.default_rng(seed))
    assert noised.dtype == np.int32
    np.testing.assert_array_equal(text, before)
    rest = noised[noised != MASK]
    # What remains is the text without some whole words: split at word starts and compare.
    remaining = np.split(rest, np.flatnonzero(WORD_STARTS[rest]))[1:]
    original = iter(np.split(text, np.flatnonzero(WORD_STARTS[text]))[1:])
    assert all(any(np.array_equal(word, other) for other in original) for word in remaining)
    deleted = count - len(remaining)
    assert deleted <= math.ceil(0.3 * count)
    if count:
        assert MASK in noised


def test_pieces_before_the_first_word_stay():
    text = np.array([60, 61, 10, 62], np.int32)
    noise = InfillingNoise(1.0, 3.0)
    for seed in range(20):
        noised = infill_noise(text, WORD_STARTS, MASK, np.random.default_rng(seed), noise)
        assert noised[noised != MASK].tolist() == [60, 61]
        assert MASK in noised
    np.testing.assert_array_equal(
        infill_noise(text[:2], WORD_STARTS, MASK, np.random.default_rng(0)), text[:2]
    )


def test_same_seed_same_noise():
    text = words(30)
    first = infill_noise(text, WORD_STARTS, MASK, np.random.default_rng(7))
    again = infill_noise(text, WORD_STARTS, MASK, np.random.default_rng(7))
    other = infill_noise(text, WORD_STARTS, MASK, np.random.default_rng(8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_insertions_land_anywhere():
    """Two words, one masked and one mask inserted: the other word is found at every place."""
    text = np.array([10, 11], np.int32)
    places = set()
    for seed in range(500):
        noised = infill_noise(text, WORD_STARTS, MASK, np.random.default_rng(seed))
        if len(noised) == 3:
            assert np.count_nonzero(noised == MASK) == 2
            places.update(np.flatnonzero(noised != MASK).tolist())
    assert places == {0, 1, 2}


def test_bad_settings_and_ids_are_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="only text ids"):
        infill_noise(np.array([100]), WORD_STARTS, MASK, rng)
    with pytest.raises(ValueError, match="one sequence"):
        infill_noise(np.zeros((2, 3)), WORD_STARTS, MASK, rng)
    with pytest.raises(ValueError, match="mask_ratio"):
        InfillingNoise(mask_ratio=1.5)
    with pytest.raises(ValueError, match="mean_span"):
        InfillingNoise(mean_span=0)
