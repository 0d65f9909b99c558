"""How far long work is: a bar on a terminal, a line per interval in a log, both with ETA."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

logger = logging.getLogger("ofa_jax")


def format_duration(seconds: float) -> str:
    """Seconds as "48 s", "12 min 30 s", "3 h 05 min"."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


class Progress:
    """One piece of long work; the first update says what earlier starts of it did.

    Attributes:
      rate: units per second of this start so far.
    """

    def __init__(
        self,
        label: str = "",
        total: int = 0,
        *,
        unit: str = "example",
        interval: float = 30.0,
        shown: bool = True,
    ) -> None:
        """Shows nothing yet.

        Args:
          label: what is done.
          total: units of all of it; 0 where the first update says so.
          unit: what is counted, in the singular.
          interval: seconds between the lines of a log; 0 logs every update.
          shown: False on hosts that show nothing.
        """
        self.rate = 0.0
        self._label, self._total, self._unit = label, total, unit
        self._interval, self._shown = interval, shown
        self._first: int | None = None
        self._started = self._said = time.monotonic()
        self._bar: tqdm | None = None

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None:
        """Shows how far it is.

        Args:
          done: finished units, those of earlier starts included.
          note: what else there is to say.
          total: units of all of it, where that was not known before.
        """
        self._total = self._total if total is None else total
        now = time.monotonic()
        if self._first is None:
            self._first, self._started, self._said = done, now, now
            if self._shown and sys.stderr.isatty():
                self._bar = tqdm(
                    total=self._total,
                    initial=done,
                    desc=self._label,
                    unit=self._unit,
                    smoothing=0.1,
                )
            elif self._shown and 0 < done < self._total:
                logger.info("%s: going on after %d %ss", self._label, done, self._unit)
        self.rate = (done - self._first) / max(now - self._started, 1e-9)
        complete = done >= self._total
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
            if complete:
                self.close()
        elif self._shown and (complete or (now - self._said >= self._interval and self.rate)):
            self._said = now
            parts = [f"{self._label}: {done}/{self._total} {self._unit}s", note]
            if self.rate:
                parts.append(f"{self.rate:.3g} {self._unit}s/s")
                left = (self._total - done) / self.rate
                parts += [] if complete else [f"ETA {format_duration(left)}"]
            logger.info("%s", ", ".join(filter(None, parts)))

    def close(self) -> None:
        """Leaves the bar on the terminal as it is."""
        if self._bar is not None:
            self._bar.close()
