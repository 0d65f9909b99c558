"""The native optax chain as a t5x optimizer; the settings of both engines' gin files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.core
import jax
import optax
from flax import linen as nn
from flax import serialization
from t5x import adafactor, optimizers  # pyrefly: ignore[missing-import]

from ofa_jax.training.optimizer import OptimizerConfig
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState

__all__ = ["ChainOptimizer", "OptimizerConfig", "ScheduleConfig", "factor_rules"]


class _FactorRules(dict):
    """Rules for t5x's own names; arrays with an axis of another one keep all second moments."""

    def __missing__(self, axis: str | None) -> adafactor.FactorDim:
        return adafactor.FactorDim.NONE


def factor_rules() -> object:
    """For `adafactor.Adafactor.logical_factor_rules` of t5x: its own rules, and OFA's axes."""
    return _FactorRules(adafactor.standard_logical_factor_rules())


class ChainOptimizer(optimizers.OptaxWrapper):
    """An optax chain whose state is placed by the boxes of the native train state.

    t5x's own wrapper knows the axes of a fixed list of optax states; this one takes them from the
    model, so any chain of `ofa_jax.training.optimizer` works.
    """

    def __init__(
        self, chain: optax.GradientTransformation, abstract_state: Callable[[], TrainState]
    ) -> None:
        """Keeps both.

        Args:
          chain: the update rule.
          abstract_state: gives the shapes of the native state, boxed.
        """
        super().__init__(chain)
        self._abstract_state = abstract_state

    @functools.cached_property
    def _state_axes(self) -> object:
        """Logical axis names of the optimizer's state, as nested dictionaries."""
        boxed = self._abstract_state().opt_state

        def axes(leaf: object) -> object:
            if not isinstance(leaf, nn.Partitioned):
                return None
            # Frozen parameters leave an empty marker instead of a moment in their box.
            held = jax.tree.leaves(leaf.value)
            return jax.sharding.PartitionSpec(*leaf.names) if held else leaf.value

        named = jax.tree.map(axes, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))
        return serialization.to_state_dict(named)

    def derive_logical_axes(self, optimizer: Any, param_logical_axes: Any) -> object:
        """Replaces every array of an optimizer by its logical axis names.

        Args:
          optimizer: t5x optimizer of arrays or shapes.
          param_logical_axes: names for the parameters.

        Returns:
          The optimizer with `jax.sharding.PartitionSpec`, or None for scalars.
        """
        axes = {
            "target": flax.core.unfreeze(param_logical_axes),
            "state": {"step": None, "param_states": self._state_axes},
        }
        return optimizer.restore_state(axes)
