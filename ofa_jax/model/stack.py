"""How the layers of encoder and decoder are stacked: a Python loop or `nn.scan`, with remat.

The loop gives one parameter subtree per layer (`layers_0`, `layers_1`, ...), which is what
checkpoints of others and tests want. The scan gives one subtree `layers` whose arrays have the
layer axis in front: it compiles in constant time, which deep models on TPU want.
`ofa_jax.model.stacking` converts between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from ofa_jax.model.config import OFAConfig
from ofa_jax.model.layers import drop_path, dropout
from ofa_jax.model.tuning import Prefix

_REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class OwnInputs(NamedTuple):
    """What each layer has for itself beside its parameters; scanned over its leading axis.

    Attributes:
      drop_rate: drop-path rate; an array in scanned layers.
      prefix: keys and values in front of self-attention, or None.
    """

    drop_rate: Float[Array, "*l"] | float
    prefix: Prefix | None = None


def drop_path_rates(rate: float, layers: int) -> Float32[np.ndarray, "{layers}"]:
    """Rates that rise linearly from 0 to `rate` (SPEC 1.8)."""
    return np.linspace(0.0, rate, layers, dtype=np.float32)


def regularized(
    layer: nn.Module,
    y: Float[Array, "b n d"],
    drop_rate: Float[Array, ""] | float,
    config: OFAConfig,
    *,
    max_drop_path: float,
    train: bool,
    adapt: Callable[[Array], Array] | None = None,
) -> Float[Array, "b n d"]:
    """What a branch goes through before it is added to its residual (SPEC 1.8, 1.9, 8.11).

    Args:
      layer: whose random stream "dropout" is drawn from.
      y: output of the branch.
      drop_rate: drop-path rate of this layer.
      config: the model's configuration.
      max_drop_path: the last layer's rate; 0 switches drop path off.
      train: whether dropout and drop path act.
      adapt: applied between the two, an adapter; or None.
    """
    if train and config.dropout > 0.0:
        y = dropout(y, config.dropout, layer.make_rng("dropout"))
    if adapt is not None:
        y = adapt(y)
    if train and max_drop_path > 0.0:
        y = drop_path(y, drop_rate, layer.make_rng("dropout"))
    return y


def wrapped_layer(layer: type[nn.Module], config: OFAConfig) -> type[nn.Module]:
    """The layer class, rematerialized as `config.remat` says."""
    if config.remat == "none":
        return layer
    return nn.remat(
        layer,
        policy=_REMAT_POLICIES[config.remat],
        prevent_cse=config.layer_stack == "loop",
        static_argnums=(4,),
    )


def scanned_layer(layer: type[nn.Module], config: OFAConfig, length: int) -> type[nn.Module]:
    """The layer class, scanned `length` times over stacked parameters.

    Args:
      layer: module class with `__call__(x, own, context, train) -> (x, None)`.
      config: the model's configuration.
      length: number of layers.
    """
    return nn.scan(
        wrapped_layer(layer, config),
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def run_layers(
    layers: Sequence[nn.Module] | nn.Module,
    x: Float[Array, "b n d"],
    rates: Float32[np.ndarray, "l"],
    context: object,
    train: bool,
    prefix: Prefix | None = None,
) -> Float[Array, "b n d"]:
    """Applies a loop of layers or one scanned layer.

    Args:
      layers: list of modules (loop) or one scanned module.
      x: what enters the first.
      rates: drop-path rates.
      context: pytree of arrays that all layers share.
      train: whether dropout acts.
      prefix: of all layers, with the layer axis in front, or None.
    """
    if not isinstance(layers, Sequence):
        return layers(x, OwnInputs(jnp.asarray(rates), prefix), context, train)[0]
    for i, (layer, rate) in enumerate(zip(layers, rates, strict=True)):
        own = OwnInputs(float(rate), None if prefix is None else prefix.layer(i))
        x, _ = layer(x, own, context, train)
    return x
