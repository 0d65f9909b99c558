"""Where the reference material lives: fixtures of the official models and vocabulary files.

They stand beside the checkout and are not part of it (`../shared`, or the folder that the
environment variable `OFA_SHARED` names). Tests that need them skip with a reason where they are
absent.
"""

import os
import pathlib

import pytest


def shared_dir() -> pathlib.Path:
    """The folder of reference material, whether or not it exists."""
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared"
    return pathlib.Path(os.environ.get("OFA_SHARED", beside))


requires_shared = pytest.mark.skipif(
    not (shared_dir() / "fixtures").is_dir(),
    reason="needs the official models' fixtures (set OFA_SHARED to their folder)",
)
requires_cases = pytest.mark.skipif(
    not (shared_dir() / "cases").is_dir(),
    reason="needs the folder of cases from the field (set OFA_SHARED to its parent folder)",
)
requires_vocab = pytest.mark.skipif(
    not (shared_dir() / "vocab").is_dir(),
    reason="needs the GPT-2 and BERT vocabulary files (set OFA_SHARED to their parent folder)",
)
