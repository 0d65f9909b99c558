"""From a command line to a configured entry point, with one-line errors.

What a user can get wrong is reported as one line and exit status 2; everything else keeps its
traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ofa_jax.cli.gin_files import MacroType

REQUIRED_MACROS = (
    "MIXTURE_OR_TASK_NAME",
    "TASK_FEATURE_LENGTHS",
    "TRAIN_STEPS",
    "BATCH_SIZE",
    "MODEL_DIR",
)

logger = logging.getLogger("ofa_jax")


@contextlib.contextmanager
def _quiet_native_stderr() -> Iterator[None]:
    """Sends what C++ libraries print to file descriptor 2 nowhere."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def set_up_process() -> None:
    """Logging, quiet libraries, a compilation cache: once, before JAX and TensorFlow load."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    # orbax and grain report on themselves through absl; what a user must know, ofa_jax says.
    logging.getLogger("absl").setLevel(logging.ERROR)
    import jax

    with _quiet_native_stderr():
        import tensorflow  # noqa: F401  (its C++ start-up chatter says nothing to a user)

    cache = os.environ.get(
        "JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/ofa_jax/compiled")
    )
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 2.0)


def _macro_types() -> dict[str, MacroType]:
    from ofa_jax.cli.gin_files import MacroType, number, text, whole_number

    return {
        "MIXTURE_OR_TASK_NAME": text("scenes_quickstart"),
        "TASK_FEATURE_LENGTHS": MacroType(
            "a dictionary such as {'inputs': 28, 'targets': 20, 'image': 32}",
            lambda value: isinstance(value, dict),
        ),
        "TRAIN_STEPS": whole_number(1),
        "WARMUP_STEPS": whole_number(0),
        "EVAL_PERIOD": whole_number(0),
        "BATCH_SIZE": whole_number(1),
        "SEED": whole_number(0),
        "LEARNING_RATE": number(0),
        "DROPOUT_RATE": number(0),
        "MODEL_DIR": text("runs/mine"),
    }


def run_train(arguments: Sequence[str]) -> int:
    """Parses gin files and overrides, then calls `train_script.train`.

    Args:
      arguments: `--gin_file=FILE` (repeatable) and `--gin.NAME=VALUE`.

    Returns:
      Exit status: 0, or 2 for a mistake in the settings.
    """
    from ofa_jax.cli import gin_files

    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.train",
        description="Trains a mixture of OFA tasks from gin files.",
        epilog="Any gin binding can be given as --gin.NAME=VALUE, for example "
        "--gin.TRAIN_STEPS=100 or --gin.MODEL_DIR='\"runs/mine\"'.",
    )
    parser.add_argument("--gin_file", action="append", required=True, help="may be repeated")
    parser.add_argument("--print_config", action="store_true", help="print the settings and stop")
    others, bindings = gin_files.split_overrides(arguments)
    options = parser.parse_args(others)
    set_up_process()
    from ofa_jax.cli import bindings as names
    from ofa_jax.runs.hosts import initialize_distributed
    from ofa_jax.runs.story import train

    def run() -> None:
        configurables = names.register(train)
        gin_files.parse(
            options.gin_file,
            bindings,
            names.registered(train),
            required=REQUIRED_MACROS,
            types=_macro_types(),
        )
        if options.print_config:
            print(gin_files.resolved())
            return
        initialize_distributed()
        configurables["train_script.train"](config_text=gin_files.resolved())

    return _status(run)


def run_plan(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Parses gin files and overrides as training does, then plans instead.

    Args:
      options: of `python -m ofa_jax.plan`.
      overrides: `--gin.NAME=VALUE`.

    Returns:
      Exit status: 0, or 2 for a mistake in the settings.
    """
    from ofa_jax.cli import gin_files

    _, bindings = gin_files.split_overrides(overrides)
    # What a plan does not depend on need not be given.
    bindings = ["MODEL_DIR = 'planned'", "TRAIN_STEPS = 1_000_000", *bindings]
    for name in ("mesh", "dcn_mesh"):
        if getattr(options, name) is not None:
            bindings.append(f"partitioning.Partitioner.{name} = {getattr(options, name)!r}")
    set_up_process()
    from ofa_jax.cli import bindings as names
    from ofa_jax.runs import plan

    def run() -> None:
        plan.check_options(options)
        found: list[plan.Plan] = []
        planner = plan.planner(options, found)
        configurables = names.register(planner)
        gin_files.parse(
            options.gin_file,
            bindings,
            names.registered(planner),
            required=REQUIRED_MACROS,
            types=_macro_types(),
        )
        configurables["train_script.train"]()
        print(plan.describe(found[0], options.chip, options.efficiency))
        if options.json:
            plan.write_json(found[0], options.json)

    return _status(run)


def _status(run: Callable[[], None]) -> int:
    """Exit status of a command: 0, or 2 with one line on stderr for a mistake in the settings."""
    from ofa_jax.checkpoint.errors import CheckpointError
    from ofa_jax.training.loop import NonFiniteLossError

    try:
        run()
    except (ValueError, TypeError, OSError, CheckpointError, NonFiniteLossError) as error:
        # gin appends where in the configuration it was; the first line is the message.
        message = str(error).strip().splitlines()[0]
        if isinstance(error, TypeError):
            # A setting of the wrong type fails where its dataclass is made; elsewhere it is a bug.
            place = re.search(r"In call to configurable '(\w+)'", str(error))
            if not place or place.group(1) == "train":
                raise
            message = f"{place.group(1)}: a value has the wrong type ({message})"
        if os.environ.get("OFA_TRACEBACK"):
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0
