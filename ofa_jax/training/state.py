"""The train state, and its shape on disk.

Everything that a run needs to go on: step, parameters, optimizer state, batch-norm statistics and
the moving average. On disk it has t5x's layout, so that either engine reads the other's
checkpoints; writing is the business of `ofa_jax.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import serialization
from jaxtyping import PRNGKeyArray, PyTree

from ofa_jax.training.ema import initial_ema
from ofa_jax.training.randomness import stream_key

__all__ = ["TrainState", "from_checkpoint_tree", "to_checkpoint_tree"]


@flax.struct.dataclass
class TrainState:
    """One moment of training. A pytree; leaves may be arrays, shapes or shardings.

    Attributes:
      step: int32 scalar, finished updates.
      params: parameters, float32.
      opt_state: state of the optax transformation.
      batch_stats: running statistics of batch norm; {} for a model without.
      ema: {"params", "batch_stats"} moving average in float32, or None.
    """

    step: PyTree
    params: PyTree
    opt_state: PyTree
    batch_stats: PyTree
    ema: dict[str, PyTree] | None = None

    @classmethod
    def create(
        cls,
        model: nn.Module,
        tx: optax.GradientTransformation,
        rng: PRNGKeyArray,
        batch_shapes: Mapping[str, jax.ShapeDtypeStruct | jax.Array | np.ndarray],
        *,
        ema: bool = False,
    ) -> TrainState:
        """Initializes model and optimizer.

        Args:
          model: linen module called as `model(batch, train=False)`.
          rng: base key of the run.
          batch_shapes: arrays or `jax.ShapeDtypeStruct` by batch key; the batch dimension may
            be 1, since no parameter depends on it.
          ema: whether to keep a moving average.

        Returns:
          The state at step 0. Leaves stay boxed with their logical axis names
          (`nn.meta.unbox` removes the boxes), so that `jax.eval_shape` of this function tells
          how everything, the optimizer state included, is to be sharded.
        """
        batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch_shapes.items()}
        rngs = {name: stream_key(rng, name) for name in ("params", "dropout", "patches")}
        variables = dict(model.init(rngs, batch, train=False))
        params = variables["params"]
        batch_stats = variables.get("batch_stats", {})
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            batch_stats=batch_stats,
            ema=initial_ema(params, batch_stats) if ema else None,
        )

    def variables(self, use_ema: bool = False) -> dict[str, PyTree]:
        """What `model.apply` takes.

        Args:
          use_ema: whether to take the moving average where there is one.

        Returns:
          {"params", "batch_stats"}.
        """
        if use_ema and self.ema is not None:
            return dict(self.ema)
        return {"params": self.params, "batch_stats": self.batch_stats}


def _without_empty(tree: PyTree) -> PyTree:
    """Drops empty dictionaries, which orbax and t5x do not store."""
    if not isinstance(tree, Mapping):
        return tree
    kept = {key: _without_empty(value) for key, value in tree.items()}
    return {key: value for key, value in kept.items() if not _is_empty(value)}


def _is_empty(value: object) -> bool:
    return isinstance(value, Mapping) and not value


def _with_empty(tree: PyTree, template: PyTree) -> PyTree:
    """Puts the empty dictionaries of a template back."""
    if not isinstance(template, Mapping):
        return tree
    tree = dict(tree)
    for key, value in template.items():
        if key in tree:
            tree[key] = _with_empty(tree[key], value)
        elif _is_empty(_without_empty(value)):
            tree[key] = value
    return tree


def to_checkpoint_tree(state: TrainState) -> dict[str, PyTree]:
    """The state in t5x's layout (T5X 4).

    Args:
      state: unboxed state of arrays, `jax.ShapeDtypeStruct` or shardings.

    Returns:
      {"target": params, "state": {"step", "param_states"}, "flax_mutables": {"batch_stats"},
      "ema": {"params", "batch_stats"}}; the last two only where they exist. Only dictionaries
      with string keys and leaves.
    """
    tree = {
        "target": serialization.to_state_dict(state.params),
        "state": {
            "step": state.step,
            "param_states": serialization.to_state_dict(state.opt_state),
        },
        "flax_mutables": {"batch_stats": serialization.to_state_dict(state.batch_stats)},
    }
    if state.ema is not None:
        tree["ema"] = serialization.to_state_dict(state.ema)
    return _without_empty(tree)


def from_checkpoint_tree(tree: Mapping[str, PyTree], template: TrainState) -> TrainState:
    """Inverse of `to_checkpoint_tree`.

    Args:
      tree: what was read.
      template: a state of the same structure (arrays or shapes).

    Returns:
      The state with the tree's leaves. Where the template wants a moving average and the tree
      has none, the average starts from the weights.

    Raises:
      ValueError: if the structures differ.
    """

    def restore(part: PyTree, wanted: PyTree) -> PyTree:
        whole = serialization.to_state_dict(wanted)
        return serialization.from_state_dict(wanted, _with_empty(part, whole))

    params = restore(tree["target"], template.params)
    batch_stats = restore(
        tree.get("flax_mutables", {}).get("batch_stats", {}), template.batch_stats
    )
    ema = None
    if template.ema is not None:
        if "ema" in tree:
            ema = restore(tree["ema"], template.ema)
        else:
            ema = initial_ema(params, batch_stats)
    return TrainState(
        step=tree["state"]["step"],
        params=params,
        opt_state=restore(tree["state"].get("param_states", {}), template.opt_state),
        batch_stats=batch_stats,
        ema=ema,
    )
