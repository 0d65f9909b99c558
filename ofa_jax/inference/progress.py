"""How far a stream of predictions is: a bar on a terminal, a line per interval in a log."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

from ofa_jax.report.labels import format_duration

logger = logging.getLogger("ofa_jax")

_INTERVAL = 30.0


class StreamProgress:
    """Called with (done, total) after every batch; the first call says what was there before."""

    def __init__(self, label: str, unit: str = "examples") -> None:
        """Shows nothing yet.

        Args:
          label: what is predicted.
          unit: what is counted.
        """
        self._label, self._unit = label, unit
        self._started = self._said = time.monotonic()
        self._first: int | None = None
        self._bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        """Shows how far it is.

        Args:
          done: finished, those of earlier starts included.
          total: all.
        """
        if self._first is None:
            self._first, self._started = done, time.monotonic()
            if sys.stderr.isatty():
                self._bar = tqdm(total=total, initial=done, desc=self._label, unit=self._unit)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._bar.close()
        elif done >= total or now - self._said >= _INTERVAL:
            self._said = now
            rate = (done - self._first) / max(now - self._started, 1e-9)
            left = ""
            if rate and done < total:
                left = f", ETA {format_duration((total - done) / rate)}"
            logger.info("%s: %d of %d %s%s", self._label, done, total, self._unit, left)
