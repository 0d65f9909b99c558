"""What made a result: versions, commit, command. It stands in `metrics.json` and on the report."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys

import ofa_jax

_PACKAGES = ("jax", "flax", "optax", "numpy", "pillow")


def provenance() -> dict[str, str]:
    """Facts for the "run" entry of a `metrics.json`.

    Returns:
      "versions", "command", and "commit" where the library lies in a checkout; "+" behind a commit
      says that files have changed since.
    """
    versions = {"ofa_jax": ofa_jax.__version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    program = pathlib.Path(sys.argv[0])
    name = f"python -m ofa_jax.{program.stem}" if program.parent.name == "ofa_jax" else program.name
    facts = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "command": " ".join([name, *map(shlex.quote, sys.argv[1:])]),
    }
    if commit := _commit():
        facts["commit"] = commit
    return facts


def _commit() -> str:
    directory = pathlib.Path(ofa_jax.__file__).parents[1]
    if not (directory / ".git").exists():
        return ""
    command = [
        "git",
        "-C",
        os.fspath(directory),
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty=+",
    ]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
