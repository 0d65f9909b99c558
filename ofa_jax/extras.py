"""Packages beyond the core of the library, and the extra of `pip install` that brings each."""

from __future__ import annotations

import importlib.util

from ofa_jax.errors import SettingsError

TRAINING = ("grain", "clu", "tensorflow", "absl", "matplotlib", "jinja2")
_EXTRAS = {
    **dict.fromkeys((*TRAINING, "seqio", "tensorboard", "sentencepiece"), "train"),
    **dict.fromkeys(("apache_beam", "pyarrow", "google_crc32c"), "prepare"),
    "gradio": "demo",
    "gcsfs": "gs",
}


def advice(error: ImportError) -> str | None:
    """One line on a package that is not installed; None where no extra brings it."""
    package = (error.name or "").partition(".")[0]
    return _line(package) if package in _EXTRAS else None


def require_training() -> None:
    """Fails early where training would fail late.

    Raises:
      SettingsError: a package of the extra `train` is not installed.
    """
    for package in TRAINING:
        if importlib.util.find_spec(package) is None:
            raise SettingsError(_line(package))


def _line(package: str) -> str:
    extra = _EXTRAS[package]
    return (
        f"the package {package} is not installed, it comes with the extra {extra}: "
        f"pip install 'ofa-jax[{extra}]'"
    )
