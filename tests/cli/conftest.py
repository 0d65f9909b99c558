"""Runs the command line of training in this process, up to the first computation."""

import gin
import pytest

from ofa_jax.cli import entry, shell
from ofa_jax.sharding import placement

QUICKSTART = "--gin_file=gin_configs/runs/quickstart.gin"


class ComputationStarted(BaseException):
    """All settings were accepted; nothing that a command ends with."""


@pytest.fixture
def command_line(monkeypatch):
    """Calls `run_train`; raises `ComputationStarted` where it would start to compile."""

    def start(*arguments, **options):
        raise ComputationStarted

    monkeypatch.setattr(shell, "set_up_process", lambda: None)
    monkeypatch.setattr(placement, "create_sharded", start)
    monkeypatch.delenv("OFA_TRACEBACK", raising=False)
    yield entry.run_train
    gin.clear_config()
