"""From a command line to training, configured by gin."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from ofa_jax import extras
from ofa_jax.cli import shell

# Read before the files of the command line: what the scripts are given, by macros and parts.
TRAIN_FILE = "gin_configs/native/train.gin"
REQUIRED_MACROS = (
    "MIXTURE_OR_TASK_NAME",
    "TASK_FEATURE_LENGTHS",
    "TRAIN_STEPS",
    "BATCH_SIZE",
    "MODEL_DIR",
)


def configured(
    train: Callable[..., object], files: Sequence[str], overrides: Sequence[str]
) -> Callable[..., object]:
    """`train_script.train` with the settings of gin files and overrides."""
    from ofa_jax.cli import bindings, gin_files
    from ofa_jax.runs.settings import MACROS

    made, known = bindings.register(train), bindings.registered(train)
    files = (TRAIN_FILE, *files)
    gin_files.parse(files, overrides, known, required=REQUIRED_MACROS, types=MACROS)
    return made["train_script.train"]


def run_train(arguments: Sequence[str]) -> int:
    """Parses gin files and overrides, then calls `train_script.train`.

    Args:
      arguments: `--gin_file=FILE` (repeatable) and `--gin.NAME=VALUE`.

    Returns:
      Exit status, see `shell.run`.
    """
    from ofa_jax.cli import gin_files

    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.train",
        description="Trains a mixture of OFA tasks from gin files.",
        epilog="Any gin binding can be given as --gin.NAME=VALUE, for example "
        "--gin.TRAIN_STEPS=100 or --gin.MODEL_DIR=runs/mine.",
    )
    parser.add_argument("--gin_file", action="append", required=True, help="may be repeated")
    parser.add_argument("--print_config", action="store_true", help="print the settings and stop")
    others, bindings = gin_files.split_overrides(arguments)
    options = parser.parse_args(others)

    def run() -> None:
        extras.require_training()
        gin_files.check_task((TRAIN_FILE, *options.gin_file), bindings)
        shell.set_up_process()
        from ofa_jax.ops.host_memory import keep_freed_memory, only_cpu

        if only_cpu():
            keep_freed_memory()
        from ofa_jax.runs.hosts import initialize_distributed
        from ofa_jax.runs.story import train

        command = configured(train, options.gin_file, bindings)
        if options.print_config:
            print(gin_files.resolved())
            return
        initialize_distributed()
        command(config_text=gin_files.resolved())

    return shell.run(run)
