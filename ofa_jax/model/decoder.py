"""The decoder: embedded targets to states, all at once or token by token (SPEC 1.9).

A target is text (with boxes) or image codes. The two modalities differ in the embedding norm, in
the absolute positions and in the relative table; both versions are computed for those that the
batch may hold, without a batch axis, and each sample selects its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ofa_jax.model import positions as position_ops
from ofa_jax.model import stack
from ofa_jax.model.attention import Attention, RelativeTables, head_projection, split_heads
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.encoder import EncoderOutput, check_length
from ofa_jax.model.feedforward import FeedForward
from ofa_jax.model.layers import (
    LayerNorm,
    Table,
    dropout,
    embedding_scale,
    residual_scale,
)
from ofa_jax.model.tuning import Adapter, Prefix, PrefixPrompt, prefix_weighted
from ofa_jax.ops import attention as attention_ops
from ofa_jax.ops.attention import MASKED_LOGIT, position_bias

Cache = dict[str, PyTree]


def select_modality(
    by_modality: Float[Array, "modalities *rest"], code_masks: Bool[Array, "b"] | None
) -> Float[Array, "_ *rest"]:
    """Gives each sample the version of its modality.

    Args:
      by_modality: of text, or of text and codes.
      code_masks: True = image codes; None where all samples are text.

    Returns:
      One for all samples where `code_masks` is None, else one each.
    """
    if code_masks is None:
        return by_modality[:1]
    mask = code_masks.reshape(-1, *(1,) * (by_modality.ndim - 1))
    return jnp.where(mask, by_modality[1], by_modality[0])


class DecoderContext(NamedTuple):
    """What all decoder layers share.

    Attributes:
      states: of the encoder.
      mask: True = keep.
      code_masks: None where all targets are text.
      self_bias: absolute bias per modality.
      cross_bias: absolute bias into the encoder, or None where the implementation rather
        concatenates position queries and keys.
      cross_query: position queries into the encoder, or None.
      cross_key: position keys of the encoder, or None.
    """

    states: Float[Array, "b n d"]
    mask: Bool[Array, "b n"]
    code_masks: Bool[Array, "b"] | None
    self_bias: Float[Array, "modalities h t t"]
    cross_bias: Float[Array, "#b h t n"] | None
    cross_query: Float[Array, "#b t h k"] | None
    cross_key: Float[Array, "#b n h k"] | None


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention, feed-forward (SPEC 1.9)."""

    config: OFAConfig

    def setup(self) -> None:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        self.relative = RelativeTables(cfg)
        self.self_attention_norm = LayerNorm(dtype=dtype)
        self.self_attention = Attention(cfg)
        self.self_attention_out_norm = LayerNorm(dtype=dtype)
        self.cross_attention_norm = LayerNorm(dtype=dtype)
        self.cross_attention = Attention(cfg)
        self.cross_attention_out_norm = LayerNorm(dtype=dtype)
        self.feedforward_norm = LayerNorm(dtype=dtype)
        self.feedforward = FeedForward(cfg, "decoder")
        if cfg.tuning.adapter_dim:
            self.adapter = Adapter(cfg)
        if cfg.scale_resids:
            self.residual_factor = residual_scale(self, cfg.width)

    def __call__(
        self, x: Float[Array, "b t d"], own: stack.OwnInputs, context: DecoderContext, train: bool
    ) -> tuple[Float[Array, "b t d"], None]:
        """Applies the layer to whole targets.

        Args:
          x: the states.
          own: drop-path rate and prefix of this layer.
          context: see `DecoderContext`.
          train: whether dropout acts.

        Returns:
          The states, and None (the form that `nn.scan` wants).
        """
        y = self.self_attention_norm(x)
        # OFA-NOTE: SPEC 1.9. No padding mask: padding is at the end, where a causal query never
        # looks, and its own outputs have no weight in the loss.
        y = self.self_attention(
            y,
            bias=self._self_bias(x.shape[1], context),
            causal=True,
            prefix=own.prefix,
            train=train,
        )
        x = x + self._drop(self.self_attention_out_norm(y), own.drop_rate, train)

        y = self.cross_attention(
            self.cross_attention_norm(x),
            context.states,
            query_position=context.cross_query,
            key_position=context.cross_key,
            bias=context.cross_bias,
            key_mask=context.mask,
            train=train,
        )
        x = x + self._drop(self.cross_attention_out_norm(y), own.drop_rate, train)

        y = self.feedforward(self.feedforward_norm(x), train)
        x = self._scaled(x) + self._drop(y, own.drop_rate, train, self._adapted)
        return nn.with_logical_constraint(x, ("batch", "length", "embed")), None

    def cross_key_value(self, states: Float[Array, "b n d"]) -> dict[str, Float[Array, "b h n k"]]:
        """Projects encoder states once: key and value."""
        key, value = self.cross_attention.project_key_value(states)
        return {"key": key.transpose(0, 2, 1, 3), "value": value.transpose(0, 2, 1, 3)}

    def step(
        self,
        x: Float[Array, "b g d"],
        position: Int[Array, ""] | int,
        own: dict[str, Float[Array, "b g h t k"]],
        cross: dict[str, Float[Array, "b h n k"]],
        rows: StepRows,
        prefix: Prefix | None = None,
    ) -> tuple[Float[Array, "b g d"], dict[str, Float[Array, "b g h t k"]]]:
        """Applies the layer to one token of each beam.

        Args:
          x: the states.
          position: index of the token in the decoder input.
          own: cached key and value of this layer.
          cross: projected encoder states.
          rows: position logits of this step.
          prefix: of this layer, without a batch, or None.

        Returns:
          The states, and `own` with this token written at `position`.
        """
        scale = (2 * self.config.head_dim) ** -0.5
        y = self.self_attention_norm(x)
        query, key, value = self.self_attention.project(y)
        query = query * scale
        own = {
            "key": lax.dynamic_update_slice_in_dim(own["key"], key[:, :, :, None], position, 3),
            "value": lax.dynamic_update_slice_in_dim(
                own["value"], value[:, :, :, None], position, 3
            ),
        }
        logits = jnp.einsum(
            "bghk,bghtk->bght", query, own["key"], preferred_element_type=jnp.float32
        )
        logits = logits + (rows.own + self._relative_row(position, rows))[:, None]
        seen = jnp.arange(logits.shape[-1]) <= position
        logits = jnp.where(seen, logits, MASKED_LOGIT)
        if prefix is None:
            y = _weighted(logits, own["value"], "bght,bghtk->bghk")
        else:
            y = prefix_weighted(prefix, query, logits, own["value"])
        x = x + self.self_attention_out_norm(self.self_attention.merge(y))

        query = self.cross_attention.project_query(self.cross_attention_norm(x)) * scale
        logits = jnp.einsum(
            "bghk,bhnk->bghn", query, cross["key"], preferred_element_type=jnp.float32
        )
        logits = jnp.where(rows.mask[:, None, None], logits + rows.cross[:, None], MASKED_LOGIT)
        y = _weighted(logits, cross["value"], "bghn,bhnk->bghk")
        x = x + self.cross_attention_out_norm(self.cross_attention.merge(y))
        y = self._adapted(self.feedforward(self.feedforward_norm(x)))
        return self._scaled(x) + y, own

    def _drop(
        self,
        y: Array,
        drop_rate: Array | float,
        train: bool,
        adapt: Callable[[Array], Array] | None = None,
    ) -> Array:
        cfg = self.config
        rates = {"drop_rate": drop_rate, "max_drop_path": cfg.decoder_drop_path}
        return stack.regularized(self, y, config=cfg, train=train, adapt=adapt, **rates)

    def _adapted(self, y: Array) -> Array:
        return self.adapter(y) if self.config.tuning.adapter_dim else y

    def _scaled(self, residual: Array) -> Array:
        if not self.config.scale_resids:
            return residual
        return residual * self.residual_factor.astype(residual.dtype)

    def _self_bias(self, length: int, context: DecoderContext) -> Array:
        cfg = self.config
        text_table, image_table = self.relative()
        by_modality = position_ops.text_relative_bias(
            text_table, length, cfg.token_bucket_size, cfg.token_bucket_range
        )[None]
        if context.code_masks is not None:
            codes = position_ops.code_relative_bias(
                image_table, cfg.code_window, length, cfg.image_bucket_size
            )
            by_modality = jnp.concatenate([by_modality, codes[None]])
        by_modality = by_modality.astype(context.self_bias.dtype) + context.self_bias
        return select_modality(by_modality, context.code_masks)

    def _relative_row(
        self, position: Int[Array, ""] | int, rows: StepRows
    ) -> Float[Array, "b h t"]:
        """One row of the relative bias, gathered for this step only."""
        cfg = self.config
        text_table, image_table = self.relative()
        length = rows.own.shape[-1]
        line = position_ops.text_buckets(cfg.token_bucket_size, cfg.token_bucket_range, length)
        index = lax.dynamic_slice_in_dim(jnp.asarray(line[::-1]), length - 1 - position, length)
        ids = jnp.asarray(
            position_ops.code_position_ids(cfg.code_window, cfg.image_bucket_size, length)
        )
        image_index = position_ops.image_buckets(ids[position], ids, cfg.image_bucket_size)
        by_modality = jnp.stack([text_table[index].T, image_table[image_index].T])
        return select_modality(by_modality, rows.code_masks)


