"""`python -m ofa_jax.prepare --source=FORMAT ... --out=DIRECTORY`: any data set into shards."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line; returns the exit status."""
    from ofa_jax.cli.prepare import run_prepare

    return run_prepare(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
