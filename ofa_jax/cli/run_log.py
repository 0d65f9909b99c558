"""What a run writes while it trains: metrics.jsonl, TensorBoard events, a bar or log lines."""

from __future__ import annotations

import json
import logging
import pathlib
import sys
import time
from collections.abc import Mapping

from clu import metric_writers
from tqdm import tqdm

logger = logging.getLogger("ofa_jax")


class RunLog:
    """Appends metrics of a run to `metrics.jsonl` and to TensorBoard event files.

    Attributes:
      path: the jsonl file.
    """

    def __init__(self, run_dir: str | pathlib.Path, start_step: int):
        """Opens the files; lines after `start_step` (of a run that was killed) are dropped."""
        root = pathlib.Path(run_dir)
        root.mkdir(parents=True, exist_ok=True)
        self.path = root / "metrics.jsonl"
        kept = []
        if self.path.exists():
            kept = [
                line for line in self.path.read_text().splitlines() if _step(line) <= start_step
            ]
        self._time_before = _last_time(kept)
        self.path.write_text("".join(f"{line}\n" for line in kept if _step(line) >= 0))
        self._start = time.perf_counter()
        self._writer = metric_writers.AsyncMultiWriter(
            [metric_writers.SummaryWriter(str(root / "tensorboard"))]
        )

    @property
    def seconds(self) -> float:
        """Seconds of work on this run, sessions before a restart included."""
        return self._time_before + time.perf_counter() - self._start

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line and the same scalars to TensorBoard."""
        row = {"step": step, "time": round(self.seconds, 3), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._writer.write_scalars(step, dict(values))

    def close(self) -> None:
        """Flushes the event files."""
        self._writer.flush()
        self._writer.close()


class ProgressBar:
    """A bar with ETA on a terminal, one line per interval elsewhere."""

    def __init__(self, total: int, start: int, *, label: str = "train"):
        self._label = label
        self._total = total
        self._started = time.perf_counter()
        self._start_step = start
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, desc=label, unit="step", smoothing=0.1)

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Moves to `step` and shows the interval's values."""
        text = (
            f"loss {values['loss']:.3f}, {values['examples_per_second']:.0f} examples/s, "
            f"data wait {values['data_wait']:.0%}"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        elapsed = time.perf_counter() - self._started
        remaining = elapsed / max(1, step - self._start_step) * (self._total - step)
        logger.info(
            "%s step %d/%d, ETA %s, %s", self._label, step, self._total, duration(remaining), text
        )

    def close(self) -> None:
        """Leaves the finished bar on the terminal."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """Seconds as `1h02m`, `3m20s` or `12s`."""
    seconds = int(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"


def _step(line: str) -> int:
    """Step of a metrics line; -1 for one that was cut off by a kill."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1


def _last_time(lines: list[str]) -> float:
    for line in reversed(lines):
        if _step(line) >= 0:
            return float(json.loads(line).get("time", 0.0))
    return 0.0
