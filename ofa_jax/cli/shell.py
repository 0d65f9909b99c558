"""Around every command: its process, and the exit status that it ends with.

The statuses are `ofa_jax.errors.Status`. A mistake in the settings, found before the work starts,
is one message, and so is a failure outside of the program; any other keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import re
import signal
import sys
import threading
import traceback
import typing
from collections.abc import Callable, Iterator
from types import FrameType

from ofa_jax import extras, schema
from ofa_jax.errors import OutsideFailure, Status, Unfinished, phases

logger = logging.getLogger("ofa_jax")

# What gin appends to a message: where in the configuration it was.
_GIN_PLACE = re.compile(r"\n\s*In call to configurable '")


def path(given: str) -> str:
    """A path of an option: `--out=~/x` comes past most shells, with its `~`."""
    return os.path.expanduser(given)


def whole(given: str) -> int:
    """A whole number of an option, in ASCII digits; Python's `int` would take "1_0"."""
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", given):
        raise argparse.ArgumentTypeError(f"{schema.shown(given)} is no whole number")
    return int(given)


def real(given: str) -> float:
    """A finite number of an option, in ASCII digits."""
    written = r"\s*[+-]?([0-9]{1,30}(\.[0-9]*)?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,2})?\s*"
    if not re.fullmatch(written, given):
        raise argparse.ArgumentTypeError(f"{schema.shown(given)} is no number")
    return float(given)


_READERS = {int: whole, float: real, str: str}


def add_settings(add: Callable[..., object], settings: type) -> None:
    """Gives a command line an option for each field of a settings class.

    Args:
      add: `add_argument` of a parser or group.
      settings: a dataclass whose docstring says what each field means.
    """
    about, types = schema.meanings(settings), typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        hint = types[field.name]
        text = f"{about[field.name]} Default: {field.default or 'none'}.".replace("%", "%%")
        how: dict[str, object] = {"default": field.default, "help": text}
        if hint is bool:
            how["action"] = "store_true"
        elif typing.get_origin(hint) is typing.Literal:
            how["choices"] = typing.get_args(hint)
        else:
            how["type"] = _READERS[next(iter(typing.get_args(hint)), hint)]
        add(f"--{field.name}", **how)


def run(command: Callable[[], int | None]) -> int:
    """Runs a command.

    Args:
      command: does everything after its arguments are parsed; returns a status, or None for done.
        It calls `ofa_jax.errors.started` where its checks are over and its work starts.

    Returns:
      Exit status, see `Status`; what went wrong is on stderr.
    """
    with phases() as phase, _sigterm_ends():
        try:
            return int(command() or Status.DONE)
        except (Unfinished, KeyboardInterrupt) as stop:
            reason = _message(stop) if isinstance(stop, Unfinished) else "stopped"
            print(f"{reason}; give the same command again to go on", file=sys.stderr)
            return Status.UNFINISHED
        except Exception as error:
            cause = _without_gin(error)
            lacking = extras.advice(cause) if isinstance(cause, ImportError) else None
            said = lacking or (None if phase.started else mistake(error))
            outside = isinstance(error, OutsideFailure)
            line = _message(error) if outside else said
            if line is None or os.environ.get("OFA_TRACEBACK"):
                traceback.print_exception(_without_gin(error))
            if line is not None:
                print(f"error: {line}", file=sys.stderr)
            return Status.FAILED if said is None else Status.SETTINGS


def mistake(error: Exception) -> str | None:
    """The message of what the user can mend, None for a bug."""
    from ofa_jax.checkpoint.errors import CheckpointError

    if isinstance(error, (ValueError, OSError, CheckpointError)):
        return _message(error) or type(error).__name__
    return None


def _message(error: BaseException) -> str:
    message = _GIN_PLACE.split(str(error), maxsplit=1)[0].strip()
    if "gin" in sys.modules:
        from ofa_jax.cli import gin_files

        # What gin_files itself says names settings already.
        return (
            message if isinstance(error, gin_files.ConfigError) else gin_files.with_macros(message)
        )
    return message


def _without_gin(error: BaseException) -> BaseException:
    """The exception that gin wrapped into one of the same name, which has lost its cause."""
    while (inner := error.__context__) is not None:
        raised, wrapped = type(error), type(inner)
        if raised.__bases__ != (wrapped,) or raised.__qualname__ != wrapped.__qualname__:
            break
        error = inner
    return error


@contextlib.contextmanager
def _sigterm_ends() -> Iterator[None]:
    """SIGTERM ends a command with the status that says so; training has a better way of its own.

    At once, as without a handler: an exception could be lost in a callback. What a command leaves
    is fit for a kill.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            sys.stdout.flush()
        os.write(2, b"SIGTERM; give the same command again to go on\n")
        os._exit(Status.UNFINISHED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        # None where a library set it from C.
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def set_up_log() -> None:
    """What the library says goes to stderr with the time of day."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logger.setLevel(logging.INFO)


def set_up_process() -> None:
    """Log, quiet libraries, a compilation cache: once, before JAX loads."""
    set_up_log()
    # orbax and grain report on themselves through absl; what a user must know, ofa_jax says.
    logging.getLogger("absl").setLevel(logging.ERROR)
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = os.path.expanduser("~/.cache/ofa_jax/compiled")
        jax.config.update("jax_compilation_cache_dir", cache)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 2.0)
