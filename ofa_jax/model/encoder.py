"""The encoder: pixels and text to states (SPEC 1.4, 1.5, 1.8).

Image patches come first, then text. Positions never enter the states; they become attention
logits: absolute ones computed once for all layers, relative ones from tables of each layer.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from ofa_jax.model import positions as position_ops
from ofa_jax.model import stack
from ofa_jax.model.attention import Attention, RelativeTables, head_projection, split_heads
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.feedforward import FeedForward
from ofa_jax.model.layers import (
    Dense,
    LayerNorm,
    Table,
    dense_scale,
    dropout,
    embedding_scale,
    residual_scale,
)
from ofa_jax.model.resnet import ResNet
from ofa_jax.model.tuning import Adapter, PrefixPrompt
from ofa_jax.ops.attention import position_bias


@struct.dataclass
class EncoderOutput:
    """What the decoder needs to know about the input.

    Attributes:
      states: after the final norm; image tokens first.
      mask: True = keep.
      positions: normalized; b of them only where patches were sampled.
    """

    states: Float[Array, "b n d"]
    mask: Bool[Array, "b n"]
    positions: Float[Array, "#b n d"]


class EncoderContext(NamedTuple):
    """What all encoder layers share.

    Attributes:
      mask: True = keep.
      absolute_bias: None where positions differ per sample.
      query_position: with sampled patches, else None.
      key_position: with sampled patches, else None.
      sampled_ids: position ids of sampled patches, else None.
    """

    mask: Bool[Array, "b n"]
    absolute_bias: Float[Array, "1 h n n"] | None
    query_position: Float[Array, "b n h k"] | None
    key_position: Float[Array, "b n h k"] | None
    sampled_ids: Int[Array, "b p"] | None


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward with NormFormer's extra norms (SPEC 1.8).

    Attributes:
      config: the model's configuration.
      grid: patches per column and row, or None without images.
    """

    config: OFAConfig
    grid: tuple[int, int] | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], own: stack.OwnInputs, context: EncoderContext, train: bool
    ) -> tuple[Float[Array, "b n d"], None]:
        """Applies the layer.

        Args:
          x: the states.
          own: drop-path rate and prefix of this layer.
          context: see `EncoderContext`.
          train: whether dropout acts.

        Returns:
          The states, and None (the form that `nn.scan` wants).
        """
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)

        def drop(y: Array, adapter: Adapter | None = None) -> Array:
            rates = {"drop_rate": own.drop_rate, "max_drop_path": cfg.encoder_drop_path}
            return stack.regularized(self, y, config=cfg, train=train, adapt=adapter, **rates)

        y = LayerNorm(dtype=dtype, name="attention_norm")(x)
        y = Attention(cfg, name="attention")(
            y,
            query_position=context.query_position,
            key_position=context.key_position,
            bias=self._bias(x.shape[1], context),
            key_mask=context.mask,
            prefix=own.prefix,
            train=train,
        )
        x = x + drop(LayerNorm(dtype=dtype, name="attention_out_norm")(y))

        y = LayerNorm(dtype=dtype, name="feedforward_norm")(x)
        y = FeedForward(cfg, "encoder", name="feedforward")(y, train)
        if cfg.scale_resids:
            x = x * residual_scale(self, cfg.width).astype(dtype)
        adapter = Adapter(cfg, name="adapter") if cfg.tuning.adapter_dim else None
        x = x + drop(y, adapter)
        return nn.with_logical_constraint(x, ("batch", "length", "embed")), None

    def _bias(self, n: int, context: EncoderContext) -> Array:
        cfg = self.config
        text_table, image_table = RelativeTables(cfg, name="relative")()
        patches = 0
        if context.sampled_ids is not None:
            patches = context.sampled_ids.shape[1]
        elif self.grid is not None:
            patches = self.grid[0] * self.grid[1]
        relative = position_ops.text_relative_bias(
            text_table, n - patches, cfg.token_bucket_size, cfg.token_bucket_range
        )[None]
        if context.sampled_ids is not None:
            image = position_ops.sampled_relative_bias(
                image_table, context.sampled_ids, cfg.image_bucket_size
            )
            relative = position_ops.block_diagonal(image, relative)
        elif self.grid is not None:
            image = position_ops.grid_relative_bias(image_table, *self.grid, cfg.image_bucket_size)
            relative = position_ops.block_diagonal(image[None], relative)
        relative = relative.astype(jnp.dtype(cfg.dtype))
        if context.absolute_bias is not None:
            relative = relative + context.absolute_bias
        return relative


class EncoderPositions(nn.Module):
    """Absolute positions of patches and text, and their projections (SPEC 1.4, 1.5)."""

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
        self.query = head_projection(cfg)
        self.key = head_projection(cfg)

    def __call__(
        self, length: int, grid: tuple[int, int] | None
    ) -> tuple[Float[Array, "1 n d"], Float[Array, "1 n h k"], Float[Array, "1 n h k"]]:
        """Positions of a full grid followed by `length` text tokens.

        Args:
          length: text tokens s.
          grid: patches per column and row, or None.

        Returns:
          Normalized positions, and their unscaled queries and keys.

        Raises:
          ValueError: if the text is longer than the position table.
        """
        cfg = self.config
        check_length("encoder_input_tokens", length, cfg)
        p = self.text_norm(self.text_table()[:length])
        if grid is not None:
            p = jnp.concatenate([self.image_norm(self._image(*grid)), p])
        p = p[None]
        heads = cfg.num_heads
        return p, split_heads(self.query(p), heads), split_heads(self.key(p), heads)

    def _image(self, height: int, width: int) -> Array:
        cfg = self.config
        side, d = cfg.image_bucket_size, cfg.width
        table = self.image_table()[1:].reshape(side, side, d)
        origin = cfg.orig_patch_image_size // cfg.resnet.stride
        if cfg.interpolate_position and height * width > origin * origin:
            rows = jax.image.resize(
                table[:origin, :origin], (height, width, d), "bilinear", antialias=False
            )
        else:
            position_ops.grid_position_ids(height, width, side)  # Raises beyond the grid.
            rows = table[:height, :width]
        return rows.reshape(height * width, d)


