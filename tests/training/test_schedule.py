"""Learning rates follow SPEC 6.2."""

import numpy as np
import pytest

from ofa_jax.training.schedule import ScheduleConfig, build_schedule


def rates(config, steps):
    schedule = build_schedule(config)
    return np.array([schedule(step) for step in steps])


def test_first_update_of_warm_up_has_rate_zero():
    config = ScheduleConfig(peak=1.0, total_steps=14, warmup_steps=4)
    expected = [0, 0.25, 0.5, 0.75, 1.0, 0.9, 0.8]
    np.testing.assert_allclose(rates(config, range(7)), expected, rtol=1e-6)


def test_polynomial_ends_and_stays():
    config = ScheduleConfig(peak=1.0, total_steps=10, end=0.2, power=2.0)
    expected = [1.0, 0.2 + 0.8 * 0.25, 0.2, 0.2]
    np.testing.assert_allclose(rates(config, (0, 5, 10, 99)), expected, rtol=1e-6)


def test_cosine_and_constant():
    cosine = ScheduleConfig(peak=2.0, shape="cosine", total_steps=10, warmup_steps=2)
    np.testing.assert_allclose(rates(cosine, (1, 2, 6, 10, 11)), [1, 2, 1, 0, 0], atol=1e-6)
    constant = ScheduleConfig(peak=2.0, shape="constant", warmup_steps=2)
    np.testing.assert_allclose(rates(constant, (0, 1, 2, 1000)), [0, 1, 2, 2])


def test_ratio_is_rounded_down():
    assert ScheduleConfig(peak=1.0, total_steps=199, warmup_ratio=0.01).warmup == 1
    assert ScheduleConfig(peak=1.0, total_steps=50, warmup_ratio=0.01).warmup == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": "linear"}, "shape must be one of 'polynomial', 'cosine'"),
        ({"peak": -1.0}, "peak must be a number from 0 to 1,000"),
        ({"total_steps": None}, "needs total_steps"),
        ({"warmup_steps": -1}, "warmup_steps must be a whole number from 0"),
        ({"warmup_steps": 2, "warmup_ratio": 0.1}, "not both"),
        ({"warmup_steps": 11}, "warm-up of 11 steps is longer than the 10 steps"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**{"peak": 1.0, "total_steps": 10, **settings})
