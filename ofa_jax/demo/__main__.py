"""Shows a model: `python -m ofa_jax.demo --checkpoint=runs/mine`."""

import sys


def main() -> int:
    """Runs the command line."""
    from ofa_jax.cli.demo import run_demo

    return run_demo(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
