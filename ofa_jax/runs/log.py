"""What a run writes while it trains: metrics.jsonl, TensorBoard, W&B, a bar or log lines."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import pathlib
import time
import zlib
from collections.abc import Mapping
from typing import Any, Literal

from ofa_jax import atomic, quiet_tensorflow, schema
from ofa_jax.checkpoint.bucket import is_remote
from ofa_jax.progress import Progress
from ofa_jax.runs import event_files

logger = logging.getLogger("ofa_jax")


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """Where the numbers of a run go besides `metrics.jsonl` (`LogConfig`).

    Attributes:
      tensorboard: whether event files are written.
      wandb_project: project of Weights & Biases; "" sends nothing there.
      wandb_entity: account or team of that project; "" is the user's own.
      wandb_mode: "online" or "offline" (kept in the run's directory).
    """

    tensorboard: bool = True
    wandb_project: str = ""
    wandb_entity: str = ""
    wandb_mode: Literal["online", "offline"] = "online"

    def __post_init__(self) -> None:
        schema.check(self, "LogConfig")


class RunLog:
    """Appends metrics of a run to `metrics.jsonl`, TensorBoard event files and W&B.

    Attributes:
      path: the jsonl file.
    """

    def __init__(
        self,
        run_dir: str | pathlib.Path,
        start_step: int,
        config: LogConfig = LogConfig(),
        *,
        address: str = "",
        settings: str = "",
    ):
        """Opens the files.

        Args:
          run_dir: directory of the run.
          start_step: lines and events after it (of a run that was killed) are dropped.
          config: where the numbers go.
          address: of the run, by which a restart finds its W&B run again; "" is `run_dir`.
          settings: the whole configuration as text, kept with a W&B run.

        Raises:
          ValueError: W&B is asked for and not installed.
        """
        self._wandb = _wandb_run(pathlib.Path(run_dir), address, config, settings)
        root = pathlib.Path(run_dir)
        root.mkdir(parents=True, exist_ok=True)
        self.path = root / "metrics.jsonl"
        kept = rows_until(self.path, start_step)
        self._time_before = float(kept[-1].get("time", 0.0)) if kept else 0.0
        self._start = time.perf_counter()
        self._writer = None
        if config.tensorboard:
            event_files.purge(root / "tensorboard", start_step)
            self._writer = _tensorboard_writer(root / "tensorboard")

    @property
    def seconds(self) -> float:
        """Seconds of work on this run, sessions before a restart included."""
        return self._time_before + time.perf_counter() - self._start

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line and the same scalars to TensorBoard and W&B."""
        row = {"step": step, "time": round(self.seconds, 3), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._writer:
            self._writer.write_scalars(step, dict(values))
        if self._wandb:
            self._wandb.log(dict(values), step=step)

    def flush(self) -> None:
        """Writes out what TensorBoard's writer still holds; the rest is on disk already."""
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the event files."""
        if self._writer:
            self._writer.flush()
            self._writer.close()
        if self._wandb:
            self._wandb.finish()


def _tensorboard_writer(directory: pathlib.Path) -> Any:
    # Imported here: TensorFlow below it takes seconds and half a gigabyte.
    quiet_tensorflow.load()
    from clu import metric_writers

    # Its first writer looks for accelerators, and says that there is none.
    with quiet_tensorflow.quiet_native_stderr():
        return metric_writers.AsyncMultiWriter([metric_writers.SummaryWriter(str(directory))])


def _wandb_run(run_dir: pathlib.Path, address: str, config: LogConfig, settings: str) -> Any:
    """The run of Weights & Biases of a directory, or None; a restart goes on with it."""
    if not config.wandb_project:
        return None
    try:
        wandb = importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise ValueError(
            "LogConfig.wandb_project is set, but the package wandb is not installed: "
            "pip install wandb, or leave the setting out"
        ) from error
    directory = str(run_dir.absolute())
    identity = address if is_remote(address) else directory
    return wandb.init(
        project=config.wandb_project,
        entity=config.wandb_entity or None,
        mode=config.wandb_mode,
        name=run_dir.name,
        id=f"{run_dir.name}-{zlib.crc32(identity.encode()):08x}",
        resume="allow",
        dir=directory,
        config={"gin": settings},
    )


class NoLog:
    """Stands in for `RunLog` on hosts that write nothing."""

    seconds = 0.0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes nothing."""

    def flush(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Closes nothing."""


class TrainingProgress:
    """How far the steps of a run are, with the values of each interval."""

    def __init__(self, total: int, start: int, *, shown: bool = True):
        self._progress = Progress("train", total, unit="step", interval=0.0, shown=shown)
        self._progress.update(start)

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Moves to `step` and shows the interval's values."""
        text = (
            f"loss {values['loss']:.3f}, {values['examples_per_second']:.0f} examples/s, "
            f"data wait {values['data_wait']:.0%}"
        )
        if "mfu" in values:
            text += f", MFU {values['mfu']:.0%}"
        self._progress.update(step, text)

    def close(self) -> None:
        """Leaves the finished bar on the terminal."""
        self._progress.close()


def rows_until(path: pathlib.Path, step: int) -> list[atomic.JsonObject]:
    """Drops the lines of a `metrics.jsonl` after a step, from which a run goes on.

    Args:
      path: the file; it is made where there is none.
      step: the last one that stays.

    Returns:
      The rows that stay.
    """
    kept = [row for row in _rows(path) if row["step"] <= step]
    atomic.write_text(path, "".join(f"{json.dumps(row)}\n" for row in kept))
    return kept


def _rows(path: pathlib.Path) -> list[atomic.JsonObject]:
    """The rows of a `metrics.jsonl`; a last line that was cut off by a kill is no row.

    Where others are damaged, the file is set aside too.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    rows = [row for row in map(atomic.parsed, lines[:-1]) if _is_row(row)]
    if len(rows) < len(lines) - 1:
        damaged = len(lines) - 1 - len(rows)
        atomic.set_aside(path, f"has {damaged} damaged lines, which are left out", copy=True)
    return rows


def _is_row(row: Any) -> bool:
    values = row.values() if isinstance(row, dict) else [""]
    return all(type(value) in (int, float) for value in values) and type(row.get("step")) is int
