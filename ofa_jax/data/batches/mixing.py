"""Which examples a training batch holds: rates, rates that change, buckets. Numbers only.

Sits between the mixture's declaration (`mixtures/`) and `pipeline`, which reads the
examples. Everything is a pure function of the step, in whole numbers: shares are summed up exactly,
each stream releases an example whenever its sum passes the next half, and the examples of all
streams stand in one order, that of their release. So batch t is found without the batches before
it, after any number of steps, and no stream ever runs more than an example or so ahead of or behind
its share.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

__all__ = [
    "INTERPOLATIONS",
    "BatchPlan",
    "Curve",
    "Interleaving",
    "MixturePlan",
    "RateSchedule",
    "is_number",
    "tempered_rates",
]

INTERPOLATIONS = ("linear", "constant")


def is_number(value: object) -> bool:
    """Whether a setting is a finite number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def tempered_rates(
    rates: Sequence[float], *, maximum: float | None = None, temperature: float = 1.0
) -> tuple[float, ...]:
    """Caps and flattens rates, as seqio does: min(maximum, rate) ** (1 / temperature).

    Args:
      rates: positive rates; numbers of examples for mixing by size.
      maximum: cap of a rate, applied first; None leaves them as they are.
      temperature: 1 changes nothing, larger numbers bring the rates closer to each other.

    Returns:
      The new rates.

    Raises:
      ValueError: a temperature or a maximum that is not positive.
    """
    if not is_number(temperature) or not temperature > 0:
        raise ValueError(f"temperature must be a positive number, got {temperature}")
    if maximum is not None and not (is_number(maximum) and maximum > 0):
        raise ValueError(f"maximum must be a positive rate, got {maximum}")
    capped = [rate if maximum is None else min(maximum, rate) for rate in rates]
    return tuple(float(rate) ** (1.0 / temperature) for rate in capped)


@dataclasses.dataclass(frozen=True)
class RateSchedule:
    """Shares of several streams at every step.

    A share is a rate divided by the sum of rates. "linear" moves each share in a straight line from
    one of the given steps to the next, "constant" keeps it until the next; after the last step
    shares stay as they are.

    Attributes:
      steps: where rates are given; increasing, the first is 0.
      rates: for each of these steps one rate per stream, none negative, one at least positive.
      interpolation: "linear" or "constant".
    """

    steps: tuple[int, ...]
    rates: tuple[tuple[float, ...], ...]
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"rate interpolation must be one of {', '.join(INTERPOLATIONS)}, got "
                f"{self.interpolation!r}"
            )
        steps = self.steps
        if not steps or steps[0] != 0 or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(f"steps of rates must begin with 0 and increase, got {list(steps)}")
        if len(self.rates) != len(steps) or len({len(row) for row in self.rates}) != 1:
            raise ValueError("every step of a schedule needs one rate for each stream")
        for step, row in zip(steps, self.rates):
            if not all(math.isfinite(rate) and rate >= 0 for rate in row) or not any(row):
                raise ValueError(
                    f"rates at step {step} must not be negative, and one must be positive, got "
                    f"{list(row)}"
                )

    @classmethod
    def constant(cls, rates: Sequence[float]) -> RateSchedule:
        """The same rates at every step."""
        return cls((0,), (tuple(rates),), "constant")

    @classmethod
    def with_factors(
        cls,
        rates: Mapping[str, float],
        factors: Mapping[int, Mapping[str, float]],
        interpolation: str = "linear",
    ) -> RateSchedule:
        """Rates that are multiplied by factors, which change over the steps.

        Args:
          rates: stream to rate.
          factors: step to stream to factor; streams that a step does not name have factor 1 there.
          interpolation: see the class.

        Returns:
          The schedule of the streams in the order of `rates`; the first factors hold from step 0.

        Raises:
          ValueError: a step or a rate that cannot be.
        """
        if any(not isinstance(step, int) or step < 0 for step in factors):
            raise ValueError(f"steps of rates must be whole numbers from 0, got {list(factors)}")
        for step, values in factors.items():
            for name, factor in values.items():
                if not is_number(factor):
                    raise ValueError(
                        f"factor of {name!r} at step {step} must be a number, got {factor!r}"
                    )
        steps = sorted(factors)
        rows = [
            tuple(rate * factors[step].get(name, 1.0) for name, rate in rates.items())
            for step in steps
        ]
        if not steps:
            return cls.constant(tuple(rates.values()))
        if steps[0] > 0:
            steps, rows = [0, *steps], [rows[0], *rows]
        return cls(tuple(steps), tuple(rows), interpolation)

    def shares(self, step: int) -> np.ndarray:
        """float64[streams]: shares at a step; they add up to one."""
        return np.array([float(curve.at(step + 1) - curve.at(step)) for curve in self.curves])

    @functools.cached_property
    def curves(self) -> tuple[Curve, ...]:
        """The sum of shares before each step, one curve per stream."""
        rows = [[Fraction(rate) for rate in row] for row in self.rates]
        shares = [[rate / sum(row) for rate in row] for row in rows]
        return tuple(
            Curve.of_shares(self.steps, [row[stream] for row in shares], self.interpolation)
            for stream in range(len(rows[0]))
        )


