"""Parameter-efficient tuning: prefixes, adapters, and what trains (SPEC 8.11).

A pretrained model stays as it is and small parts learn: keys and values in front of every
self-attention (prefix), a bottleneck behind every feed-forward layer (adapter), a low-rank change
of dense kernels (LoRA, in `layers.Dense`), or only biases of the model itself (BitFit).
`TuningConfig` says which parts exist; `frozen_except` gives the optimizer the expression that
freezes the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Float32, PyTree

from ofa_jax.model.config import OFAConfig
from ofa_jax.model.layers import OFFICIAL_SCALE, Dense, Table, dropout

__all__ = [
    "TRAINED",
    "Adapter",
    "Prefix",
    "PrefixPrompt",
    "frozen_except",
    "merge_low_rank",
    "prefix_weighted",
    "prepend_prefix",
]

# Paths of the parameters that each method trains.
# OFA-NOTE: SPEC 8.11. The official adapter flag freezes only the embeddings; here it means adapters
# alone, as the method is described. BitFit's are the biases of the norms before
# attention and feed-forward, of the final norms, and of the feed-forward layers; not those of
# attention, of positions, and of the norms that NormFormer added.
TRAINED: Mapping[str, str] = MappingProxyType(
    {
        "prefix": r"coder/prefix/",
        "adapter": r"/adapter/",
        "lora": r"/lora_(down|up)$",
        "bitfit": r"/(((self_|cross_)?attention|feedforward|final)_norm|expand|contract)/bias$",
    }
)


def frozen_except(*methods: str) -> str:
    """The expression that matches all parameters but those that some methods train.

    Args:
      *methods: keys of `TRAINED`.

    Returns:
      A regular expression for `OptimizerConfig.frozen`.

    Raises:
      ValueError: an unknown method, or none.
    """
    unknown = [method for method in methods if method not in TRAINED]
    if unknown or not methods:
        raise ValueError(f"methods must be some of {', '.join(TRAINED)}, got {methods}")
    return f"^(?!.*({'|'.join(TRAINED[method] for method in methods)}))"


@struct.dataclass
class Prefix:
    """Keys and values in front of self-attention.

    Attributes:
      key: before m a batch of 1 or b and, for all layers together, l.
      value: of each key.
    """

    key: Float[Array, "*lead m h k"]
    value: Float[Array, "*lead m h k"]

    def layer(self, index: int) -> Prefix:
        """The prefix of one layer, from those of all."""
        return Prefix(self.key[index], self.value[index])


class PrefixPrompt(nn.Module):
    """Learned keys and values for every layer of a stack (SPEC 8.11).

    Attributes:
      config: the model's configuration.
      layers: depth l of the stack.
      length: prefix length m.
    """

    config: OFAConfig
    layers: int
    length: int

    @nn.compact
    def __call__(self, batch: int, train: bool) -> Prefix:
        """Makes the prefixes of all layers.

        Args:
          batch: b, read where dropout acts, which differs per sample.
          train: whether dropout acts.

        Returns:
          Arrays [l, 1 or b, m, h, k]. Not scaled: a key is one like any other.
        """
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        features = 2 * self.layers * cfg.width
        hidden = cfg.tuning.prefix_hidden
        width = cfg.width if hidden else features
        x = Table(self.length, width, (None, "embed"), OFFICIAL_SCALE, name="table")().astype(dtype)
        if hidden:
            scale, axes = OFFICIAL_SCALE, (None, "embed")
            x = Dense(hidden, axes=("embed", None), scale=scale, dtype=dtype, name="hidden")(x)
            x = Dense(features, axes=axes, scale=scale, dtype=dtype, name="output")(jax.nn.relu(x))
        # Features are layers, then key and value, then heads.
        x = x.reshape(1, self.length, self.layers, 2, cfg.num_heads, cfg.head_dim)
        rate = cfg.tuning.prefix_dropout
        if train and rate > 0.0:
            x = dropout(jnp.broadcast_to(x, (batch, *x.shape[1:])), rate, self.make_rng("dropout"))
        key, value = x.transpose(3, 2, 0, 1, 4, 5)
        return Prefix(key, value)


class Adapter(nn.Module):
    """Dense, relu, dense, and a residual, behind a feed-forward layer (SPEC 8.11)."""

    config: OFAConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*lead d"]) -> Float[Array, "*lead d"]:
        """Changes what a layer gives."""
        cfg = self.config
        dtype, scale = jnp.dtype(cfg.dtype), OFFICIAL_SCALE
        dim = cfg.tuning.adapter_dim
        y = Dense(dim, axes=("embed", None), scale=scale, dtype=dtype, name="down")(x)
        y = jax.nn.relu(y)
        return x + Dense(cfg.width, axes=(None, "embed"), scale=scale, dtype=dtype, name="up")(y)


def prepend_prefix(
    prefix: Prefix,
    key: Float[Array, "b n h k"],
    value: Float[Array, "b n h k"],
    key_position: Float[Array, "#b n h k"] | None,
    bias: Float[Array, "#b h t n"] | None,
    key_mask: Bool[Array, "b n"] | None,
) -> tuple[Array, Array, Array | None, Array | None, Array | None]:
    """The arguments of attention with a prefix: no position logits on it, never masked.

    Args:
      prefix: of one layer, m long.
      key: of the layer itself, as the others.
      value: of each key.
      key_position: see `ofa_jax.ops.attention`, as the following.
      bias: added to the logits.
      key_mask: True = keep.

    Returns:
      All but the prefix, with m + n in the place of n.
    """

    def joined(front: Array, back: Array) -> Array:
        front = jnp.broadcast_to(front, (back.shape[0], *front.shape[1:]))
        return jnp.concatenate([front.astype(back.dtype), back], axis=1)

    def padded(x: Array | None, axis: int, fill: float) -> Array | None:
        if x is None:
            return None
        widths = [(m, 0) if i == axis else (0, 0) for i in range(x.ndim)]
        return jnp.pad(x, widths, constant_values=fill)

    m = prefix.key.shape[1]
    return (
        joined(prefix.key, key),
        joined(prefix.value, value),
        padded(key_position, 1, 0),
        padded(bias, 3, 0),
        padded(key_mask, 1, True),
    )


def prefix_weighted(
    prefix: Prefix,
    query: Float[Array, "b g h k"],
    logits: Float32[Array, "b g h t"],
    values: Float[Array, "b g h t k"],
) -> Float[Array, "b g h k"]:
    """Attention of one decoding step over a prefix and what was decoded so far.

    Args:
      prefix: of one layer, without a batch axis.
      query: scaled.
      logits: of the decoded tokens, masked.
      values: of the decoded tokens.
    """
    m = prefix.key.shape[0]
    front = jnp.einsum("bghk,mhk->bghm", query, prefix.key, preferred_element_type=jnp.float32)
    probabilities = jax.nn.softmax(jnp.concatenate([front, logits], axis=-1), axis=-1)
    probabilities = probabilities.astype(values.dtype)
    from_prefix = jnp.einsum("bghm,mhk->bghk", probabilities[..., :m], prefix.value)
    return from_prefix + jnp.einsum("bght,bghtk->bghk", probabilities[..., m:], values)


def merge_low_rank(params: Mapping[str, PyTree], config: OFAConfig) -> dict[str, PyTree]:
    """Parameters of the model without LoRA that computes the same.

    Args:
      params: of a model with `config`, unboxed, in either layer layout.
      config: the configuration; its `tuning` says the scale.

    Returns:
      The tree without `lora_down` and `lora_up`, their product added to the kernels.
    """
    scale = config.tuning.lora_alpha / max(config.tuning.lora_rank, 1)

    def merged(tree: Mapping[str, PyTree]) -> dict[str, PyTree]:
        tree = {k: merged(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
        if "lora_down" in tree:
            change = np.matmul(tree.pop("lora_down"), tree.pop("lora_up"))
            tree["kernel"] = tree["kernel"] + np.float32(scale) * change
        return tree

    return merged(params)
