"""Around t5x's scripts: what the native command line does before a run and after a failure.

t5x's scripts know nothing of us but their gin files, which import this package while they are
parsed. From there on, gin's last step checks the whole configuration and joins the processes of
the run, and a mistake ends in one line.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import TracebackType
from typing import Any

import gin
import jax
import t5x  # pyrefly: ignore[missing-import]

from ofa_jax.cli import bindings, gin_files, shell
from ofa_jax.errors import Phase, Status, phases
from ofa_jax.runs.hosts import end_if_lost, initialize_distributed
from ofa_jax.runs.settings import MACROS

_DIRECTORY = os.path.realpath(os.path.dirname(t5x.__file__))
_context = contextlib.ExitStack()


def is_running() -> bool:
    """Whether this process is one of t5x's scripts, as a file or with `python -m`."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return bool(file) and os.path.dirname(os.path.realpath(file)) == _DIRECTORY


def set_up() -> None:
    """Once, when the package is imported; does nothing outside of t5x's scripts."""
    if not is_running():
        return
    # `python t5x/train.py` puts t5x's own directory first on the path, where its tasks.py would be
    # found in place of our package of task declarations.
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != _DIRECTORY]
    phase = _context.enter_context(phases())
    sys.excepthook = _reporter(phase, sys.excepthook)
    gin.config.register_finalize_hook(_finish)
    name_parts()


def name_parts() -> None:
    """Makes gin know what files of both engines bind, under the names that both have for it."""
    bindings.register_all(bindings.SHARED)


def check() -> None:
    """Checks what gin has parsed, as the native command line does.

    Raises:
      ConfigError: a macro or scope that nothing uses, or a macro without value or of another type.
    """
    gin_files.check(types=MACROS, t5x=True)


def explain(error: Exception) -> str | None:
    """The one line that says what to mend; None where this is no mistake in the settings."""
    return gin_files.explain_t5x(error) or shell.mistake(error)


def _finish(config: Any) -> None:
    """Checks all settings, then joins the other processes, before anything is made of settings."""
    check()
    if not jax.distributed.is_initialized():
        initialize_distributed()
    if model_dir := _model_dir(config):
        from ofa_jax.t5x import run_files

        # Before t5x looks for checkpoints there, and clears away those that are half written.
        run_files.hold(model_dir)


def _model_dir(config: Any) -> str | None:
    """Where a training run writes; None of other scripts."""
    for (_, selector), bound in config.items():
        if selector.rpartition(".")[2] == "train" and "model_dir" in bound:
            value = bound["model_dir"]
            if isinstance(value, gin.config.ConfigurableReference) and value.scopes:
                value = gin.query_parameter(f"%{value.scopes[-1]}")
            return value if isinstance(value, str) else None
    return None


def _reporter(phase: Phase, show: Any) -> Any:
    def report(cls: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        end_if_lost(error)
        line = None
        if isinstance(error, Exception) and not phase.started:
            line = explain(error)
        if line is None or os.environ.get("OFA_TRACEBACK"):
            show(cls, error, trace)
        if line is not None:
            print(f"error: {line}", file=sys.stderr, flush=True)
            # Launchers do not give a command with a mistake again.
            raise SystemExit(Status.SETTINGS)

    return report
