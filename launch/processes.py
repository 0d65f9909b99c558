"""Processes of one machine: started together, stopped together, started again together.

`restart.py` watches one process on each of several machines, `local.py` and `gpu_node.py` several
on one. What a process's exit status means is in `commands`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from commands import AGAIN, CHECKOUT, DONE, SETTINGS_MISTAKE

# Seconds that the others get after one has ended in failure; a lost host is noticed in 30.
PATIENCE = 90
PAUSE = 10


@dataclasses.dataclass(frozen=True)
class Process:
    """One process.

    Attributes:
      words: program and arguments.
      environment: variables that are added.
      label: put before its lines; "" leaves them as they are.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label: str = ""

    def show(self) -> str:
        """The command as a shell takes it."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return shlex.join([*(["env", *variables] if variables else []), *self.words])


class _Running:
    """A started process; a thread copies its output."""

    def __init__(self, process: Process) -> None:
        self._label = f"[{process.label}] ".encode() if process.label else b""
        # A session of its own: a signal to a whole process group (Ctrl-C, SLURM) would otherwise
        # come twice, and the second one ends a run at once.
        self.child = subprocess.Popen(
            process.words,
            cwd=CHECKOUT,
            env={**os.environ, **process.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._copier = threading.Thread(target=self._copy, daemon=True)
        self._copier.start()

    def _copy(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            # Without a reader, after a lost connection, the process must still not wait for one.
            with contextlib.suppress(OSError):
                sys.stdout.buffer.write(self._label + line)
                sys.stdout.buffer.flush()

    def status(self) -> int | None:
        """Exit status, negative for a signal that ended it; None while it runs."""
        status = self.child.poll()
        if status is not None:
            self._copier.join(timeout=5)
        return status


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run_once(processes: Sequence[Process], asked: Sequence[int]) -> int:
    """Runs processes until all have ended.

    Args:
      processes: started together. Where one fails, the others get `PATIENCE` seconds to notice.
      asked: signals that came so far; new ones are handed on.

    Returns:
      0 where all finished, `SETTINGS_MISTAKE` where one says so, otherwise a status that is not 0.
    """
    running = [_Running(process) for process in processes]
    handed_on, failed_at = 0, None
    try:
        while any(one.status() is None for one in running):
            if len(asked) > handed_on:
                _send(running, asked[handed_on])
                handed_on += 1
            failed = any(one.status() not in (None, 0) for one in running)
            if failed and failed_at is None:
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() > failed_at + PATIENCE:
                _send(running, signal.SIGKILL)
            time.sleep(0.1)
    finally:
        _send(running, signal.SIGKILL)
    statuses = [one.status() or 0 for one in running]
    if SETTINGS_MISTAKE in statuses:
        return SETTINGS_MISTAKE
    return next((status for status in statuses if status), 0)


def _send(running: Sequence[_Running], number: int) -> None:
    for one in running:
        if one.child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.child.pid, number)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list."""
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def supervise(processes: Sequence[Process], max_restarts: int, pause: float = PAUSE) -> int:
    """Runs processes, and all of them again where the same command would go on.

    Args:
      processes: of the run.
      max_restarts: how often.
      pause: seconds before a restart.

    Returns:
      0 for a finished run, 2 for a mistake in the settings, `AGAIN` where the same command would
      go on (a signal asked to stop, or no restart is left).
    """
    with _signals() as asked:
        for restart in range(max_restarts + 1):
            status = run_once(processes, asked)
            if status in (DONE, SETTINGS_MISTAKE):
                return status
            if asked or restart == max_restarts:
                break
            print(
                f"exit status {status}; restart {restart + 1} of {max_restarts} in {pause:g} s",
                flush=True,
            )
            deadline = time.monotonic() + pause
            while time.monotonic() < deadline and not asked:
                time.sleep(0.1)
            if asked:
                break
    print(f"exit status {status}; the same command goes on", flush=True)
    return AGAIN
