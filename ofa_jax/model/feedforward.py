"""The feed-forward half of a layer, with NormFormer's inner norm (SPEC 1.8)."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ofa_jax.model.config import OFAConfig
from ofa_jax.model.layers import Dense, LayerNorm, dense_scale, dropout, gelu


class FeedForward(nn.Module):
    """Dense, gelu, norm over f, dense.

    Attributes:
      config: of the model.
      stack: "encoder" or "decoder", which may differ in f.
    """

    config: OFAConfig
    stack: str

    def setup(self) -> None:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        features = cfg.ffn_width(self.stack)
        scale = dense_scale(cfg.width, features, cfg.width)
        self.expand = Dense(
            features,
            axes=("embed", "mlp"),
            scale=scale,
            dtype=dtype,
            low_rank=cfg.tuning.low_rank("expand"),
        )
        self.norm = LayerNorm(axis="mlp", dtype=dtype)
        self.contract = Dense(
            cfg.width,
            axes=("mlp", "embed"),
            scale=scale,
            dtype=dtype,
            low_rank=cfg.tuning.low_rank("contract"),
        )

    def __call__(self, x: Float[Array, "b n d"], train: bool = False) -> Float[Array, "b n d"]:
        """Maps normalized states; in training activation dropout acts."""
        x = gelu(self.expand(x))
        if train and self.config.activation_dropout > 0.0:
            x = dropout(x, self.config.activation_dropout, self.make_rng("dropout"))
        x = self.norm(x)
        x = nn.with_logical_constraint(x, ("batch", "length", "mlp"))
        return self.contract(x)
