"""`python launch/restart.py --max_restarts=20 -- COMMAND`: gives a training command again.

The other launchers put it around `python -m ofa_jax.train` on every machine. Its exit status is 0
where the run is finished, 2 for a mistake in the settings, and 75 where the same command would go
on: the run was asked to stop, or no restart is left.
"""

from __future__ import annotations

import argparse
import sys

from processes import PAUSE, Process, supervise


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python launch/restart.py",
        description="Runs a command, again where it was stopped or lost another host.",
    )
    parser.add_argument("--max_restarts", type=int, default=20)
    parser.add_argument("--pause", type=float, default=PAUSE, help="seconds before a restart")
    parser.add_argument("command", nargs="+", help="after --")
    options = parser.parse_args()
    return supervise([Process(tuple(options.command))], options.max_restarts, options.pause)


if __name__ == "__main__":
    sys.exit(main())
