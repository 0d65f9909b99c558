"""The state that a run begins with: restored, imported or initialized; and what goes with it."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Mapping

import jax
from jaxtyping import PyTree

from ofa_jax.checkpoint.bucket import check_address, is_remote
from ofa_jax.checkpoint.huggingface import is_repository_id, no_such_path
from ofa_jax.checkpoint.manager import CheckpointManager
from ofa_jax.checkpoint.tuned import split_source
from ofa_jax.runs.engine import Engine
from ofa_jax.sharding import placement
from ofa_jax.sharding.mesh import describe_mesh
from ofa_jax.training.state import TrainState, from_checkpoint_tree, to_checkpoint_tree

logger = logging.getLogger("ofa_jax")


def check_initial_path(path: str | None, manager: CheckpointManager) -> None:
    """Fails where the weights to start from are not there, unless the run has its own already.

    Raises:
      ValueError: there is no such path, or nothing here reads its address.
    """
    if not path or manager.steps() or is_repository_id(path) or split_source(path) is not None:
        return
    if is_remote(path):
        check_address(path, "CheckpointConfig.initial_path")
    elif not pathlib.Path(path).exists():
        raise ValueError(f"CheckpointConfig.initial_path: {no_such_path(path)}")


def begin(
    engine: Engine,
    manager: CheckpointManager,
    key: jax.Array,
    batch: Mapping[str, PyTree],
    *,
    initial_path: str | None,
) -> tuple[TrainState, PyTree]:
    """The newest readable checkpoint of this run, else imported weights, else random ones.

    A checkpoint is read straight into its place on this run's mesh, whatever mesh wrote it.

    Args:
      engine: of the run.
      manager: of its checkpoints.
      key: base key of the run.
      batch: one with every key that the model reads.
      initial_path: weights to start from where the run has no checkpoint, or None.

    Returns:
      (state, its shardings).

    Raises:
      ValueError: an expression of the optimizer that matches no parameter.
      CheckpointError: checkpoints that cannot be read or fit another model or optimizer.
    """
    abstract = engine.abstract_state(batch)
    shardings = placement.state_shardings(abstract, engine.mesh, engine.rules)
    if manager.steps():
        template = placement.abstract_arrays(abstract, shardings)
        restored = manager.restore_latest(
            to_checkpoint_tree(template), to_checkpoint_tree(shardings)
        )
        if restored is not None:
            step, tree = restored
            logger.info("going on from the checkpoint at step %d in %s", step, manager.directory)
            _compare_mesh(manager.dataset_state(step), engine)
            return from_checkpoint_tree(tree, template), shardings
    state, shardings = placement.create_sharded(
        engine.creation(batch), key, mesh=engine.mesh, rules=engine.rules
    )
    if initial_path:
        state = _with_weights(initial_path, state, shardings, engine)
    else:
        logger.info("starting from random weights: CheckpointConfig.initial_path is not set")
    return state, shardings


def best(manager: CheckpointManager, state: TrainState, shardings: PyTree) -> TrainState:
    """The checkpoint of the best score, or the state as it is where no score decides."""
    step = manager.best_step()
    if step is None or step == int(state.step):
        return state
    logger.info("the best evaluation during training was at step %d", step)
    tree = manager.restore(step, to_checkpoint_tree(state), to_checkpoint_tree(shardings))
    return from_checkpoint_tree(tree, state)


def input_state(engine: Engine, step: int, batch_size: int) -> dict[str, PyTree]:
    """What a checkpoint says about the input: batches depend on the step alone.

    Args:
      engine: of the run.
      step: finished updates, which is the number of the next batch.
      batch_size: global examples per step.
    """
    return {
        "next_step": step,
        "batch_size": batch_size,
        "mesh": {axis: int(size) for axis, size in engine.mesh.shape.items()},
    }


def _compare_mesh(saved: PyTree, engine: Engine) -> None:
    mesh = saved.get("mesh") if isinstance(saved, dict) else None
    if isinstance(mesh, dict) and mesh != dict(engine.mesh.shape):
        logger.info(
            "the checkpoint was written on mesh %s; now placed on %s",
            ", ".join(f"{axis}={size}" for axis, size in mesh.items()),
            describe_mesh(engine.mesh),
        )


def _with_weights(path: str, state: TrainState, shardings: PyTree, engine: Engine) -> TrainState:
    """The weights of another run or of a released checkpoint, with a fresh optimizer."""
    imported = engine.imported(path, state)
    logger.info("starting from the weights of %s", path)
    variables = {
        name: jax.tree.map(jax.device_put, imported[name], getattr(shardings, name))
        for name in ("params", "batch_stats")
    }
    ema = None if state.ema is None else jax.tree.map(jax.numpy.copy, variables)
    return dataclasses.replace(state, ema=ema, **variables)
