"""The training loop, to be read in one sitting.

The order never changes: step, maybe log, maybe measure the loss on held-out examples, maybe
evaluate, maybe save, next batch. A batch is taken
only after the save, so a checkpoint at step n resumes with batch n. A state after a loss that is
not finite is never saved, and a request to stop does not wait for an evaluation. Every pause is
charged to a named timer. The loop knows nothing about gin, files or TensorFlow: it calls what it
is given.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import jax
import numpy as np

from ofa_jax.errors import Unfinished
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import Batch

__all__ = [
    "PAUSES",
    "NonFiniteLossError",
    "Periods",
    "ShowsProgress",
    "StepValues",
    "StepWatcher",
    "Timers",
    "run",
]

R = TypeVar("R")
StepValues = Mapping[str, jax.Array]

# Time that is not training, left out of the rate.
PAUSES = ("compile", "evaluate", "save")


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient became NaN or infinite.

    Attributes:
      batch: number of the first batch of which this is so; its step would have been `batch` + 1.
    """

    def __init__(self, message: str, batch: int) -> None:
        super().__init__(message)
        self.batch = batch


class ShowsProgress(Protocol):
    """Shows where the run is: a bar on a terminal, one line per interval in a log."""

    def update(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class StepWatcher(Protocol):
    """Is told before every step, for example to record a profile of some of them."""

    def before(self, step: int, state: TrainState) -> None: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Periods:
    """How often the loop pauses; every period counts steps, 0 means never.

    Attributes:
      total: train until this step.
      log: fetch metrics, write a line.
      evaluate: call `evaluate`.
      save: call `save`.
      measure: call `measure`.
    """

    total: int
    log: int = 100
    evaluate: int = 0
    save: int = 0
    measure: int = 0

    def __post_init__(self) -> None:
        for name, least in {"total": 1, "log": 1, "evaluate": 0, "save": 0, "measure": 0}.items():
            steps = getattr(self, name)
            if not isinstance(steps, int) or steps < least:
                raise ValueError(
                    f"Periods.{name} counts steps and must be {least} or more, got {steps!r}"
                )

    def due(self, period: int, step: int) -> bool:
        """Whether a pause of this period falls on `step`."""
        return period > 0 and (step % period == 0 or step == self.total)


class Timers:
    """Wall-clock seconds by name, since the start and since the last `interval` call."""

    def __init__(self) -> None:
        self.total: dict[str, float] = {}
        self._interval: dict[str, float] = {}
        self._interval_start = time.perf_counter()

    def charge(self, name: str, seconds: float) -> None:
        """Adds seconds to a name."""
        self.total[name] = self.total.get(name, 0.0) + seconds
        self._interval[name] = self._interval.get(name, 0.0) + seconds

    def measure(self, name: str, call: Callable[[], R]) -> R:
        """Calls and charges the time it takes, also when it raises."""
        start = time.perf_counter()
        try:
            return call()
        finally:
            self.charge(name, time.perf_counter() - start)

    def interval(self) -> tuple[float, dict[str, float]]:
        """Seconds since the last call, and how they were charged; starts the next interval."""
        now = time.perf_counter()
        elapsed, charged = now - self._interval_start, self._interval
        self._interval_start, self._interval = now, {}
        return elapsed, charged


@dataclasses.dataclass
class _Window:
    """Metrics of the steps since the last log line; they stay on the device until then."""

    task_names: Sequence[str]
    first: int
    pending: list[StepValues] = dataclasses.field(default_factory=list)

    def check(self) -> None:
        """Fails where a step of the window went wrong."""
        last = self.first + len(self.pending)
        for number, step in enumerate(jax.device_get(self.pending), self.first):
            wrong = {
                name: float(step[name])
                for name in ("loss", "gradient_norm")
                if name in step and not math.isfinite(step[name])
            }
            if wrong:
                what = " and ".join(f"{name} {value}" for name, value in wrong.items())
                raise NonFiniteLossError(
                    f"step {number + 1} has {what} (found between steps {self.first} and {last}); "
                    "lower ScheduleConfig.peak, or look at the examples of that batch",
                    batch=number,
                )

    def drain(self) -> dict[str, float]:
        """Means and sums of the window."""
        fetched = jax.device_get(self.pending)
        values = {
            key: float(np.mean([step[key] for step in fetched]))
            for key in fetched[0]
            # Names with a slash are those of an objective of its own.
            if key in ("loss", "nll", "gradient_norm", "accuracy", "reward") or "/" in key
        }
        values["learning_rate"] = float(fetched[-1]["learning_rate"])
        values["param_norm"] = float(fetched[-1]["param_norm"])
        sums = np.sum([step["task_loss_sum"] for step in fetched], axis=0)
        counts = np.sum([step["task_tokens"] for step in fetched], axis=0)
        for name, loss_sum, tokens in zip(self.task_names, sums, counts):
            if tokens > 0:
                values[f"loss/{name}"] = float(loss_sum / tokens)
        return values


def run(
    state: TrainState,
    *,
    train_step: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepValues]],
    batches: Iterator[Mapping[str, np.ndarray]],
    place: Callable[[Mapping[str, np.ndarray]], Batch],
    rng: jax.Array,
    periods: Periods,
    batch_size: int,
    task_names: Sequence[str],
    log: Callable[[int, dict[str, float]], None],
    evaluate: Callable[[int, TrainState], None],
    save: Callable[[int, TrainState], None],
    measure: Callable[[int, TrainState], None] | None = None,
    prepare: Callable[[TrainState, Batch, jax.Array], None] | None = None,
    rescue: Callable[[int, TrainState], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    progress: ShowsProgress | None = None,
    watcher: StepWatcher | None = None,
    timers: Timers | None = None,
) -> TrainState:
    """Trains from `state.step` to `periods.total`.

    Args:
      state: train state with an integer `step`.
      train_step: jitted (state, batch, rng) -> (state, metrics); metrics hold `loss`,
        `learning_rate`, `param_norm`, `task_loss_sum` and `task_tokens` (float32[tasks]).
      batches: yields batch number `state.step`, then the following ones.
      place: puts a host batch onto the devices.
      rng: base key; the step folds in its number.
      periods: when to pause.
      batch_size: global examples per step, for the rate.
      task_names: names behind the task axis of the metrics.
      log: receives (step, values).
      evaluate: called with (step, state); where it raises `Unfinished`, a stop was requested.
      save: called with (step, state).
      measure: called with (step, state) in periods of its own, before `evaluate`.
      prepare: called with the step's arguments before it, to compile where it must; its time is
        charged to "compile".
      rescue: called with (step, state) where there is no next batch, before its error goes on.
      stop_requested: asked after each step; True saves and returns.
      progress: shows the interval's values.
      watcher: told before every step.
      timers: where pauses are charged.

    Returns:
      The state after the last step.

    Raises:
      NonFiniteLossError: a loss or gradient of the interval is NaN or infinite.
    """
    timers = timers or Timers()
    step = first = last_log = int(state.step)
    window = _Window(task_names, step)
    timers.interval()
    try:
        while step < periods.total:
            if watcher:
                watcher.before(step, state)
            try:
                rows = timers.measure("data", lambda: next(batches))
            except Exception:
                if rescue and step > first:
                    window.check()
                    timers.measure("save", lambda: rescue(step, state))  # noqa: B023
                raise
            batch = timers.measure("data", lambda: place(rows))  # noqa: B023
            if prepare:
                timers.measure("compile", lambda: prepare(state, batch, rng))  # noqa: B023
            state, metrics = timers.measure("step", lambda: train_step(state, batch, rng))  # noqa: B023
            window.pending.append(metrics)
            step += 1
            stopping = stop_requested()
            saving = periods.due(periods.save, step) or (stopping and step < periods.total)

            if periods.due(periods.log, step):
                values = timers.measure("step", window.drain)
                elapsed, charged = timers.interval()
                paused = sum(charged.get(name, 0.0) for name in PAUSES)
                values["examples_per_second"] = (step - last_log) * batch_size / (elapsed - paused)
                values["data_wait"] = charged.get("data", 0.0) / (elapsed - paused)
                log(step, values)
                if progress:
                    progress.update(step, values)
                window.check()
                window = _Window(task_names, step)
                last_log = step
            elif saving:
                timers.measure("step", window.check)
            if measure and periods.due(periods.measure, step) and not stopping:
                timers.measure("evaluate", lambda: measure(step, state))  # noqa: B023
            if periods.due(periods.evaluate, step) and not stopping:
                window.check()
                try:
                    timers.measure("evaluate", lambda: evaluate(step, state))  # noqa: B023
                except Unfinished:
                    stopping = saving = True
            if saving:
                timers.measure("save", lambda: save(step, state))  # noqa: B023
            if stopping:
                break
    finally:
        for shown in (progress, watcher):
            if shown:
                shown.close()
    return state
