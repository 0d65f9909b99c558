"""Runs the command line of training in this process: to the first computation or some steps."""

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.cli import entry, shell
from ofa_jax.runs.engine import Engine
from ofa_jax.sharding import placement
from tests.integration.tiny_run import TINY

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


def quick_step(state, batch, rng):
    """Does what the loop sees of a step, and needs no compiling."""
    del rng
    tasks = np.ones(1)
    metrics = {"loss": 1.0, "learning_rate": 0.1, "param_norm": 1.0}
    metrics |= {"task_loss_sum": tasks, "task_tokens": tasks}
    return state.replace(step=state.step + 1), metrics


def quick_state(create, *arguments, mesh, rules):
    """A state of zeros, which needs no compiling either."""
    boxed = jax.eval_shape(create, *arguments)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nn.meta.unbox(boxed))
    return zeros, placement.state_shardings(boxed, mesh, rules)


class Runs:
    """Makes three steps with a tiny model in this process."""

    def __init__(self, directory, capsys):
        self.directory, self._capsys = directory, capsys

    def start(self, *arguments):
        """One start of the run; returns (exit status, what it said)."""
        given = ["--gin.TRAIN_STEPS=3", f"--gin.MODEL_DIR='{self.directory}'", *arguments]
        status = entry.run_train([*TINY, *given])
        return status, self._capsys.readouterr().err


@pytest.fixture
def runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shell, "set_up_process", lambda: None)
    monkeypatch.setattr(placement, "create_sharded", quick_state)
    monkeypatch.setattr(Engine, "train_step", lambda self, shardings: quick_step)
    yield Runs(tmp_path / "run", capsys)
    gin.clear_config()