class StepRows(NamedTuple):
    """Position logits of one decoding step, shared by layers and beams.

    Attributes:
      own: absolute logits into the decoder's own positions.
      cross: absolute logits into the encoder.
      mask: of the encoder.
      code_masks: True = image codes.
    """

    own: Float[Array, "b h t"]
    cross: Float[Array, "b h n"]
    mask: Bool[Array, "b n"]
    code_masks: Bool[Array, "b"]


def _weighted(logits: Array, values: Array, equation: str) -> Array:
    probabilities = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
    return jnp.einsum(equation, probabilities, values)


class DecoderPositions(nn.Module):
    """Absolute positions of both modalities of targets and their projections (SPEC 1.9)."""

    config: OFAConfig

    def setup(self) -> None:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        axes = ("abspos_buckets", "embed")
        scale = embedding_scale(cfg.width)
        self.text_table = Table(cfg.text_positions, cfg.width, axes, scale)
        self.image_table = Table(cfg.image_positions, cfg.width, axes, scale)
        self.text_norm = LayerNorm(dtype=dtype)
        self.image_norm = LayerNorm(dtype=dtype)
        self.self_query = head_projection(cfg)
        self.self_key = head_projection(cfg)
        self.cross_query = head_projection(cfg)
        self.cross_key = head_projection(cfg)

    def __call__(self, length: int, codes: bool) -> dict[str, Float[Array, "modalities t h k"]]:
        """Unscaled position queries and keys of the decoder input.

        Args:
          length: decoder input length t.
          codes: whether image codes are wanted beside text.

        Returns:
          "self_query", "self_key", "cross_query"; two modalities with codes.

        Raises:
          ValueError: if the target is longer than the position table.
        """
        cfg = self.config
        check_length("decoder_input_tokens", length, cfg)
        u = self.text_norm(self.text_table()[:length])[None]
        if codes:
            ids = position_ops.code_position_ids(cfg.code_window, cfg.image_bucket_size, length)
            u = jnp.concatenate([u, self.image_norm(self.image_table()[ids])[None]])
        return {
            "self_query": split_heads(self.self_query(u), cfg.num_heads),
            "self_key": split_heads(self.self_key(u), cfg.num_heads),
            "cross_query": split_heads(self.cross_query(u), cfg.num_heads),
        }

    def encoder_keys(self, positions: Float[Array, "b n d"]) -> Float[Array, "b n h k"]:
        """Position keys of the encoder's positions, which are one for all samples or one each."""
        keys = split_heads(self.cross_key(positions), self.config.num_heads)
        if keys.shape[0] == 1:
            return keys
        return nn.with_logical_constraint(keys, ("batch", "length", "heads", "kv"))


