"""From a command line to training or its plan, configured by gin."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from ofa_jax import extras
from ofa_jax.cli import shell
from ofa_jax.schema import Between

# Read before the files of the command line: what the scripts are given, by macros and parts.
TRAIN_FILE = "gin_configs/native/train.gin"
REQUIRED_MACROS = (
    "MIXTURE_OR_TASK_NAME",
    "TASK_FEATURE_LENGTHS",
    "TRAIN_STEPS",
    "BATCH_SIZE",
    "MODEL_DIR",
)


def macro_types() -> dict[str, Any]:
    """Annotations of macros (`ofa_jax.schema`)."""
    from ofa_jax.runs.settings import BatchSize, Length, Seed, Steps

    name = Annotated[str, Between(1, 4096)]
    return {
        "MIXTURE_OR_TASK_NAME": name,
        "MODEL_DIR": name,
        "TASK_FEATURE_LENGTHS": Mapping[str, Length] | None,
        "TRAIN_STEPS": Annotated[int, Between(1, 10**9)],
        "BATCH_SIZE": BatchSize,
        "WARMUP_STEPS": Steps,
        "EVAL_PERIOD": Steps,
        "CHECKPOINT_PERIOD": Steps,
        "STATS_PERIOD": Annotated[int, Between(1, 10**9)],
        "KEEP_CHECKPOINTS": Annotated[int, Between(1, 10**6)],
        "BEST_METRIC": str,
        "SAVE_TRAINED": bool,
        "INITIAL_CHECKPOINT_PATH": str | None,
        "MIXTURE_OR_TASK_MODULE": str | Sequence[str],
        **dict.fromkeys(("DATA_DIR", "INFER_OUTPUT_DIR", "CHECKPOINT_PATH"), str),
        **dict.fromkeys(("VOCAB_DIR", "EVAL_OUTPUT_DIR", "INSTRUCTION"), str | None),
        "RANDOM_SEED": Seed,
        "LEARNING_RATE": Annotated[float, Between(0, 1000)],
        "DROPOUT_RATE": Annotated[float, Between(0, 1)],
    }


def _configured(
    train: Callable[..., Any], files: Sequence[str], overrides: Sequence[str]
) -> Callable[..., Any]:
    """`train_script.train` with the settings of gin files and overrides."""
    from ofa_jax.cli import bindings, gin_files

    made, known = bindings.register(train), bindings.registered(train)
    files, types = (TRAIN_FILE, *files), macro_types()
    gin_files.parse(files, overrides, known, required=REQUIRED_MACROS, types=types)
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
            # Before JAX starts its threads: memory that a thread has of its own stays as it is.
            keep_freed_memory()
        from ofa_jax.runs.hosts import initialize_distributed
        from ofa_jax.runs.story import train

        configured = _configured(train, options.gin_file, bindings)
        if options.print_config:
            print(gin_files.resolved())
            return
        initialize_distributed()
        configured(config_text=gin_files.resolved())

    return shell.run(run)


def run_plan(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Parses gin files and overrides as training does, then plans instead.

    Args:
      options: of `python -m ofa_jax.plan`.
      overrides: gin bindings `NAME = VALUE`.
    """
    shell.set_up_process()
    from ofa_jax.runs import plan

    # What a plan does not depend on need not be given.
    bindings = ["MODEL_DIR = 'planned'", "TRAIN_STEPS = 1_000_000", *overrides]
    for name in ("mesh", "dcn_mesh"):
        if getattr(options, name) is not None:
            bindings.append(f"partitioning.Partitioner.{name} = {getattr(options, name)!r}")
    plan.check_options(options)
    found: list[plan.StepPlan] = []
    planner = plan.planner(options, found)
    _configured(planner, options.gin_file, bindings)()
    plan.report(found[0], options)