@dataclasses.dataclass(frozen=True)
class Curve:
    """An exact sum of shares: how much of a stream is due before a step.

    Attributes:
      starts: first step of each piece, the first is 0.
      pieces: whole numbers a, b, c, d of each piece: (a x^2 + b x + c) / d at x steps after its
        start.
    """

    starts: tuple[int, ...]
    pieces: tuple[tuple[int, int, int, int], ...]

    @classmethod
    def of_shares(
        cls, steps: Sequence[int], shares: Sequence[Fraction], interpolation: str
    ) -> Curve:
        """Sums one stream's shares, given at some steps, over all steps before each step."""
        total = Fraction(0)
        pieces = []
        for number, (step, share) in enumerate(zip(steps, shares)):
            slope, length = Fraction(0), 0
            if number + 1 < len(steps):
                length = steps[number + 1] - step
                if interpolation == "linear":
                    slope = (shares[number + 1] - share) / length
            # The sum of share + slope * i over i < x.
            pieces.append(_whole_numbers(slope / 2, share - slope / 2, total))
            if number + 1 < len(steps):
                total += share * length + slope * (length * (length - 1)) / 2
        return cls(tuple(steps), tuple(pieces))

    def at(self, step: int) -> Fraction:
        """The sum of shares of all steps before `step`."""
        numerator, denominator = self._evaluate(step)
        return Fraction(numerator, denominator)

    def rounded(self, factor: int, step: int, half: int) -> int:
        """floor(factor * sum + half / 2), in whole numbers."""
        numerator, denominator = self._evaluate(step)
        return (2 * factor * numerator + half * denominator) // (2 * denominator)

    def plus(self, other: Curve) -> Curve:
        """The sum of two curves with the same pieces."""
        pieces = []
        for (*mine, divisor), (*theirs, other_divisor) in zip(self.pieces, other.pieces):
            pairs = zip(mine, theirs)
            terms = (Fraction(x, divisor) + Fraction(y, other_divisor) for x, y in pairs)
            pieces.append(_whole_numbers(*terms))
        return Curve(self.starts, tuple(pieces))

    @property
    def ends(self) -> bool:
        """Whether nothing more is due after the last piece has begun."""
        a, b, _, _ = self.pieces[-1]
        return a == b == 0

    def _evaluate(self, step: int) -> tuple[int, int]:
        piece = bisect.bisect_right(self.starts, step) - 1
        a, b, c, d = self.pieces[piece]
        x = step - self.starts[piece]
        return (a * x + b) * x + c, d