class Decoder(nn.Module):
    """Embedding norms, positions and the layer stack."""

    config: OFAConfig

    def setup(self) -> None:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        self.text_norm = LayerNorm(dtype=dtype)
        self.code_norm = LayerNorm(dtype=dtype)
        self.positions = DecoderPositions(cfg)
        if cfg.layer_stack == "scan":
            self.layers = stack.scanned_layer(DecoderLayer, cfg, cfg.decoder_layers)(cfg)
        else:
            layer = stack.wrapped_layer(DecoderLayer, cfg)
            self.layers = [layer(cfg) for _ in range(cfg.decoder_layers)]
        self.final_norm = LayerNorm(dtype=dtype)
        if cfg.tuning.decoder_prefix:
            self.prefix = PrefixPrompt(cfg, cfg.decoder_layers, cfg.tuning.decoder_prefix)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        encoder_output: EncoderOutput,
        code_masks: Bool[Array, "b"] | None,
        train: bool = False,
    ) -> Float[Array, "b t d"]:
        """Teacher forcing.

        Args:
          x: token embeddings of the decoder input.
          encoder_output: what `ofa_jax.model.encoder.Encoder` returned.
          code_masks: True = image codes; None where all targets are text.
          train: whether dropout acts.

        Returns:
          States, ready for the output projection.
        """
        cfg = self.config
        x = self._embedded(x, code_masks)
        if train and cfg.dropout > 0.0:
            x = dropout(x, cfg.dropout, self.make_rng("dropout"))
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        projected = self.positions(x.shape[1], codes=code_masks is not None)
        cross_bias, cross_query = None, projected["cross_query"]
        cross_key = self.positions.encoder_keys(encoder_output.positions)
        if cross_key.shape[0] == 1 and attention_ops.materializes_logits(cfg.attention):
            cross_bias = select_modality(position_bias(cross_query, cross_key), code_masks)
            cross_query, cross_key = None, None
        else:
            cross_query = select_modality(cross_query, code_masks)
        context = DecoderContext(
            states=encoder_output.states,
            mask=encoder_output.mask,
            code_masks=code_masks,
            self_bias=position_bias(projected["self_query"], projected["self_key"]),
            cross_bias=cross_bias,
            cross_query=cross_query,
            cross_key=cross_key,
        )
        rates = stack.drop_path_rates(cfg.decoder_drop_path, cfg.decoder_layers)
        prefix = self.prefix(x.shape[0], train) if cfg.tuning.decoder_prefix else None
        x = stack.run_layers(self.layers, x, rates, context, train, prefix)
        return self.final_norm(x)

    def init_cache(
        self,
        encoder_output: EncoderOutput,
        code_masks: Bool[Array, "b"],
        beams: int,
        max_length: int,
    ) -> Cache:
        """Everything that does not change from step to step, and empty keys and values.

        Args:
          encoder_output: what `ofa_jax.model.encoder.Encoder` returned.
          code_masks: True = image codes.
          beams: beams g.
          max_length: decoder input length t.

        Returns:
          "self": per layer key and value, dtype[b, g, h, t, k];
          "cross": per layer key and value, dtype[b, h, n, k], "mask" bool[b, n] and "code_masks"
          bool[b], not repeated per beam;
          "position": projected positions, without beams: "self_query" and "cross_query"
          dtype[2, t, h, k], "self_key" dtype[2, t, h, k], "cross_key" dtype[1 or b, n, h, k];
          "prefix", only with a decoder prefix: `Prefix` of all layers, dtype[l, m, h, k].
        """
        cfg = self.config
        b = encoder_output.states.shape[0]
        shape = (b, beams, cfg.num_heads, max_length, cfg.head_dim)
        zeros = jnp.zeros(shape, jnp.dtype(cfg.dtype))
        position = self.positions(max_length, codes=True)
        position["cross_key"] = self.positions.encoder_keys(encoder_output.positions)
        own = {f"layers_{i}": {"key": zeros, "value": zeros} for i in range(cfg.decoder_layers)}
        cross: Cache = {
            f"layers_{i}": layer.cross_key_value(encoder_output.states)
            for i, layer in enumerate(self._single_layers())
        }
        cross["mask"] = encoder_output.mask
        cross["code_masks"] = code_masks
        cache = {"self": own, "cross": cross, "position": position}
        if cfg.tuning.decoder_prefix:
            cache["prefix"] = jax.tree.map(lambda leaf: leaf[:, 0], self.prefix(b, train=False))
        return cache

    def step(
        self, x: Float[Array, "b g d"], cache: Cache, position: Int[Array, ""] | int
    ) -> tuple[Float[Array, "b g d"], Cache]:
        """One step of incremental decoding.

        Position logits are made for this one row only, once for all layers and beams.

        Args:
          x: embeddings of the newest tokens.
          cache: see `init_cache`.
          position: index of these tokens in the decoder input (BOS = 0).

        Returns:
          States, ready for the output projection, and the cache.
        """
        cross, projected = cache["cross"], cache["position"]
        code_masks = cross["code_masks"]
        x = self._embedded(x, code_masks)
        scale = (2 * self.config.head_dim) ** -0.5

        def query(name: str) -> Array:
            row = lax.dynamic_index_in_dim(projected[name], position, 1, keepdims=False)
            return row.astype(jnp.float32) * scale

        own_by_modality = jnp.einsum("ahk,athk->aht", query("self_query"), projected["self_key"])
        cross_query = select_modality(query("cross_query"), code_masks)
        cross_key = projected["cross_key"]
        if cross_key.shape[0] == 1:
            cross_row = jnp.einsum("bhk,nhk->bhn", cross_query, cross_key[0])
        else:
            cross_row = jnp.einsum("bhk,bnhk->bhn", cross_query, cross_key)
        rows = StepRows(
            own=select_modality(own_by_modality, code_masks),
            cross=cross_row,
            mask=cross["mask"],
            code_masks=code_masks,
        )
        own = {}
        for i, layer in enumerate(self._single_layers()):
            name = f"layers_{i}"
            prefix = cache["prefix"].layer(i) if "prefix" in cache else None
            x, own[name] = layer.step(x, position, cache["self"][name], cross[name], rows, prefix)
        return self.final_norm(x), {**cache, "self": own}

    def _embedded(
        self, x: Float[Array, "b t d"], code_masks: Bool[Array, "b"] | None
    ) -> Float[Array, "b t d"]:
        if code_masks is None:
            return self.text_norm(x)
        mask = code_masks[:, None, None]
        return jnp.where(mask, self.code_norm(x), self.text_norm(x))

    def _single_layers(self) -> list[DecoderLayer]:
        if self.config.layer_stack == "loop":
            return cast(list[DecoderLayer], list(self.layers))
        # Scanned layers run one step as a loop over slices: their caches keep [b, g] in front,
        # so a beam search reorders both layouts alike.
        stacked = nn.unbox(self.variables["params"]["layers"])
        return [
            DecoderLayer(self.config, parent=None).bind(
                {"params": jax.tree.map(lambda a, i=i: a[i], stacked)}
            )
            for i in range(self.config.decoder_layers)
        ]
