"""Plans of batches: exact shares, one order, any step at once."""

import itertools

import numpy as np
import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_jax.data.batches.mixing import MixturePlan, RateSchedule, tempered_rates

RATES = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)


def plan(rates, batch_size=8, buckets=None, factors=None, interpolation="linear"):
    names = [str(number) for number in range(len(rates))]
    factors = {
        step: {str(task): factor for task, factor in row.items()}
        for step, row in (factors or {}).items()
    }
    schedule = RateSchedule.with_factors(dict(zip(names, rates)), factors, interpolation)
    return MixturePlan(schedule, batch_size, tuple(buckets or [0] * len(rates)))


def counts(mixture, steps):
    """int[steps, tasks]: examples of each task in each batch."""
    tasks = len(mixture.buckets)
    return np.array([np.bincount(mixture.batch(s).task_ids, minlength=tasks) for s in steps])


@st.composite
def mixtures(draw):
    rates = draw(RATES)
    factors = {}
    for step in draw(st.lists(st.integers(0, 40), max_size=3)):
        # One task keeps its rate, so that something is left.
        row = draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 7.5]), max_size=len(rates)))
        factors[step] = dict(enumerate(row[: len(rates) - 1]))
    buckets = draw(
        st.lists(st.integers(0, 2), min_size=len(rates), max_size=len(rates)).map(
            lambda found: [sorted(set(found)).index(bucket) for bucket in found]
        )
    )
    return plan(
        rates,
        draw(st.integers(1, 12)),
        buckets,
        factors,
        draw(st.sampled_from(["linear", "constant"])),
    )


@settings(deadline=None, max_examples=60)
@given(mixtures())
def test_streams_have_no_gap_and_keep_to_their_shares(mixture):
    steps = 60
    seen = [[] for _ in mixture.buckets]
    due = np.zeros(len(seen))
    for step in range(steps):
        batch = mixture.batch(step)
        assert len(batch.task_ids) == len(batch.positions) == mixture.batch_size
        assert {mixture.buckets[task] for task in batch.task_ids} == {batch.bucket}
        for task, position in zip(batch.task_ids, batch.positions):
            seen[task].append(int(position))
        due += mixture.schedule.shares(step) * mixture.batch_size
    for task, positions in enumerate(seen):
        assert positions == list(range(len(positions))), "every position once, in order"
        # A whole batch belongs to one bucket, so a task may be ahead or behind by about one.
        slack = len(seen) / 2 + 1 + mixture.batch_size * len(set(mixture.buckets))
        if len(set(mixture.buckets)) == 1:
            slack = len(seen) / 2 + 1
        assert abs(len(positions) - due[task]) <= slack


def test_fractions_come_out_exactly_in_every_batch():
    assert (counts(plan([3, 2, 1], 6), range(50)) == [3, 2, 1]).all()
    # Not exact in binary, and still exact in the batch, late in a long run too.
    odd = plan([0.35, 0.6, 0.05], 100)
    assert (counts(odd, [0, 3, 10**6, 10**9]) == [35, 60, 5]).all()


def test_batches_mix_evenly_inside():
    task_ids = plan([1, 1, 2], 32).batch(5).task_ids
    for part in task_ids.reshape(4, 8):
        assert np.abs(np.bincount(part, minlength=3) - [2, 2, 4]).max() <= 1


def test_any_batch_is_found_at_once():
    mixture = plan([0.3, 5, 1], 512, [0, 0, 1], {0: {2: 0.0}, 10**6: {2: 1.0}})
    mixture.batch(0)
    # One that counts up to it would not come back.
    late = mixture.batch(10**9)
    assert late.positions.min() > 10**9
    again = plan([0.3, 5, 1], 512, [0, 0, 1], {0: {2: 0.0}, 10**6: {2: 1.0}}).batch(10**9)
    np.testing.assert_array_equal(late.positions, again.positions)
    np.testing.assert_array_equal(late.task_ids, again.task_ids)


