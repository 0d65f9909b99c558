"""`python -m ofa_jax.ablate --gin_file=FILE`: trains changed mixtures and compares them."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Runs the command line; returns the exit status."""
    # gin imports TensorFlow where it is installed; its start-up chatter says nothing to a user.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from ofa_jax.cli.ablation import run_ablate

    return run_ablate(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
