"""From the command line of an ablation to its runs and its table."""

from __future__ import annotations

import argparse
import os
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
from ofa_jax.cli import gin_files
from ofa_jax.report.labels import format_duration


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
      Exit status: 0, or 2 for a mistake in the settings or a run that failed.
    """
    others, overrides = gin_files.split_overrides(arguments)
    options = parser().parse_args(others)
    try:
        ablation = read_settings(options.gin_file, overrides)
        _carry_out(ablation, options)
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("OFA_TRACEBACK"):
            raise
        print(f"error: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


def _carry_out(ablation: Ablation, options: argparse.Namespace) -> None:
    runs = plan(ablation)
    left = [run for run in runs if run.state() != "finished"]
    launcher = shlex.split(options.launcher)
    if options.print_commands:
        for run in left:
            print(shell_line(run, launcher))
        return
    say = f"{len(runs) - len(left)} of {len(runs)} runs are finished"
    print(f"{ablation.title}: {say}", flush=True)
    if options.table_only:
        left = []
    if launcher:
        _submit(left, launcher)
    elif not _train_all(ablation, runs, left):
        return
    if (path := write_results(ablation, runs)) is not None:
        print(path.read_text(encoding="utf-8"))
        print(f"table: {path}, chart: {path.with_name('chart.png')}")


def _submit(left: Sequence[Run], launcher: Sequence[str]) -> None:
    for run in left:
        run.remember_settings()
        print(f"+ {shell_line(run, launcher)}", flush=True)
        status = subprocess.run(run.command(launcher), check=False).returncode
        if status:
            raise ValueError(f"the launcher ended with exit status {status}")


def _train_all(ablation: Ablation, runs: Sequence[Run], left: Sequence[Run]) -> bool:
    """Trains one run after the other; False where a signal stopped it."""
    started = time.monotonic()
    for number, run in enumerate(left):
        print(f"run {number + 1} of {len(left)}: {run.folder} ({run.state()})", flush=True)
        if not train(run):
            print("stopped; give the same command again to go on", flush=True)
            return False
        # After every run, so that there is something to look at.
        write_results(ablation, runs)
        rest = (time.monotonic() - started) / (number + 1) * (len(left) - number - 1)
        if rest:
            folder = pathlib.Path(ablation.folder)
            print(f"{folder / 'table.md'} is new; about {format_duration(rest)} left", flush=True)
    return True