def test_rates_change_in_straight_lines():
    mixture = plan([1, 1], 100, factors={100: {1: 0.0}, 300: {1: 1.0}})
    shares = np.array([mixture.schedule.shares(step) for step in range(400)])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    expected = np.interp(np.arange(400), [100, 300], [0, 0.5])
    np.testing.assert_allclose(shares[:, 1], expected, atol=1e-12)
    np.testing.assert_allclose(counts(mixture, range(400))[:, 1], 100 * expected, atol=1.01)


def test_rates_change_in_jumps():
    mixture = plan([1, 3], 8, factors={10: {0: 3.0}, 20: {0: 0.0}}, interpolation="constant")
    # The first factors hold from the beginning.
    assert (counts(mixture, range(20)) == [4, 4]).all()
    assert (counts(mixture, range(20, 40)) == [0, 8]).all()


def test_batches_of_buckets_take_turns():
    mixture = plan([6, 3, 1], 4, [0, 0, 1])
    buckets = [mixture.batch(step).bucket for step in range(100)]
    assert buckets.count(1) == 10
    places = np.flatnonzero(np.array(buckets) == 1)
    assert set(np.diff(places)) == {10}
    total = counts(mixture, range(100)).sum(axis=0)
    assert total.tolist() == [240, 120, 40]


def test_a_bucket_may_end_and_another_begin():
    factors = {0: {1: 0.0}, 5: {0: 0.0, 1: 1.0}}
    mixture = plan([1, 1], 3, [0, 1], factors, "constant")
    buckets = [mixture.batch(step).bucket for step in range(12)]
    assert buckets == [0] * 5 + [1] * 7
    # A part of a batch that was due when its bucket ended is not made up.
    ending = plan([1, 1, 1], 8, [0, 0, 1], {0: {}, 7: {0: 0.0, 1: 0.0}}, "linear")
    assert [ending.batch(step).bucket for step in range(10, 40)] == [1] * 30


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 10**7), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 10**6)),
    st.sampled_from([1.0, 2.0, 3.5]),
)
def test_caps_and_temperature_are_those_of_seqio(sizes, maximum, temperature):
    class Task:
        cache_dir = None
        name = "task"

        def __init__(self, size):
            self.size = size

        def num_input_examples(self, split):
            return self.size

    expected = [
        seqio.mixing_rate_num_examples(Task(size), maximum=maximum, temperature=temperature)
        for size in sizes
    ]
    found = tempered_rates(sizes, maximum=maximum, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tempered_rates([1], temperature=0), "temperature must be a positive number"),
        (lambda: tempered_rates([1], maximum=-1), "maximum must be a positive rate"),
        (lambda: RateSchedule((0, 0), ((1,), (1,))), "must begin with 0 and increase"),
        (lambda: RateSchedule((3,), ((1,),)), "must begin with 0 and increase"),
        (lambda: RateSchedule((0,), ((1,), (1,))), "one rate for each stream"),
        (lambda: RateSchedule((0,), ((1, -1),)), "rates at step 0 must not be negative"),
        (lambda: RateSchedule((0, 4), ((1, 1), (0, 0))), "rates at step 4 must not be negative"),
        (lambda: RateSchedule((0,), ((1,),), "cubic"), "must be one of linear, constant"),
        (lambda: plan([1], factors={-1: {}}), "whole numbers from 0"),
    ],
)
def test_bad_rates_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_common_order_however_it_is_cut():
    mixture = plan([2.5, 1, 0.7], 1, factors={0: {0: 0.1}, 50: {0: 1.0}})
    order = mixture._examples[0]
    whole = order.take(0, 240)
    for first, count in itertools.pairwise([0, 1, 17, 100, 239]):
        part = order.take(first, count - first)
        for all_of_it, piece in zip(whole, part):
            np.testing.assert_array_equal(piece, all_of_it[first:count])
