"""Runs the command line of training in this process, up to the first computation."""

import gin
import pytest

from ofa_jax.cli import entry
from ofa_jax.sharding import placement

QUICKSTART = "--gin_file=gin_configs/runs/quickstart.gin"


class ComputationStarted(Exception):
    """All settings were accepted."""


@pytest.fixture
def command_line(monkeypatch):
    """Calls `run_train`; raises `ComputationStarted` where it would start to compile."""

    def start(*arguments, **options):
        raise ComputationStarted

    monkeypatch.setattr(entry, "set_up_process", lambda: None)
    monkeypatch.setattr(placement, "create_sharded", start)
    monkeypatch.delenv("OFA_TRACEBACK", raising=False)
    yield entry.run_train
    gin.clear_config()
