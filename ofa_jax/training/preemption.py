"""Asks the loop to stop when the machine is about to go away.

Cluster managers send SIGTERM some seconds before they take a machine; Ctrl-C sends SIGINT. The
first signal sets a flag that is read after every step and batch of an evaluation.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)


class PreemptionHandler:
    """Context manager that turns the first signal into a flag and the second into an exit.

    Attributes:
      requested: whether a signal came.

    The old handlers come back on exit. In a thread other than the main one, where Python allows
    no handlers, nothing is installed and `requested` stays False.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        """Remembers which signals to catch.

        Args:
          signals: caught while the context is open.
        """
        self.requested = False
        self._signals = tuple(signals)
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> PreemptionHandler:
        if threading.current_thread() is not threading.main_thread():
            logger.warning("no preemption handler: signals reach the main thread only")
            return self
        for number in self._signals:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        name = signal.Signals(number).name
        if self.requested:
            raise KeyboardInterrupt(f"second signal ({name})")
        self.requested = True
        logger.warning("%s: stopping at the next step or batch; another signal stops at once", name)