def check_length(name: str, length: int, config: OFAConfig) -> None:
    """Raises ValueError where a text is longer than the table of positions."""
    if length > config.text_positions:
        raise ValueError(
            f"{name} has {length} positions, but the position table has {config.text_positions} "
            f"rows (max_positions {config.max_positions} + 2)"
        )


class Encoder(nn.Module):
    """ResNet, embeddings, positions and the layer stack."""

    config: OFAConfig

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "b s d"],
        text_mask: Bool[Array, "b s"],
        images: Float[Array, "b y x 3"] | None,
        image_masks: Bool[Array, "b"] | None,
        patch_orders: Int[Array, "b p"] | None,
        train: bool = False,
    ) -> EncoderOutput:
        """Encodes a batch.

        Args:
          text: token embeddings.
          text_mask: True = keep.
          images: normalized pixels, or None for a batch of text only.
          image_masks: False = this row has no image; None with `images` None.
          patch_orders: flat indices of the patches to keep, or None.
          train: whether dropout, batch statistics and patch sampling act.
        """
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        b, s, _ = text.shape
        types = Table(2, cfg.width, (None, "embed"), embedding_scale(cfg.width), name="type")()

        x = LayerNorm(dtype=dtype, name="text_norm")(text + types[0].astype(dtype))
        mask = text_mask
        grid: tuple[int, int] | None = None
        sampled_ids: Array | None = None
        if images is not None:
            features = ResNet(cfg, name="resnet")(images, train)
            grid = (features.shape[1], features.shape[2])
            features = features.reshape(b, grid[0] * grid[1], -1)
            if patch_orders is None:
                patch_orders = self._sample_patches(b, features.shape[1], train)
            if patch_orders is not None:
                features = jnp.take_along_axis(features, patch_orders[:, :, None], axis=1)
                ids = position_ops.grid_position_ids(*grid, cfg.image_bucket_size)
                sampled_ids = jnp.asarray(ids)[patch_orders]
            patches = Dense(
                cfg.width,
                axes=("conv_in", "embed"),
                scale=dense_scale(features.shape[-1], cfg.width, cfg.width),
                dtype=dtype,
                name="image_projection",
            )(features)
            patches = LayerNorm(dtype=dtype, name="image_norm")(patches + types[1].astype(dtype))
            x = jnp.concatenate([patches, x], axis=1)
            image_mask = jnp.broadcast_to(cast(Array, image_masks)[:, None], patches.shape[:2])
            mask = jnp.concatenate([image_mask, text_mask], axis=1)
        if train and cfg.dropout > 0.0:
            x = dropout(x, cfg.dropout, self.make_rng("dropout"))
        x = x * mask[:, :, None].astype(dtype)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))

        p, query, key = EncoderPositions(cfg, name="positions")(s, grid)
        absolute_bias = None
        if sampled_ids is None:
            absolute_bias = position_bias(query, key)
            query, key = None, None
        else:
            orders = cast(Array, patch_orders)
            p, query, key = (_sampled_positions(a, orders, s) for a in (p, query, key))
        context = EncoderContext(mask, absolute_bias, query, key, sampled_ids)

        rates = stack.drop_path_rates(cfg.encoder_drop_path, cfg.encoder_layers)
        if cfg.layer_stack == "scan":
            scanned = stack.scanned_layer(EncoderLayer, cfg, cfg.encoder_layers)
            layers = scanned(cfg, grid, name="layers")
        else:
            layer = stack.wrapped_layer(EncoderLayer, cfg)
            layers = [layer(cfg, grid, name=f"layers_{i}") for i in range(cfg.encoder_layers)]
        prefix = None
        if cfg.tuning.encoder_prefix:
            prompt = PrefixPrompt(cfg, cfg.encoder_layers, cfg.tuning.encoder_prefix, name="prefix")
            prefix = prompt(b, train)
        x = stack.run_layers(layers, x, rates, context, train, prefix)
        x = LayerNorm(dtype=dtype, name="final_norm")(x)
        return EncoderOutput(states=x, mask=mask, positions=p)

    def _sample_patches(self, b: int, patches: int, train: bool) -> Array | None:
        count = self.config.sample_patch_num
        if not train or count == 0 or count >= patches:
            return None
        noise = jax.random.uniform(self.make_rng("patches"), (b, patches))
        return jax.lax.top_k(noise, count)[1]


def _sampled_positions(x: Array, patch_orders: Array, text_length: int) -> Array:
    """Rows of float[1, p + s, ...] for each sample's patches and all text: float[b, k + s, ...]."""
    patches = x.shape[1] - text_length
    b, count = patch_orders.shape
    image = x[0, :patches][patch_orders]
    text = jnp.broadcast_to(x[:, patches:], (b, text_length, *x.shape[2:]))
    x = jnp.concatenate([image, text], axis=1).reshape(b, count + text_length, *x.shape[2:])
    # Without it, FSDP splits these like the table that they come from: by width, not by sample.
    inner = ("embed",) if x.ndim == 3 else ("heads", "kv")
    return nn.with_logical_constraint(x, ("batch", "length", *inner))
