"""ofa_jax: OFA ("One-For-All") in JAX.

One encoder-decoder, one vocabulary, one loss. `import ofa_jax` is cheap; the names below are
loaded on first use:

    model = ofa_jax.load("path or repository id")
    model.generate(image, "what does the image describe?")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from ofa_jax.checkpoint.exports import export_checkpoint
    from ofa_jax.checkpoint.imports import import_checkpoint
    from ofa_jax.inference.loading import load
    from ofa_jax.inference.predictor import OFAPredictor
    from ofa_jax.inference.questions import Prediction
    from ofa_jax.model.config import SIZES, OFAConfig
    from ofa_jax.model.ofa import OFA

_MODULES = {
    "OFA": "ofa_jax.model.ofa",
    "OFAConfig": "ofa_jax.model.config",
    "OFAPredictor": "ofa_jax.inference.predictor",
    "Prediction": "ofa_jax.inference.questions",
    "SIZES": "ofa_jax.model.config",
    "export_checkpoint": "ofa_jax.checkpoint.exports",
    "import_checkpoint": "ofa_jax.checkpoint.imports",
    "load": "ofa_jax.inference.loading",
}

__all__ = [
    "OFA",
    "SIZES",
    "OFAConfig",
    "OFAPredictor",
    "Prediction",
    "export_checkpoint",
    "import_checkpoint",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        try:
            return metadata.version("ofa-jax")
        except metadata.PackageNotFoundError:
            return "unknown"  # a checkout on the path, nothing installed
    if name not in _MODULES:
        raise AttributeError(f"module 'ofa_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
