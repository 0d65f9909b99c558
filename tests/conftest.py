"""Settings of every test: one process uses one CPU device and no accelerator."""

import importlib.util
import os

from tests.compiling import QUICK_TO_COMPILE

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_TO_COMPILE}".strip()

if importlib.util.find_spec("beartype"):
    from tests import shapes  # imports JAX, which reads the environment

    shapes.install()
