"""Multi-head attention with one learned scale per head (SPEC 1.7).

Used three times: encoder self-attention, decoder self-attention, cross-attention. The pieces are
separate methods, so that incremental decoding can keep projected keys and values in its cache.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ofa_jax.model.config import OFAConfig
from ofa_jax.model.layers import (
    OFFICIAL_SCALE,
    Dense,
    Table,
    dense_scale,
    parallel_dense,
    partitioned,
)
from ofa_jax.model.tuning import Prefix, prepend_prefix
from ofa_jax.ops import attention as attention_ops


def split_heads(x: Float[Array, "*rows d"], heads: int) -> Float[Array, "*rows h k"]:
    """Splits states into heads."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def head_projection(config: OFAConfig, target: str = "") -> Dense:
    """A linear map onto all heads: of states (SPEC 1.7) or of normalized positions (SPEC 1.5).

    OFA-NOTE: SPEC 1.10. Below width 256 it starts at 0.4 of the Glorot scale, so that attention
    starts nearly uniform, as it does at the official scale; sharp random attention delays learning
    which word belongs to which patch.

    Args:
      config: the model's configuration.
      target: name of a state's projection for `TuningConfig.low_rank`; "" for positions.
    """
    d = config.width
    narrow = 0.4 if dense_scale(d, d, d) != OFFICIAL_SCALE else 1.0
    return Dense(
        d,
        axes=("embed", "joined_kv"),
        scale=narrow * dense_scale(d, d, d),
        dtype=jnp.dtype(config.dtype),
        low_rank=config.tuning.low_rank(target),
    )


class RelativeTables(nn.Module):
    """The two relative tables of one layer: text distances and image offsets (SPEC 1.6)."""

    config: OFAConfig

    def setup(self) -> None:
        cfg = self.config
        axes = ("relpos_buckets", "heads")
        self.text = Table(cfg.text_relative_buckets, cfg.num_heads, axes, OFFICIAL_SCALE)
        self.image = Table(cfg.image_relative_buckets, cfg.num_heads, axes, OFFICIAL_SCALE)

    def __call__(self) -> tuple[Float[Array, "text h"], Float[Array, "image h"]]:
        """Rows of text and of image buckets."""
        return self.text(), self.image()


class Attention(nn.Module):
    """Projections around `ofa_jax.ops.attention.attention`."""

    config: OFAConfig

    def setup(self) -> None:
        cfg = self.config
        self.query = head_projection(cfg, "query")
        self.key = head_projection(cfg, "key")
        self.value = head_projection(cfg, "value")
        self.output = Dense(
            cfg.width,
            axes=("joined_kv", "embed"),
            scale=dense_scale(cfg.width, cfg.width, cfg.width),
            dtype=jnp.dtype(cfg.dtype),
            low_rank=cfg.tuning.low_rank("output"),
        )
        self.head_scale = self.param(
            "head_scale", partitioned(nn.initializers.ones_init(), ("heads",)), (cfg.num_heads,)
        )

    def project(
        self, x: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n h k"], Float[Array, "b n h k"], Float[Array, "b n h k"]]:
        """Unscaled queries, keys and values."""
        query, key, value = parallel_dense((self.query, self.key, self.value), x)
        return self._heads(query), self._heads(key), self._heads(value)

    def project_query(self, x: Float[Array, "b t d"]) -> Float[Array, "b t h k"]:
        """Unscaled queries."""
        return self._heads(self.query(x))

    def project_key_value(
        self, x: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n h k"], Float[Array, "b n h k"]]:
        """Keys and values."""
        key, value = parallel_dense((self.key, self.value), x)
        return self._heads(key), self._heads(value)

    def merge(self, heads: Float[Array, "*rows h k"]) -> Float[Array, "*rows d"]:
        """Scales each head, joins them and projects."""
        scaled = heads * self.head_scale.astype(heads.dtype)[:, None]
        return self.output(scaled.reshape(*scaled.shape[:-2], -1))

    def __call__(
        self,
        queries: Float[Array, "b t d"],
        keys: Float[Array, "b n d"] | None = None,
        *,
        query_position: Float[Array, "#b t h k"] | None = None,
        key_position: Float[Array, "#b n h k"] | None = None,
        bias: Float[Array, "#b h t n"] | None = None,
        key_mask: Bool[Array, "b n"] | None = None,
        causal: bool = False,
        prefix: Prefix | None = None,
        train: bool = False,
    ) -> Float[Array, "b t d"]:
        """Attends from `queries` to `keys`.

        Args:
          queries: of the states.
          keys: also the source of the values; None = self-attention.
          query_position: position queries.
          key_position: position keys.
          bias: added to the logits.
          key_mask: True = keep.
          causal: whether query i sees only keys 0..i.
          prefix: keys and values that every query sees before all others, or None.
          train: whether attention dropout acts.
        """
        cfg = self.config
        if keys is None:
            query, key, value = self.project(queries)
        else:
            query = self.project_query(queries)
            key, value = self.project_key_value(keys)
        if prefix is not None:
            key, value, key_position, bias, key_mask = prepend_prefix(
                prefix, key, value, key_position, bias, key_mask
            )
        rate = cfg.attention_dropout if train else 0.0
        heads = attention_ops.attention(
            query,
            key,
            value,
            query_position=query_position,
            key_position=key_position,
            bias=bias,
            key_mask=key_mask,
            causal=causal,
            dropout_rate=rate,
            dropout_rng=self.make_rng("dropout") if rate > 0.0 else None,
            implementation=cfg.attention,
        )
        heads = nn.with_logical_constraint(heads, ("batch", "length", "heads", "kv"))
        return self.merge(heads)

    def _heads(self, x: Float[Array, "b n d"]) -> Float[Array, "b n h k"]:
        x = split_heads(x, self.config.num_heads)
        return nn.with_logical_constraint(x, ("batch", "length", "heads", "kv"))
