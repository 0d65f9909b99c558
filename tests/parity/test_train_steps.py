"""Four optimizer steps of the official code (fixture train_steps.json) through our train step."""

import functools
import re

import jax
import numpy as np
import pytest

from ofa_jax.checkpoint.names import entries, to_state_dict
from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import make_train_step
from tests.parity import tolerances
from tests.parity.comparison import Run
from tests.parity.fixture import Fixture
from tests.shared import fixtures_dir, requires_all_fixtures

pytestmark = [requires_all_fixtures, pytest.mark.slow]

RATE = 1e-3


class RunningStatistics(OFA):
    """OFA whose batch norm uses running statistics in training, as the run `bn_eval` did."""

    def __call__(self, batch, *, train=False, patch_orders=None):
        del train  # All dropout rates are 0: nothing else differs.
        return super().__call__(batch, train=False, patch_orders=patch_orders)


@functools.cache
def trained(kind):
    """(metrics of every step, state dict after them, official numbers)."""
    fixture = Fixture(fixtures_dir() / "mini")
    official = fixture.optional_json("train_steps.json")[kind]
    run = Run(fixture.case("image_text"))
    model = (RunningStatistics if kind == "bn_eval" else OFA)(run.config)
    # The official float32 run leaves parameters without a gradient alone.
    paths = {entry.official: entry.path for entry in entries(run.config)}
    frozen = tuple(
        f"^{re.escape('/'.join(paths[name][1:]))}$" for name in official["no_grad_params"]
    )
    config = OptimizerConfig(
        ScheduleConfig(peak=RATE, shape="constant"),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.01,
        clip_norm=1.0,
        frozen=frozen,
    )
    tx, schedule = build_optimizer(config)
    params = jax.tree.map(jax.numpy.asarray, run.variables["params"])
    state = TrainState(
        step=jax.numpy.int32(0),
        params=params,
        opt_state=tx.init(params),
        batch_stats=jax.tree.map(jax.numpy.asarray, run.variables["batch_stats"]),
        ema=None,
    )
    step = make_train_step(
        model,
        tx,
        schedule,
        LossConfig(label_smoothing=0.1),
        vocab_size=run.config.vocab_size,
        frozen=frozen,
    )
    history = []
    for _ in official["steps"]:
        state, metrics = step(state, run.batch, jax.random.key(0))
        history.append(jax.device_get(metrics))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return history, to_state_dict(variables, run.config), official


def check_step(metrics, expected, loss_tolerance, norm_tolerance):
    assert metrics["loss"] == pytest.approx(expected["loss_mean"], rel=loss_tolerance)
    assert metrics["nll"] == pytest.approx(
        expected["nll_sum"] / expected["ntokens"], rel=loss_tolerance
    )
    assert metrics["tokens"] == expected["ntokens"]
    norm = expected["grad_norm_before_clip"]
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=norm_tolerance)


def test_running_statistics_all_steps():
    history, _, official = trained("bn_eval")
    assert len(history) == 4
    for metrics, expected in zip(history, official["steps"], strict=True):
        check_step(metrics, expected, tolerances.LOSS, tolerances.GRADIENT_NORM)


def wrong_norms(weights, expected, tolerance):
    """Official names whose norm differs by more than the relative tolerance, with both norms."""
    wrong = {}
    for name, entry in expected.items():
        norm = float(np.linalg.norm(weights[name].astype(np.float64)))
        if norm != pytest.approx(entry["norm"], rel=tolerance):
            wrong[name] = (norm, entry["norm"])
    return wrong


def wrongly_moved(weights, start, expected, longest_way):
    """Official names whose norm or leading entries are off for the way they went, with both.

    Args:
      weights: ours after the steps.
      start: the weights before them.
      expected: official name to {"norm", "head", ...} after the steps.
      longest_way: learning rate times steps, what Adam moves an entry at most.
    """
    wrong = {}
    for name, entry in expected.items():
        own = weights[name].astype(np.float64)
        movement = np.linalg.norm(own - start[name])
        difference = abs(np.linalg.norm(own) - entry["norm"])
        entries_off = np.abs(own.reshape(-1)[: len(entry["head"])] - entry["head"]).max()
        # The official norm is one of float32 numbers.
        allowed = tolerances.GRADIENT_NORM * movement + 1e-7 * entry["norm"]
        allowed = min(allowed, tolerances.PARAMETER * entry["norm"])
        if difference > allowed or entries_off > tolerances.MOVED_ENTRY * longest_way:
            wrong[name] = (difference, allowed, entries_off)
    return wrong


def test_running_statistics_parameters():
    _, weights, official = trained("bn_eval")
    first = official["steps"][0]
    floor = tolerances.GRADIENT_FLOOR * first["grad_norm_before_clip"]
    # Where the exact gradient is zero (biases of keys), Adam turns rounding into full steps.
    meaningful = {
        name: entry
        for name, entry in official["params_after"].items()
        if name in official["no_grad_params"] or first["grads_of_mean_loss"][name]["norm"] > floor
    }
    assert len(meaningful) > 0.9 * len(official["params_after"])
    start = Fixture(fixtures_dir() / "mini").state_dict()
    longest_way = RATE * len(official["steps"])
    assert wrongly_moved(weights, start, meaningful, longest_way) == {}
    # Running statistics are not touched at all.
    assert wrong_norms(weights, official["buffers_after"], tolerances.LOSS) == {}


def test_batch_statistics_first_step():
    history, _, official = trained("bn_train")
    check_step(history[0], official["steps"][0], tolerances.LOSS, tolerances.GRADIENT_NORM)


def test_batch_statistics_later_steps():
    history, weights, official = trained("bn_train")
    for metrics, expected in zip(history[1:], official["steps"][1:], strict=True):
        check_step(metrics, expected, tolerances.NOISY_STEPS, 10 * tolerances.NOISY_STEPS)
    assert wrong_norms(weights, official["buffers_after"], tolerances.NOISY_STEPS) == {}
