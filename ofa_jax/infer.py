"""Asks a model: `python -m ofa_jax.infer --image=photo.jpg --instruction="..."`."""

import sys


def main() -> int:
    """Runs the command line."""
    from ofa_jax.cli.inference import run_infer

    return run_infer(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
