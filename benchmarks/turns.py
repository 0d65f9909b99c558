"""Settings that are compared run in turns, so that ratios hold on a machine that others use too."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

WARM_UP = 1


class Ratio(NamedTuple):
    """One setting's time over another's, by round."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, times: list[float], base: list[float]) -> Ratio:
        """Compares what ran in the same rounds."""
        ratios = [a / b for a, b in zip(times, base, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f}-{self.highest:.2f})"


@dataclasses.dataclass
class Measured:
    """Seconds of one setting, per round.

    Attributes:
      call: what is measured; its result is waited for. A float is taken as the seconds that it took
        in another process.
      clock: by the clock.
      processor: of all threads.
    """

    call: Callable[[], object]
    clock: list[float] = dataclasses.field(default_factory=list)
    processor: list[float] = dataclasses.field(default_factory=list)

    def run(self, counts: bool) -> None:
        """Calls once."""
        clock, processor = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(self.call())
        seconds = result if isinstance(result, float) else time.perf_counter() - clock
        if counts:
            self.clock.append(seconds)
            self.processor.append(time.process_time() - processor)

    @property
    def median(self) -> float:
        """Seconds by the clock."""
        return statistics.median(self.clock)

    def over(self, base: Measured) -> Ratio:
        """This setting's clock over another's."""
        return Ratio.of(self.clock, base.clock)


def in_turns(settings: Mapping[str, Measured], rounds: int, warm_up: int = WARM_UP) -> None:
    """Every setting once per round, each round beginning with another one.

    What runs behind others finds their data in the caches. Rounds of warm-up do not count.
    """
    waiting = list(settings.values())
    for number in range(warm_up + rounds):
        for setting in waiting:
            setting.run(number >= warm_up)
        waiting = waiting[1:] + waiting[:1]


def report(
    title: str, settings: Mapping[str, Measured], base: str, results: dict[str, Any]
) -> None:
    """Prints medians and ratios, and adds them to the results."""
    print(
        f"\n{title:34s}{'ms, clock':>12s}{'ms, processor':>15s}{'ratio':>18s}{'of processor':>18s}"
    )
    for name, measured in settings.items():
        clock, processor = map(statistics.median, (measured.clock, measured.processor))
        ratios = (
            measured.over(settings[base]),
            Ratio.of(measured.processor, settings[base].processor),
        )
        print(
            f"{name:34s}{1e3 * clock:12.1f}{1e3 * processor:15.1f}"
            f"{ratios[0]!s:>18s}{ratios[1]!s:>18s}",
            flush=True,
        )
        results[f"{title}: {name}"] = {
            "clock_seconds": clock,
            "processor_seconds": processor,
            "clock_ratio": ratios[0],
            "processor_ratio": ratios[1],
        }
