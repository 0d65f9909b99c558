"""Carries out the runs of an ablation: here, one after the other, or by a launcher.

After `runs`. The table is written anew after every run, so that there is something to look at.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

from ofa_jax.ablation.results import write_results
from ofa_jax.ablation.runs import Run, shell_line, train
from ofa_jax.ablation.settings import Ablation
from ofa_jax.errors import Status, Unfinished, started
from ofa_jax.progress import format_duration


def carry_out(
    ablation: Ablation,
    runs: Sequence[Run],
    *,
    launcher: Sequence[str] = (),
    print_commands: bool = False,
    table_only: bool = False,
) -> int:
    """Carries out what is not finished, and compares the runs.

    Args:
      ablation: the settings.
      runs: all runs of it.
      launcher: words of a command that submits every run instead of training here.
      print_commands: only print what is left.
      table_only: only compare.

    Returns:
      Exit status of the run or launcher that did not end well, otherwise 0.

    Raises:
      Unfinished: a signal asked to stop.
    """
    left = [run for run in runs if run.state() != "finished"]
    if print_commands:
        for run in left:
            print(shell_line(run, launcher))
        return Status.DONE
    say = f"{len(runs) - len(left)} of {len(runs)} runs are finished"
    print(f"{ablation.title}: {say}", flush=True)
    started()
    if table_only:
        left = []
    if status := submit(left, launcher) if launcher else train_all(ablation, runs, left):
        return status
    if (path := write_results(ablation, runs)) is not None:
        print(path.read_text(encoding="utf-8"))
        print(f"table: {path}, chart: {path.with_name('chart.png')}")
    return Status.DONE


def submit(left: Sequence[Run], launcher: Sequence[str]) -> int:
    """Hands runs to a launcher.

    Args:
      left: the runs.
      launcher: words of its command.

    Returns:
      Exit status: that of the first launch that failed, otherwise 0.
    """
    for run in left:
        run.remember_settings()
        print(f"+ {shell_line(run, launcher)}", flush=True)
        if status := subprocess.run(run.command(launcher), check=False).returncode:
            print(f"error: the launcher ended with exit status {status}", file=sys.stderr)
            return max(status, Status.FAILED)
    return Status.DONE


def train_all(ablation: Ablation, runs: Sequence[Run], left: Sequence[Run]) -> int:
    """Trains one run after the other, until one does not end well.

    Args:
      ablation: the settings.
      runs: all runs, for the table.
      left: those that are not finished.

    Returns:
      Exit status of the run that did not end well, otherwise 0.

    Raises:
      Unfinished: a signal asked to stop.
    """
    begun = time.monotonic()
    for number, run in enumerate(left):
        print(f"run {number + 1} of {len(left)}: {run.directory} ({run.state()})", flush=True)
        status = train(run)
        if status == Status.UNFINISHED:
            raise Unfinished(f"stopped in {run.directory}")
        if status:
            say = f"the run of {run.directory} ended with exit status {status}; see above"
            print(f"error: {say}", file=sys.stderr)
            return status
        # After every run, so that there is something to look at.
        write_results(ablation, runs)
        rest = (time.monotonic() - begun) / (number + 1) * (len(left) - number - 1)
        if rest:
            directory = pathlib.Path(ablation.directory)
            print(
                f"{directory / 'table.md'} is new; about {format_duration(rest)} left", flush=True
            )
    return Status.DONE
