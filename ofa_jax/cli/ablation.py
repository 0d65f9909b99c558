"""From the command line of an ablation to its runs and its table."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import cast

import gin

from ofa_jax.ablation.execution import submit, train_all
from ofa_jax.ablation.results import write_results
from ofa_jax.ablation.runs import plan, shell_line
from ofa_jax.ablation.settings import Ablation
from ofa_jax.cli import engines, gin_files, shell
from ofa_jax.errors import Status, started


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
    if status := submit(left, launcher) if launcher else train_all(ablation, runs, left):
        return status
    if (path := write_results(ablation, runs)) is not None:
        print(path.read_text(encoding="utf-8"))
        print(f"table: {path}, chart: {path.with_name('chart.png')}")
    return Status.DONE
