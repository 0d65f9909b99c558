"""The whole VQGAN: images to codes, codes to images (VQGAN_SPEC 2, 4, 8).

`ofa_jax.checkpoint.vqgan` fills it with released weights, `ofa_jax.image_codes` makes an image
tokenizer of it. Every method can be compiled. On accelerators set the matmul precision to float32
around it: with less, some codes change.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from ofa_jax.model.vqgan.config import VQGANConfig
from ofa_jax.model.vqgan.networks import TRAINING, Decoder, Encoder, pointwise
from ofa_jax.model.vqgan.quantizers import GumbelQuantizer, NearestQuantizer, Quantized

__all__ = ["VQGAN", "normalized", "to_pixels"]


class VQGAN(nn.Module):
    """Encoder, codebook and decoder.

    OFA-NOTE: SPEC 7.9. Encoding takes the likeliest code of each place; the official encoder adds
    Gumbel noise even in evaluation, so the released codes are samples. `noise` brings them back.
    """

    config: VQGANConfig

    def setup(self) -> None:
        """Declares the parts under their official names, as far as those say something."""
        cfg = self.config
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)
        self.quant_conv = pointwise(cfg.embedding_dim)
        self.post_quant_conv = pointwise(cfg.latent_channels)
        quantizer_class = GumbelQuantizer if cfg.quantizer == "gumbel" else NearestQuantizer
        self.quantizer = quantizer_class(cfg)

    def latents(self, images: Float[Array, "b y x 3"]) -> Float[Array, "b gy gx d"]:
        """Images in [-1, 1] to latents before the codebook."""
        return self.quant_conv(self.encoder(images))

    def scores(self, images: Float[Array, "b y x 3"]) -> Float[Array, "b gy gx codes"]:
        """Images in [-1, 1] to scores of all codes."""
        return self.quantizer.scores(self.latents(images))

    def encode(
        self, images: Float[Array, "b y x 3"], noise: Float[Array, "b gy gx codes"] | None = None
    ) -> Int32[Array, "b gy gx"]:
        """The codes of images.

        Args:
          images: in [-1, 1] (`normalized`).
          noise: added to the scores. Gumbel noise draws
            codes as the official encoder does; None takes the best.

        Returns:
          Codes of places; the sides are divided by `config.patch` and rounded down.
        """
        scores = self.scores(images)
        return jnp.argmax(scores if noise is None else scores + noise, axis=-1).astype(jnp.int32)

    def decode(self, codes: Int[Array, "b gy gx"]) -> Float[Array, "b y x 3"]:
        """The images of codes.

        Args:
          codes: in [0, num_codes).

        Returns:
          Images, about [-1, 1] (`to_pixels` limits it).
        """
        return self.decoder(self.post_quant_conv(self.quantizer.lookup(codes)))

    def __call__(
        self,
        images: Float[Array, "b y x 3"],
        *,
        noise: Float[Array, "b gy gx codes"] | None = None,
        temperature: float | Float[Array, ""] = 1.0,
        hard: bool = True,
    ) -> tuple[Float[Array, "b _ _ 3"], Quantized]:
        """The forward pass of training.

        Args:
          images: in [-1, 1].
          noise: see the quantizers.
          temperature: see the quantizers.
          hard: see the quantizers.

        Returns:
          (reconstruction, latents with the codebook's loss and the codes).
        """
        latents = self.latents(images)
        # Of these dead codes are revived.
        self.sow(TRAINING, "latents", latents)
        quantized = self.quantizer(latents, noise=noise, temperature=temperature, hard=hard)
        return self.decoder(self.post_quant_conv(quantized.latents)), quantized


def normalized(pixels: UInt8[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """Pixels to numbers in [-1, 1]."""
    return pixels.astype(jnp.float32) / 255.0 * 2.0 - 1.0


def to_pixels(images: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Images to pixels: limited to [-1, 1], then truncated (VQGAN_SPEC 8)."""
    return ((jnp.clip(images, -1.0, 1.0) + 1.0) / 2.0 * 255.0).astype(jnp.uint8)
