"""The runs of an ablation: their commands, their directories, and how far each of them is.

Second step. A run is `python -m ofa_jax.train` in a process of its own; what it left in its
directory is all that is known of it, so an ablation goes on wherever it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from ofa_jax.ablation.settings import Ablation, Variant
from ofa_jax.errors import Status
from ofa_jax.schema import read_json

# In a run's directory: the settings that it was started with.
SETTINGS_FILE = "ablation.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed.

    Attributes:
      row: its mixture.
      seed: RANDOM_SEED.
      steps: TRAIN_STEPS.
      directory: MODEL_DIR.
      settings: arguments of training besides MODEL_DIR.
      engine: "native", or "t5x" for t5x's `train.py`.
    """

    row: Variant
    seed: int
    steps: int
    directory: pathlib.Path
    settings: tuple[str, ...]
    engine: str = "native"

    @property
    def results(self) -> pathlib.Path:
        """Directory of its scores and predictions."""
        return self.directory / "inference_eval" if self.engine == "t5x" else self.directory

    @property
    def arguments(self) -> tuple[str, ...]:
        """All arguments of training."""
        return (*self.settings, f"--gin.MODEL_DIR={str(self.directory)!r}")

    @property
    def name(self) -> str:
        """For launchers: lower-case letters, digits and hyphens, at most 40."""
        name = f"{self.row.directory.replace('_', '-').replace('.', '-')}-{self.seed}"
        return name[-40:].lstrip("-0123456789")

    def command(self, launcher: Sequence[str] = ()) -> tuple[str, ...]:
        """The command that runs it.

        Args:
          launcher: for example ("python", "launch/slurm.py", "--nodes=1"); () trains right here.
        """
        if launcher:
            engine = () if self.engine == "native" else (f"--engine={self.engine}",)
            return (*launcher, *engine, f"--name={self.name}", *self.arguments)
        module = "t5x.train" if self.engine == "t5x" else "ofa_jax.train"
        return (sys.executable, "-m", module, *self.arguments)

    def state(self) -> str:
        """ "finished", "begun" or "new".

        Raises:
          ValueError: the directory holds a run of other settings.
        """
        path = self.directory / SETTINGS_FILE
        if path.is_file():
            before = read_json(path, expected=list)
            if before != list(self.settings):
                changed = [word for word in self.settings if word not in before] or [
                    word for word in before if word not in self.settings
                ]
                raise ValueError(
                    f"{self.directory} holds a run of other settings (now: {changed[0]}); give "
                    "ablation.Ablation.directory another value, or delete that directory"
                )
        metrics = self.results / "metrics.json"
        if metrics.is_file():
            facts = read_json(metrics, expected=dict).get("run")
            done = {"steps": self.steps, "seed": self.seed}
            if isinstance(facts, dict) and facts.items() >= done.items():
                return "finished"
        return "begun" if self.directory.is_dir() else "new"

    def remember_settings(self) -> None:
        """Writes the settings into the directory, before the run begins."""
        self.directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(list(self.settings), indent=1) + "\n"
        (self.directory / SETTINGS_FILE).write_text(text, encoding="utf-8")


def plan(ablation: Ablation, engine: str = "native") -> tuple[Run, ...]:
    """All runs; all rows with the first seed come first, so that a first table is there early.

    Args:
      engine: of all runs, see `Run`. Under t5x a run is evaluated as a whole at its last step.
    """
    common = [f"--gin_file={file}" for file in ablation.gin_files]
    common += [f"--gin.{name}={text}" for name, text in ablation.bindings.items()]
    common.append(f"--gin.TRAIN_STEPS={ablation.steps}")
    directory = pathlib.Path(ablation.directory)
    if engine == "t5x":
        directory = directory.absolute()
        common += [
            f"--gin.{name}={ablation.steps}" for name in ("EVAL_PERIOD", "CHECKPOINT_PERIOD")
        ]
        common.append("--gin.evaluation.Evaluator.complete=True")
    return tuple(
        Run(
            row=row,
            seed=seed,
            steps=ablation.steps,
            engine=engine,
            directory=directory / "runs" / row.directory / f"seed_{seed}",
            settings=(
                *common,
                f"--gin.RANDOM_SEED={seed}",
                *(
                    f"--gin.inputs.DatasetConfig.{field}={value!r}"
                    for field, value in row.changes.items()
                ),
            ),
        )
        for seed in ablation.seeds
        for row in ablation.all_rows()
    )


def shell_line(run: Run, launcher: Sequence[str] = ()) -> str:
    """A run's command as a shell takes it."""
    words = run.command(launcher)
    if not launcher:
        words = ("python", *words[1:])
    return shlex.join(words)


@contextlib.contextmanager
def _handed_on(child: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Hands SIGTERM and SIGINT on to a child, which saves and ends; collects them."""
    asked: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)
        child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(run: Run) -> int:
    """Runs one run to its end, or further where it was stopped.

    Args:
      run: not finished.

    Returns:
      Exit status: 0 where it is finished now, otherwise that of the command; where the system
      killed it, that of a failure.

    Raises:
      ValueError: it came to its end without scores.
    """
    run.remember_settings()
    # A session of its own: Ctrl-C reaches it once, through this process.
    child = subprocess.Popen(run.command(), start_new_session=True)
    with _handed_on(child) as asked:
        status = child.wait()
    if asked:
        return Status.UNFINISHED
    if status:
        return max(status, Status.FAILED)
    if run.state() != "finished":
        raise ValueError(
            f"the run of {run.directory} ended without scores in its metrics.json; "
            "evaluation.EvaluationConfig.final_num_examples must not be 0"
        )
    return Status.DONE
