"""Packages that some scores need and the base installation does not have.

They are imported on first use, so that everything else works without them, and a missing one is
one sentence that says how to get it.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from types import ModuleType


class MissingDependencyError(ImportError, ValueError):
    """A score was asked for whose package or program is not installed."""


def require_package(name: str, *, score: str) -> ModuleType:
    """Imports an optional package.

    Args:
      name: module to import, for example "rouge_score.rouge_scorer".
      score: what it computes, for the message.

    Returns:
      The module.

    Raises:
      MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            raise
        package = name.partition(".")[0]
        raise MissingDependencyError(
            f"{score} needs the package {package}, which is not installed; "
            "pip install 'ofa-jax[eval]'"
        ) from error


def require_java(*, score: str) -> None:
    """Fails where there is no Java to run a score's program.

    Raises:
      MissingDependencyError: no `java` on the path.
    """
    if shutil.which("java") is None:
        raise MissingDependencyError(
            f"{score} runs a Java program, and there is no `java`; install a Java runtime"
        )
