"""The command line of `python -m ofa_jax.demo`."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence

from ofa_jax.cli import shell
from ofa_jax.demo.settings import DemoSettings
from ofa_jax.schema import meanings

_READERS = {int: shell.whole, float: shell.real, str: str}


def run_demo(arguments: Sequence[str]) -> int:
    """Serves the page until it is stopped.

    Args:
      arguments: command line without the program name.

    Returns:
      Exit status, see `shell.run`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.demo",
        description="Serves a page on which a model is asked, and the same over HTTP.",
    )
    about, types = meanings(DemoSettings), typing.get_type_hints(DemoSettings)
    for field in dataclasses.fields(DemoSettings):
        kind = _READERS[types[field.name]]
        default = "" if field.default == "" else f" Default: {field.default}."
        text = f"{about[field.name]}{default}".replace("%", "%%")
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=text)
    options = vars(parser.parse_args(arguments))

    def run() -> None:
        settings = DemoSettings(**options)
        shell.set_up_process()
        from ofa_jax.demo.serve import serve

        serve(settings)

    return shell.run(run)