@dataclasses.dataclass(frozen=True)
class Interleaving:
    """The items of several streams in the order in which they are due.

    Attributes:
      curves: what is due of each stream, as a share of `per_step`.
      per_step: items of all streams in a step on which their shares add up to one.
      half: 1 releases an item when half of it is due, 0 when all of it is.
    """

    curves: tuple[Curve, ...]
    per_step: int
    half: int = 1

    def take(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Items number `first` to `first + count` of the common order.

        Args:
          first: number of the first item, from 0.
          count: how many.

        Returns:
          int64[count] the stream of each item, and int64[count] its number in that stream. The
          numbers of a stream have no gap: each follows the one before in the common order.
        """
        step = self._step_of(first)
        before = self._released(step)
        skip = first - sum(before)
        streams, numbers, found = [], [], -skip
        while found < count:
            after = self._released(step + 1)
            stream, number = _evenly_mixed(before, after)
            streams.append(stream)
            numbers.append(number)
            found += len(stream)
            step, before = step + 1, after
        return (
            np.concatenate(streams)[skip : skip + count],
            np.concatenate(numbers)[skip : skip + count],
        )

    def _released(self, step: int) -> list[int]:
        """How many items of each stream are released before a step."""
        released = [curve.rounded(self.per_step, step, self.half) for curve in self.curves]
        last = self.curves[0].starts[-1]
        if step > last and self._ends:
            # Rounding may ask for an item or two of streams that have ended: the largest gives it.
            largest = max(range(len(released)), key=released.__getitem__)
            released[largest] += (step - last) * self.per_step
        return released

    @functools.cached_property
    def _ends(self) -> bool:
        return all(curve.ends for curve in self.curves)

    def _step_of(self, item: int) -> int:
        """The last step before which no more than `item` items are released."""
        low, high = 0, 1
        while sum(self._released(high)) <= item:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if sum(self._released(middle)) <= item:
                low = middle
            else:
                high = middle
        return low


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """What one global batch holds.

    Attributes:
      bucket: the bucket of all its examples.
      task_ids: int64[b] stream of each example.
      positions: int64[b] its number in that stream, counted over all epochs.
    """

    bucket: int
    task_ids: np.ndarray
    positions: np.ndarray


@dataclasses.dataclass(frozen=True)
class MixturePlan:
    """Which examples batch t holds, for every t.

    Each task belongs to one bucket and each batch to one bucket: batches of the buckets take turns
    by the shares of their tasks, and inside a bucket tasks are mixed by theirs.

    OFA-NOTE: SPEC 4.2. Every task is drawn by its rate; the official code pairs rows with
    companions of the same image and takes two groups of sizes through one update.

    Attributes:
      schedule: shares of the tasks.
      batch_size: examples of the global batch.
      buckets: bucket of each task, numbered from 0 without gaps.
    """

    schedule: RateSchedule
    batch_size: int
    buckets: tuple[int, ...]

    def batch(self, step: int) -> BatchPlan:
        """The examples of one global batch; needs no other batch.

        Args:
          step: number of the batch, from 0.

        Returns:
          Its bucket and examples.
        """
        buckets, numbers = self._batches.take(step, 1)
        bucket, number = int(buckets[0]), int(numbers[0])
        members = np.array(self._members[bucket])
        streams, positions = self._examples[bucket].take(number * self.batch_size, self.batch_size)
        return BatchPlan(bucket, members[streams], positions)

    @functools.cached_property
    def _members(self) -> list[list[int]]:
        members: list[list[int]] = [[] for _ in range(max(self.buckets) + 1)]
        for task, bucket in enumerate(self.buckets):
            members[bucket].append(task)
        return members

    @functools.cached_property
    def _batches(self) -> Interleaving:
        curves = self.schedule.curves
        sums = [
            functools.reduce(Curve.plus, (curves[task] for task in tasks))
            for tasks in self._members
        ]
        # A bucket's batch waits until its examples are due.
        return Interleaving(tuple(sums), 1, half=0)

    @functools.cached_property
    def _examples(self) -> list[Interleaving]:
        curves = self.schedule.curves
        return [
            Interleaving(tuple(curves[task] for task in tasks), self.batch_size)
            for tasks in self._members
        ]


def _whole_numbers(a: Fraction, b: Fraction, c: Fraction) -> tuple[int, int, int, int]:
    d = math.lcm(a.denominator, b.denominator, c.denominator)
    return int(a * d), int(b * d), int(c * d), d


def _evenly_mixed(before: list[int], after: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Items that a step releases, each stream's spread evenly over the step."""
    streams, numbers, times = [], [], []
    for stream, (first, last) in enumerate(zip(before, after)):
        count = last - first
        streams.append(np.full(count, stream))
        numbers.append(np.arange(first, last))
        times.append((np.arange(count) + 0.5) / max(count, 1))
    order = np.argsort(np.concatenate(times), kind="stable")
    return np.concatenate(streams)[order], np.concatenate(numbers)[order]
