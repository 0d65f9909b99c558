"""Evaluates a checkpoint: `python -m ofa_jax.eval --checkpoint=DIR --task=NAME --output=DIR`."""

import sys


def main() -> int:
    """Runs the command line."""
    from ofa_jax.cli.inference import run_eval

    return run_eval(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
