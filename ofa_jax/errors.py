"""When something goes wrong: before a command's work or during it, and how the command ends.

Every room may use this; it imports nothing of them. `ofa_jax.cli.shell` makes the statuses.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
from collections.abc import Iterator


class Status(enum.IntEnum):
    """How a command ends, for launchers and schedulers; the table is in docs/running.md.

    Attributes:
      DONE: finished.
      FAILED: a failure while it worked; the same command may succeed, and goes on where it can.
      SETTINGS: a mistake in the settings or inputs; the same command fails again.
      UNFINISHED: stopped early; the same command goes on.
    """

    DONE = 0
    FAILED = 1
    SETTINGS = 2
    UNFINISHED = 75  # EX_TEMPFAIL of sysexits.h


class SettingsError(ValueError):
    """A setting or an input that cannot work, found before the work starts; the message helps."""


class OutsideFailure(RuntimeError):
    """Something outside of the program failed during the work; the message is all there is to say.

    A traceback would show where the program noticed, which helps nobody.
    """


class Unfinished(Exception):
    """The work was asked to stop and did, so that the same command goes on; no failure."""


class Phase:
    """Where a command is.

    Attributes:
      started: whether its work has started.
    """

    started = False


_phase: contextvars.ContextVar[Phase | None] = contextvars.ContextVar("phase", default=None)


@contextlib.contextmanager
def phases() -> Iterator[Phase]:
    """A command begins: what is raised is a mistake in its settings until `started` is called."""
    phase = Phase()
    token = _phase.set(phase)
    try:
        yield phase
    finally:
        _phase.reset(token)


def started() -> None:
    """Says that everything is checked and the work starts; what is raised now is a failure.

    Outside of a command it does nothing.
    """
    if (phase := _phase.get()) is not None:
        phase.started = True
