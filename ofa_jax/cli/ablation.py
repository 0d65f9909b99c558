"""From the command line of an ablation to its runs and its table."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import cast

import gin

from ofa_jax.ablation.runs import plan
from ofa_jax.ablation.settings import Ablation
from ofa_jax.cli import engines, gin_files, shell


def parser() -> argparse.ArgumentParser:
    """The command line; `--gin.NAME=VALUE` is taken out before."""
    result = argparse.ArgumentParser(
        prog="python -m ofa_jax.ablate",
        description="Trains changed mixtures over equal seeds and steps, and compares them.",
        epilog="--gin.ablation.Ablation.FIELD=VALUE changes the ablation, for example "
        "--gin.ablation.Ablation.seeds='(0,)'.",
    )
    add = result.add_argument
    add("--gin_file", action="append", required=True, help="may be repeated")
    add("--engine", choices=("native", "t5x"), default="native", help="what trains every run")
    add("--print_commands", action="store_true", help="print what is left to run, and stop")
    about = "submit every run with this instead of training here, for example "
    about += "'python launch/slurm.py --gpus_per_node=1'; with --print_commands, print that"
    add("--launcher", default="", help=about)
    add("--table_only", action="store_true", help="compare what is finished, run nothing")
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

    def run() -> int:
        ablation = read_settings(options.gin_file, overrides)
        engines.check_files(ablation.gin_files, options.engine)
        # Here, so that an extra that is not installed is one line.
        from ofa_jax.ablation.execution import carry_out

        return carry_out(
            ablation,
            plan(ablation, options.engine),
            launcher=shlex.split(options.launcher),
            print_commands=options.print_commands,
            table_only=options.table_only,
        )

    return shell.run(run)
