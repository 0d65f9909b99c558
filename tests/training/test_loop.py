"""The order of the training loop, its pauses and its ends, with a step that computes nothing."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from ofa_jax.training import loop


@dataclasses.dataclass(frozen=True)
class State:
    step: int


class Recorder:
    """Plays every part of the loop and writes down what happens, in order."""

    def __init__(self, *, losses=None, stop_at=None, slow=None):
        self.events = []
        self.lines = {}
        self.shown = []
        self.losses = losses or {}
        self.stop_at = stop_at
        self.slow = slow or {}
        self.clock = 0.0
        self.taken = 0

    def wait(self, name):
        self.clock += self.slow.get(name, 0.0)

    def batches(self, start):
        for number in itertools.count(start):
            self.events.append(f"batch {number}")
            self.wait("data")
            yield {"number": number}

    def train_step(self, state, batch, rng):
        assert batch["number"] == state.step, "the batch belongs to the step"
        self.wait("step")
        step = state.step + 1
        self.events.append(f"step {step}")
        tasks = np.array([1.0, 0.0, 3.0]) if step % 2 else np.array([1.0, 0.0, 0.0])
        metrics = {
            "loss": np.float32(self.losses.get(step, step)),
            "learning_rate": np.float32(step / 100),
            "param_norm": np.float32(2.0),
            "task_loss_sum": 2 * tasks,
            "task_tokens": tasks,
        }
        return State(step), metrics

    def log(self, step, values):
        self.events.append(f"log {step}")
        self.lines[step] = values

    def evaluate(self, step, state):
        assert state.step == step
        self.wait("evaluate")
        self.events.append(f"evaluate {step}")

    def save(self, step, state):
        assert state.step == step
        self.wait("save")
        self.events.append(f"save {step}")

    def stop_requested(self):
        assert self.events[-1].startswith("step ")
        return self.stop_at is not None and f"step {self.stop_at}" in self.events

    def update(self, step, values):
        self.shown.append(step)

    def close(self):
        self.shown.append("closed")

    def run(self, periods, *, start=0, timers=None):
        return loop.run(
            State(start),
            train_step=self.train_step,
            batches=self.batches(start),
            place=lambda batch: batch,
            rng=jax.random.key(0),
            periods=periods,
            batch_size=10,
            task_names=("a", "b", "c"),
            log=self.log,
            evaluate=self.evaluate,
            save=self.save,
            stop_requested=self.stop_requested,
            progress=self,
            timers=timers,
        )


def test_the_order_is_step_log_evaluate_save_next_batch():
    recorder = Recorder()
    state = recorder.run(loop.Periods(total=5, log=2, evaluate=2, save=4))
    assert state == State(5)
    assert recorder.events == [
        *("batch 0", "step 1"),
        *("batch 1", "step 2", "log 2", "evaluate 2"),
        *("batch 2", "step 3"),
        *("batch 3", "step 4", "log 4", "evaluate 4", "save 4"),
        # Every pause also falls on the last step, and no batch is taken after it.
        *("batch 4", "step 5", "log 5", "evaluate 5", "save 5"),
    ]
    assert recorder.shown == [2, 4, 5, "closed"]


def test_periods_of_zero_never_come():
    recorder = Recorder()
    recorder.run(loop.Periods(total=3, log=3))
    assert recorder.events == [
        *("batch 0", "step 1", "batch 1", "step 2", "batch 2", "step 3", "log 3")
    ]
    periods = loop.Periods(total=7, log=2)
    assert [step for step in range(1, 8) if periods.due(periods.log, step)] == [2, 4, 6, 7]
    assert not periods.due(0, 7)


@pytest.mark.parametrize(
    "wrong", [{"total": 0}, {"log": 0}, {"evaluate": -1}, {"save": -1}, {"total": "many"}]
)
def test_periods_must_count_steps(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        loop.Periods(**({"total": 5} | wrong))


def test_resuming_goes_on_with_the_batch_of_the_step():
    recorder = Recorder()
    recorder.run(loop.Periods(total=6, log=4, save=4), start=4)
    assert recorder.events == ["batch 4", "step 5", "batch 5", "step 6", "log 6", "save 6"]
    assert recorder.lines[6]["loss"] == 5.5
    finished = Recorder()
    assert finished.run(loop.Periods(total=6), start=6) == State(6)
    assert finished.events == []


def test_log_lines_average_the_interval():
    recorder = Recorder()
    recorder.run(loop.Periods(total=4, log=2))
    line = recorder.lines[2]
    assert line["loss"] == 1.5
    assert line["learning_rate"] == pytest.approx(0.02), "of the last step"
    assert line["param_norm"] == 2.0
    # Per task: loss over tokens of the interval; a task without tokens has no entry.
    assert {key: value for key, value in line.items() if key.startswith("loss/")} == {
        "loss/a": 2.0,
        "loss/c": 2.0,
    }
    assert recorder.lines[4]["loss"] == 3.5


def test_a_stop_request_saves_once_and_returns():
    recorder = Recorder(stop_at=2)
    state = recorder.run(loop.Periods(total=9, log=4, evaluate=3, save=5))
    assert state == State(2)
    assert recorder.events == ["batch 0", "step 1", "batch 1", "step 2", "save 2"]
    assert recorder.shown == ["closed"]


def test_a_stop_request_does_not_wait_for_an_evaluation():
    # A machine that is taken away gives seconds, an evaluation takes minutes.
    recorder = Recorder(stop_at=2)
    recorder.run(loop.Periods(total=9, log=2, evaluate=2, save=2))
    assert recorder.events[-3:] == ["step 2", "log 2", "save 2"]


def test_a_stop_request_at_the_last_step_saves_once():
    recorder = Recorder(stop_at=3)
    assert recorder.run(loop.Periods(total=3, log=3, save=3)) == State(3)
    assert recorder.events[-2:] == ["log 3", "save 3"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_is_saved(value):
    recorder = Recorder(losses={3: value})
    with pytest.raises(loop.NonFiniteLossError, match="between steps 2 and 4") as error:
        recorder.run(loop.Periods(total=8, log=2, evaluate=2, save=2))
    assert "ScheduleConfig.peak" in str(error.value)
    assert "\n" not in str(error.value)
    assert recorder.events[-2:] == ["step 4", "log 4"], "the line is written, the state is not"
    assert "save 2" in recorder.events
    assert recorder.shown[-1] == "closed"


def test_a_save_between_log_lines_does_not_keep_a_broken_state():
    recorder = Recorder(losses={5: float("nan")})
    with pytest.raises(loop.NonFiniteLossError, match="between steps 0 and 6"):
        recorder.run(loop.Periods(total=20, log=10, save=3))
    assert [event for event in recorder.events if event.startswith("save")] == ["save 3"]


def test_pauses_are_charged_and_left_out_of_the_rate(monkeypatch):
    recorder = Recorder(slow={"data": 1.0, "step": 3.0, "evaluate": 100.0, "save": 50.0})
    monkeypatch.setattr(loop.time, "perf_counter", lambda: recorder.clock)
    timers = loop.Timers()
    recorder.run(loop.Periods(total=4, log=2, evaluate=2, save=2), timers=timers)
    assert timers.total == {"data": 4.0, "step": 12.0, "evaluate": 200.0, "save": 100.0}
    for step in (2, 4):
        # Ten examples in four seconds, of which one was spent waiting.
        assert recorder.lines[step]["examples_per_second"] == pytest.approx(2.5)
        assert recorder.lines[step]["data_wait"] == pytest.approx(0.25)


def test_timers_charge_failing_calls_too():
    timers = loop.Timers()

    def fail():
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        timers.measure("save", fail)
    assert timers.total["save"] >= 0.0
    elapsed, charged = timers.interval()
    assert elapsed >= charged["save"]
    assert timers.interval()[1] == {}
