"""From the command line of an ablation to its runs and its table."""

from __future__ import annotations

import argparse
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import cast

import gin

from ofa_jax.ablation.results import write_results
from ofa_jax.ablation.runs import Run, plan, shell_line, train
from ofa_jax.ablation.settings import Ablation
from ofa_jax.cli import engines, gin_files, shell
from ofa_jax.errors import Status, Unfinished, started
from ofa_jax.progress import format_duration


def parser() -> argparse.ArgumentParser:
    """The command line; `--gin.NAME=VALUE` is taken out before."""
    result = argparse.ArgumentParser(
        prog="python -m ofa_jax.ablate",
        description="Trains changed mixtures over equal seeds and steps, and compares them.",
        epilog="--gin.ablation.Ablation.FIELD=VALUE changes the ablation, for example "
        "--gin.ablation.Ablation.seeds='(0,)'.",
    )
    result.add_argument("--gin_file", action="append", required=True, help="may be repeated")
    result.add_argument(
        "--engine", choices=("native", "t5x"), default="native", help="what trains every run"
    )
    result.add_argument(
        "--print_commands", action="store_true", help="print what is left to run, and stop"
    )
    result.add_argument(
        "--launcher",
        default="",
        help="submit every run with this instead of training here, for example "
        "'python launch/slurm.py --gpus_per_node=1'; with --print_commands, print that",
    )
    result.add_argument(
        "--table_only", action="store_true", help="compare what is finished, run nothing"
    )
    return result


def read_settings(files: Sequence[str], overrides: Sequence[str]) -> Ablation:
    """The ablation of gin files.

    Args:
      files: gin files.
      overrides: lines such as `ablation.Ablation.steps = 100`.

    Raises:
      ValueError: a name or value that cannot work; its first line is the message.
    """
    gin.clear_config()
    make = gin.external_configurable(Ablation, "Ablation", module="ablation")
    gin_files.parse(files, overrides, {"ablation.Ablation": Ablation})
    return cast(Ablation, make())


def run_ablate(arguments: Sequence[str]) -> int:
    """Runs, prints or compares an ablation.

    Args:
      arguments: command line without the program's name.

    Returns:
      Exit status, see `shell.run`; that of the run or the launcher which did not end well.
    """
    others, overrides = gin_files.split_overrides(arguments)
    options = parser().parse_args(others)
    return shell.run(lambda: _carry_out(read_settings(options.gin_file, overrides), options))


def _carry_out(ablation: Ablation, options: argparse.Namespace) -> int:
    engines.check_files(ablation.gin_files, options.engine)
    runs = plan(ablation, options.engine)
    left = [run for run in runs if run.state() != "finished"]
    launcher = shlex.split(options.launcher)
    if options.print_commands:
        for run in left:
            print(shell_line(run, launcher))
        return Status.DONE
    say = f"{len(runs) - len(left)} of {len(runs)} runs are finished"
    print(f"{ablation.title}: {say}", flush=True)
    started()
    if options.table_only:
        left = []
    if status := _submit(left, launcher) if launcher else _train_all(ablation, runs, left):
        return status
    if (path := write_results(ablation, runs)) is not None:
        print(path.read_text(encoding="utf-8"))
        print(f"table: {path}, chart: {path.with_name('chart.png')}")
    return Status.DONE


def _submit(left: Sequence[Run], launcher: Sequence[str]) -> int:
    for run in left:
        run.remember_settings()
        print(f"+ {shell_line(run, launcher)}", flush=True)
        if status := subprocess.run(run.command(launcher), check=False).returncode:
            print(f"error: the launcher ended with exit status {status}", file=sys.stderr)
            return max(status, Status.FAILED)
    return Status.DONE


def _train_all(ablation: Ablation, runs: Sequence[Run], left: Sequence[Run]) -> int:
    """Trains one run after the other, until one does not end well."""
    begun = time.monotonic()
    for number, run in enumerate(left):
        print(f"run {number + 1} of {len(left)}: {run.folder} ({run.state()})", flush=True)
        status = train(run)
        if status == Status.UNFINISHED:
            raise Unfinished(f"stopped in {run.folder}")
        if status:
            say = f"the run of {run.folder} ended with exit status {status}; see above"
            print(f"error: {say}", file=sys.stderr)
            return status
        # After every run, so that there is something to look at.
        write_results(ablation, runs)
        rest = (time.monotonic() - begun) / (number + 1) * (len(left) - number - 1)
        if rest:
            folder = pathlib.Path(ablation.folder)
            print(f"{folder / 'table.md'} is new; about {format_duration(rest)} left", flush=True)
    return Status.DONE
