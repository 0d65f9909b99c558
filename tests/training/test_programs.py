"""Compiling ahead, by shape of batch; the profiler's window."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.training.profiler import ProfilerWindow
from ofa_jax.training.programs import StepPrograms


def test_each_shape_is_compiled_once_and_said(caplog):
    traces, compiled = [], []

    @jax.jit
    def step(state, batch, rng):
        traces.append(batch["x"].shape)
        noise = jax.random.normal(rng, ())
        return state + batch["x"].sum() + noise, {"loss": batch["x"].sum()}

    programs = StepPrograms(step)
    state, rng = jnp.float32(0.0), jax.random.key(0)
    with caplog.at_level(logging.INFO, logger="ofa_jax"):
        for size in (4, 4, 6, 4):
            batch = {"x": jnp.ones((size, 2))}
            compiled.append(programs.prepare(state, batch, rng))
            state, metrics = programs(state, batch, rng)
            assert metrics["loss"] == 2 * size
    assert traces == [(4, 2), (6, 2)]
    assert compiled == [True, False, True, False]
    expected = 2 * (4 + 4 + 6 + 4) + 4 * float(jax.random.normal(rng, ()))
    assert float(state) == pytest.approx(expected, rel=1e-5)
    assert [line.split(" in ")[0] for line in caplog.messages] == [
        "compiled the step for 4 examples",
        "compiled the step for 6 examples",
    ]
    assert "total 0 MiB" in caplog.messages[0]


def test_the_window_is_recorded_once(monkeypatch, tmp_path):
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda directory: events.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))
    window = ProfilerWindow(tmp_path, first_step=2, steps=3)
    for step in range(8):
        window.before(step, np.float32(0.0))
        events.append(step)
    window.close()
    assert events == [0, 1, "start", 2, 3, 4, "stop", 5, 6, 7]

    events.clear()
    ends_early = ProfilerWindow(tmp_path, first_step=1, steps=5)
    ends_early.before(1, np.float32(0.0))
    ends_early.close()
    assert events == ["start", "stop"]

    events.clear()
    resumed_behind = ProfilerWindow(tmp_path, first_step=1, steps=2)
    resumed_behind.before(2, np.float32(0.0))
    resumed_behind.close()
    assert events == []
    with pytest.raises(ValueError, match="steps >= 1"):
        ProfilerWindow(tmp_path, 0, 0)
