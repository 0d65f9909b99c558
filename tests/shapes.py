"""Shapes and types of signatures, checked wherever a test calls them: an import hook of jaxtyping.

`tests/conftest.py` installs it before anything of the library is imported. Fields of pytrees are
not checked when one is made: their leaves may be shapes, shardings or bools.
"""

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype

CHECKED = {
    "losses": (),
    "decoding": (),
    "ops": ("attention", "batch_norm", "conv"),
    "model": (
        *("attention", "decoder", "encoder", "feedforward", "layers", "ofa", "positions", "resnet"),
        *("stack", "tuning"),
        *(f"vqgan.{file}" for file in ("autoencoder", "discriminator", "networks", "quantizers")),
    ),
    "training": (
        *("ema", "image_tokenizer", "optimizer", "randomness", "schedule", "scst", "state"),
        "step",
    ),
}
"""Rooms, and the files of a room of which only some are about arrays."""
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
    parts = [f"{room}.{file}" for room, files in CHECKED.items() for file in files]
    parts += [room for room, files in CHECKED.items() if not files]
    jaxtyping.install_import_hook([f"ofa_jax.{part}" for part in parts], "tests.shapes.check")
