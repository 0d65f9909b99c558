"""Command line of the demo: `python -m ofa_jax.demo --checkpoint=runs/mine`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ofa_jax.cli import shell
from ofa_jax.demo.settings import DemoSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves the page until it is stopped; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.demo",
        description="Serves a page on which a model is asked, and the same over HTTP.",
    )
    shell.add_settings(parser.add_argument, DemoSettings)
    options = vars(parser.parse_args(arguments))

    def run() -> None:
        settings = DemoSettings(**options)
        shell.set_up_process()
        from ofa_jax.demo.serve import serve

        serve(settings)

    return shell.run(run)


if __name__ == "__main__":
    sys.exit(main())
