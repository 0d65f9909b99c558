"""TensorFlow without the chatter of its start, for those that need it: TensorBoard, seqio, TFDS."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator


def load() -> None:
    """Imports TensorFlow; what its C++ libraries print meanwhile says nothing to a user."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if "tensorflow" not in sys.modules:
        with quiet_native_stderr():
            importlib.import_module("tensorflow")


@contextlib.contextmanager
def quiet_native_stderr() -> Iterator[None]:
    """Sends what C++ libraries print to file descriptor 2 nowhere."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
