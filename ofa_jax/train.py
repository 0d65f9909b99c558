"""`python -m ofa_jax.train --gin_file=FILE [--gin.NAME=VALUE ...]`: trains, evaluates, reports."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line; returns the exit status."""
    from ofa_jax.cli.entry import run_train

    return run_train(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
