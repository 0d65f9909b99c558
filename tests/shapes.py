"""Shapes and types of signatures, checked wherever a test calls them: an import hook of jaxtyping.

`tests/conftest.py` installs it before anything of the library is imported. Fields of pytrees are
not checked when one is made: their leaves may be shapes, shardings or bools.
"""

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype

CHECKED = (
    *("losses", "decoding"),
    *(
        f"training.{name}"
        for name in ("ema", "optimizer", "randomness", "schedule", "state", "step")
    ),
    "training.scst",
)
_CONF = BeartypeConf(is_pep484_tower=True)


class _Kinds(type):
    def __instancecheck__(cls, value):
        return isinstance(value, jax.Array | np.ndarray | np.generic)


class Array(metaclass=_Kinds):
    """In the place of jax.Array: tests hand over arrays of numpy too, as JAX takes them."""


def check(function):
    """The type checker of the hook: beartype, for all but `__init__`."""
    if function.__qualname__.endswith("__init__"):
        return function
    return beartype(conf=_CONF)(function)


def install():
    """Checks what is imported from now on."""
    jaxtyping.Array = Array
    jaxtyping.install_import_hook([f"ofa_jax.{part}" for part in CHECKED], "tests.shapes.check")
