"""Latents to codes and back, and what training adds to it (VQGAN_SPEC 4 and 5).

Both quantizers score every code at every place; the code is the one of the highest score, the
first of equal ones. The released model scores with a linear map (`GumbelQuantizer`), plain models
with minus the squared distance to their entries (`NearestQuantizer`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32

from ofa_jax.model.layers import partitioned
from ofa_jax.model.vqgan.config import VQGANConfig
from ofa_jax.model.vqgan.networks import pointwise

# Logical names of its axes: codes are not split, since every place looks among all of them.
CODEBOOK_AXES = (None, "embed")
# Inside the logarithm of the Gumbel quantizer's loss.
_LOG_EPS = 1e-10


class Quantized(NamedTuple):
    """What a quantizer makes of latents in training.

    Attributes:
      latents: of the codes; gradients reach the encoder.
      loss: already weighted.
      codes: of each place.
    """

    latents: Float32[Array, "b y x d"]
    loss: Float32[Array, ""]
    codes: Int32[Array, "b y x"]


class GumbelQuantizer(nn.Module):
    """Codes by a learned score; training draws them with Gumbel noise."""

    config: VQGANConfig

    def setup(self) -> None:
        """Declares the scores' map and the codebook."""
        cfg = self.config
        self.logits = pointwise(cfg.num_codes)
        init = partitioned(nn.initializers.normal(1.0), CODEBOOK_AXES)
        self.codebook = self.param("codebook", init, (cfg.num_codes, cfg.embedding_dim))

    def scores(self, latents: Float[Array, "b y x d"]) -> Float[Array, "b y x codes"]:
        """The logits of all codes."""
        return self.logits(latents)

    def lookup(self, codes: Int[Array, "b y x"]) -> Float[Array, "b y x d"]:
        """The entries of codes."""
        return self.codebook[codes]

    def __call__(
        self,
        latents: Float[Array, "b y x d"],
        *,
        noise: Float[Array, "b y x codes"] | None = None,
        temperature: float | Float[Array, ""] = 1.0,
        hard: bool = True,
    ) -> Quantized:
        """Quantizes in training.

        Args:
          latents: of the encoder.
          noise: Gumbel noise; None adds none.
          temperature: of the softmax through which gradients pass.
          hard: whether latents are single entries (with the gradient of the softmax) or mixtures.

        Returns:
          Latents, the divergence of the scores from uniform, codes.
        """
        logits = self.scores(latents)
        noisy = logits if noise is None else logits + noise
        codes = jnp.argmax(noisy, axis=-1).astype(jnp.int32)
        shares = nn.softmax(noisy / temperature)
        if hard:
            chosen = jax.nn.one_hot(codes, self.config.num_codes, dtype=shares.dtype)
            shares = chosen - lax.stop_gradient(shares) + shares
        # Neither noise nor temperature in the loss.
        q = nn.softmax(logits)
        divergence = jnp.sum(q * jnp.log(q * self.config.num_codes + _LOG_EPS), axis=-1)
        return Quantized(
            jnp.einsum("byxv,vd->byxd", shares, self.codebook),
            self.config.kl_weight * jnp.mean(divergence),
            codes,
        )


class NearestQuantizer(nn.Module):
    """Codes by least squared distance (plain VQ)."""

    config: VQGANConfig

    def setup(self) -> None:
        """Declares the codebook."""
        cfg = self.config
        bound = 1.0 / cfg.num_codes
        self.codebook = self.param(
            "codebook",
            partitioned(
                lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound),
                CODEBOOK_AXES,
            ),
            (cfg.num_codes, cfg.embedding_dim),
        )

    def scores(self, latents: Float[Array, "b y x d"]) -> Float[Array, "b y x codes"]:
        """Minus the squared distances to all codes."""
        entries = self.codebook
        squares = jnp.sum(latents**2, axis=-1, keepdims=True) + jnp.sum(entries**2, axis=-1)
        return 2 * jnp.einsum("byxd,vd->byxv", latents, entries) - squares

    def lookup(self, codes: Int[Array, "b y x"]) -> Float[Array, "b y x d"]:
        """The entries of codes."""
        return self.codebook[codes]

    def __call__(
        self,
        latents: Float[Array, "b y x d"],
        *,
        noise: Float[Array, "b y x codes"] | None = None,
        temperature: float | Float[Array, ""] = 1.0,
        hard: bool = True,
    ) -> Quantized:
        """Quantizes in training.

        Args:
          latents: of the encoder.
          noise: must be None: distances are not drawn from.
          temperature: without meaning here.
          hard: without meaning here.

        Returns:
          Entries (gradients pass to the latents unchanged), the two commitment terms, codes.

        Raises:
          ValueError: with noise.
        """
        del temperature, hard
        if noise is not None:
            raise ValueError("a plain VQ codebook takes no noise: its codes are the nearest ones")
        codes = jnp.argmax(self.scores(latents), axis=-1).astype(jnp.int32)
        entries = self.lookup(codes)
        to_encoder = jnp.mean((lax.stop_gradient(entries) - latents) ** 2)
        to_codebook = jnp.mean((entries - lax.stop_gradient(latents)) ** 2)
        weight = self.config.commitment_weight
        if self.config.legacy_commitment:
            loss = to_encoder + weight * to_codebook
        else:
            loss = weight * to_encoder + to_codebook
        return Quantized(latents + lax.stop_gradient(entries - latents), loss, codes)
