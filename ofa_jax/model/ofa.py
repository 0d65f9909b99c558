"""OFA: one encoder-decoder over text, images, boxes and image codes.

The module takes the batch of the input pipeline as it is (uint8 pixels, internal ids) and gives
logits over the one vocabulary. Losses, decoding and engines use only the methods here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num, Shaped, UInt8

from ofa_jax.model.config import HALF, OFAConfig
from ofa_jax.model.decoder import Cache, Decoder
from ofa_jax.model.encoder import Encoder, EncoderOutput
from ofa_jax.model.layers import Table, embedding_scale
from ofa_jax.ops.attention import masked_logits
from ofa_jax.vocab import PAD_ID

__all__ = ["OFA", "Batch", "normalize_images"]

Batch = Mapping[str, Shaped[Array, "b ..."]]


def normalize_images(
    images: UInt8[Array, "b y x 3"] | Float[Array, "b y x 3"],
    image_masks: Bool[Array, "b"],
    holes: Int[Array, "b 4"] | None,
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
) -> Float[Array, "b y x 3"]:
    """Pixels to what the ResNet takes (SPEC 4.4).

    OFA-NOTE: SPEC 1.3. Rows without an image become zeros, as the official placeholder images
    are, whatever the input pipeline put there.

    Args:
      images: bytes, normalized here to (v / 255 - mean) / std; or floats, taken as normalized
        already.
      image_masks: False = no image.
      holes: boxes (x0, y0, x1, y1) in pixels that are set to 0 after normalization, end excluded;
        empty boxes hide nothing. None = no holes.
      mean: per channel.
      std: per channel.
    """
    if jnp.issubdtype(images.dtype, jnp.integer):
        # One multiplication and one subtraction; exact where mean and std are 0.5.
        divisor = 255.0 * np.asarray(std, np.float32)
        offset = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
        pixels = images.astype(jnp.float32) / divisor - offset
    else:
        pixels = images.astype(jnp.float32)
    keep = image_masks[:, None, None]
    if holes is not None:
        y = jnp.arange(images.shape[1])[None, :, None]
        x = jnp.arange(images.shape[2])[None, None, :]
        x0, y0, x1, y1 = (holes[:, i, None, None] for i in range(4))
        keep = keep & ~((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
    return jnp.where(keep[..., None], pixels, 0.0)


class OFA(nn.Module):
    """The whole model. Variables: "params" and "batch_stats"."""

    config: OFAConfig

    def setup(self) -> None:
        cfg = self.config
        self.token_embedding = Table(
            cfg.embedding_rows, cfg.width, ("vocab", "embed"), embedding_scale(cfg.width)
        )
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)

    def __call__(
        self, batch: Batch, *, train: bool = False, patch_orders: Int[Array, "b p"] | None = None
    ) -> Float[Array, "b t v"]:
        """Teacher forcing on a batch.

        Args:
          batch: "encoder_input_tokens" int32[b, s] and "decoder_input_tokens" int32[b, t]; may
            hold "decoder_code_masks" bool[b] (missing = all text, which also saves the code
            branch) and the image entries that `encode` names. Other keys are not read.
          train: whether dropout, batch statistics and patch sampling act. With batch norm in
            mode "batch", apply with `mutable=["batch_stats"]`.
          patch_orders: see `encode`.

        Returns:
          Logits over the padded vocabulary; those beyond the real one are -1e9.
        """
        if self.is_initializing():
            batch = _with_all_inputs(batch, self.config)
        encoder_output = self.encode(batch, train=train, patch_orders=patch_orders)
        return self.decode(
            encoder_output,
            batch["decoder_input_tokens"],
            batch.get("decoder_code_masks"),
            train=train,
        )

    def encode(
        self, batch: Batch, *, train: bool = False, patch_orders: Int[Array, "b p"] | None = None
    ) -> EncoderOutput:
        """Encodes images and text.

        Args:
          batch: "encoder_input_tokens" int32[b, s], padded with 0; may hold "encoder_images"
            (see `normalize_images`), "encoder_image_masks" bool[b] (missing = all True) and
            "encoder_image_holes" int32[b, 4].
          train: whether dropout, batch statistics and patch sampling act.
          patch_orders: flat indices (row-major) of the patches to keep, overriding the random
            choice of `sample_patch_num`.
        """
        tokens = batch["encoder_input_tokens"]
        images = batch.get("encoder_images")
        masks = None
        if images is not None:
            masks = batch.get("encoder_image_masks")
            masks = jnp.ones(images.shape[:1], bool) if masks is None else masks.astype(bool)
            images = normalize_images(
                images,
                masks,
                batch.get("encoder_image_holes"),
                self.config.image_mean,
                self.config.image_std,
            )
        return self.encoder(
            self._embed(tokens), tokens != PAD_ID, images, masks, patch_orders, train
        )

    def decode(
        self,
        encoder_output: EncoderOutput,
        decoder_input_tokens: Int[Array, "b t"],
        code_masks: Num[Array, "b"] | Bool[Array, "b"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b t v"]:
        """Logits of whole targets.

        Args:
          encoder_output: from `encode`.
          decoder_input_tokens: BOS first.
          code_masks: True = the target is image codes; None = all text.
          train: whether dropout acts.
        """
        states = self.decoder(
            self._embed(decoder_input_tokens), encoder_output, _as_bool(code_masks), train
        )
        return self._logits(states)

    def init_cache(
        self,
        encoder_output: EncoderOutput,
        code_masks: Num[Array, "b"] | Bool[Array, "b"] | None = None,
        *,
        beams: int = 1,
        max_length: int,
    ) -> Cache:
        """The cache of incremental decoding, see `Decoder.init_cache`.

        Args:
          encoder_output: from `encode`.
          code_masks: True = image codes; None = all text.
          beams: beams g per sample.
          max_length: longest decoder input t, BOS included.

        Returns:
          dict with "self" (leaves [b, g, ...]), "cross" (leaves [b, ...], not repeated per
          beam) and "position" (neither).
        """
        if code_masks is None:
            code_masks = jnp.zeros(encoder_output.states.shape[:1], bool)
        return self.decoder.init_cache(encoder_output, code_masks.astype(bool), beams, max_length)

    def decode_step(
        self, cache: Cache, tokens: Int[Array, "b g"], position: Int[Array, ""] | int
    ) -> tuple[Float[Array, "b g v"], Cache]:
        """Logits after one more token per beam.

        Args:
          cache: from `init_cache` or the previous step.
          tokens: of each beam.
          position: index of the tokens in the decoder input (BOS = 0).

        Returns:
          Logits of the next token, and the new cache.
        """
        states, cache = self.decoder.step(self._embed(tokens), cache, position)
        return self._logits(states), cache

    def _embed(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        x = self.token_embedding()[tokens].astype(jnp.dtype(self.config.dtype))
        # Where the width of the table is split, rows are looked up in parts and then exchanged. The
        # partitioner alone would gather the whole batch for the gradient of the table.
        x = nn.with_logical_constraint(x, ("lookup_batch", "length", "embed"))
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))

    def _logits(self, states: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        cfg = self.config
        table = self.token_embedding().astype(states.dtype)
        logits = lax.dot_general(
            states,
            table,
            (((states.ndim - 1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        if cfg.embedding_rows > cfg.vocab_size:
            real = np.arange(cfg.embedding_rows) < cfg.vocab_size
            logits = logits + masked_logits(real)
        return nn.with_logical_constraint(logits, ("batch", "length", "vocab"))


def _as_bool(code_masks: Array | None) -> Array | None:
    return None if code_masks is None else code_masks.astype(bool)


def _with_all_inputs(batch: Batch, config: OFAConfig) -> Batch:
    """Adds the optional inputs, so that initialization makes every parameter."""
    b = batch["encoder_input_tokens"].shape[0]
    side = 2 * config.resnet.stride
    return {
        "encoder_images": jnp.zeros((b, side, side, 3), jnp.uint8),
        "decoder_code_masks": jnp.zeros((b,), bool),
        **batch,
    }
