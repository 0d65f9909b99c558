"""How much of a run's time made progress, over all its restarts.

Every session (one start of the command) has an entry in `goodput.json`: when it ran, which steps it
took, and how its seconds were spent. Steps that a later session had to repeat, because they came
after the last checkpoint, are counted as lost. Time between sessions is down time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping

from ofa_jax.atomic import JsonObject, parsed, set_aside

PRODUCTIVE = "step"


@dataclasses.dataclass(frozen=True)
class Goodput:
    """Where the wall-clock time of a run went, in seconds.

    Attributes:
      wall: from the first start to the last entry.
      productive: steps that count.
      lost: steps that were done again after a restart.
      down: between sessions.
      parts: everything else by name (start, compile, data, evaluate, save, ...); what no timer
        has measured is "other".
      sessions: starts of the command.
    """

    wall: float
    productive: float
    lost: float
    down: float
    parts: Mapping[str, float]
    sessions: int

    @property
    def share(self) -> float:
        """Productive time as a share of the wall-clock time, in [0, 1]."""
        return self.productive / self.wall if self.wall > 0 else 0.0

    def __str__(self) -> str:
        parts = {"lost steps": self.lost, "down": self.down, **self.parts}
        shown = sorted(((v, k) for k, v in parts.items() if v >= 0.005 * self.wall), reverse=True)
        starts = f"{self.sessions} start{'s' if self.sessions > 1 else ''}"
        others = ", ".join(f"{name} {value / self.wall:.0%}" for value, name in shown)
        return f"{self.share:.0%} of {self.wall:,.0f} s in {starts} were steps that count; {others}"


class GoodputLedger:
    """Keeps the account of a run in a file; one process writes it."""

    def __init__(
        self,
        path: str | os.PathLike,
        step: int,
        *,
        before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Opens the account and begins a session.

        Args:
          path: of the file; made where it is missing, and anew where it is damaged.
          step: finished steps at the start of this session.
          before: seconds that the session has taken already.
          clock: measures the session; it may not be set.
          now: seconds since 1970, which set sessions apart.
        """
        self._path, self._clock = pathlib.Path(path), clock
        self._before = _read(self._path)
        self._began = clock() - before
        self._session = {
            "started": now() - before,
            "first_step": step,
            "last_step": step,
            "seconds": {"start": before},
        }

    def update(self, step: int, seconds: Mapping[str, float]) -> Goodput:
        """Writes this session's account.

        Args:
          step: finished steps.
          seconds: by part, since the start of the loop.

        Returns:
          The account of the whole run.
        """
        spent = {"start": self._session["seconds"]["start"], **seconds}
        ended = self._session["started"] + self._clock() - self._began
        self._session |= {"ended": ended, "last_step": step, "seconds": spent}
        sessions = [*self._before, self._session]
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"sessions": sessions}, indent=1) + "\n")
        unfinished.replace(self._path)
        return account(sessions)


def account(sessions: list[JsonObject]) -> Goodput:
    """Adds up sessions.

    Args:
      sessions: entries of the file, in order.

    Returns:
      Where the time went.
    """
    productive = lost = down = wall = 0.0
    parts: dict[str, float] = {}
    for number, session in enumerate(sessions):
        later = sessions[number + 1 :]
        first, last = session["first_step"], session["last_step"]
        # A later start may go back behind several sessions, past a damaged checkpoint.
        kept = max(first, min([last, *(other["first_step"] for other in later)]))
        seconds = session["seconds"].get(PRODUCTIVE, 0.0)
        useful = seconds * (kept - first) / (last - first) if last > first else 0.0
        productive += useful
        lost += seconds - useful
        for name, value in session["seconds"].items():
            if name != PRODUCTIVE:
                parts[name] = parts.get(name, 0.0) + value
        # Between sessions the machine's clock may have been set, or be another machine's.
        pause = max(0.0, later[0]["started"] - session["ended"]) if later else 0.0
        down += pause
        wall += max(session["ended"] - session["started"], sum(session["seconds"].values())) + pause
    parts["other"] = max(0.0, wall - productive - lost - down - sum(parts.values()))
    return Goodput(wall, productive, lost, down, parts, len(sessions))


def _read(path: pathlib.Path) -> list[JsonObject]:
    if not path.exists():
        return []
    content = parsed(path.read_bytes()) if path.is_file() else None
    sessions = content.get("sessions") if isinstance(content, dict) else None
    if isinstance(sessions, list) and all(map(_is_session, sessions)):
        return sessions
    set_aside(path, "is no account of this run")
    return []


def _is_session(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("seconds"), dict):
        return False
    times = [entry.get("started"), entry.get("ended"), *entry["seconds"].values()]
    steps = [entry.get("first_step"), entry.get("last_step")]
    return all(type(step) is int for step in steps) and all(
        isinstance(value, int | float) and type(value) is not bool and abs(value) < 1e12
        for value in times
    )
