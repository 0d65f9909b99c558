"""Where upstream t5x is, and a mark for tests that need it.

t5x, airio and jestimator are not on PyPI. Either they are installed, or the environment variable
T5X_DIR names the checkout of t5x, with those of the other two beside it.
"""

import importlib.util
import os
import pathlib
import sys

import pytest

PACKAGES = ("t5x", "airio", "jestimator", "fiddle", "cached_property", "jaxtyping")


def directories() -> list[str]:
    """Directories of T5X_DIR to import from; [] where it is not set."""
    given = os.environ.get("T5X_DIR")
    if not given:
        return []
    root = pathlib.Path(given).resolve()
    beside = [root, root.parent / "airio", root.parent / "jestimator"]
    return [str(path) for path in beside if path.is_dir()]


sys.path[:0] = [directory for directory in directories() if directory not in sys.path]
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
requires_t5x = pytest.mark.skipif(
    bool(MISSING),
    reason=f"needs {', '.join(MISSING)}: see docs/t5x.md, then `make test-t5x T5X_DIR=...`",
)


def script(name: str) -> str:
    """Path of one of t5x's scripts, such as "train"."""
    spec = importlib.util.find_spec("t5x")
    assert spec is not None
    assert spec.origin is not None
    return str(pathlib.Path(spec.origin).with_name(f"{name}.py"))
