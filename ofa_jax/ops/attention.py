"""Attention with OFA's position logits, and the choice of its implementation.

OFA's attention logits are content plus absolute position plus a relative bias, where content and
position each are dot products scaled by (2 * head_dim)^-0.5 (SPEC 1.5, 1.7). Two exact forms:

* concatenation: [q; q_pos] . [k; k_pos] is one dot product of doubled heads with the usual scale,
  so no [b, h, t, n] bias exists and stock fused kernels fit;
* shared bias: where the positions are the same for the whole batch (axis of size 1), their logits
  are [1, h, t, n], and the encoder needs a bias of that shape for the relative tables anyway.

`attention` picks per call. Called by the attention module of `ofa_jax.model.attention`.
"""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, PRNGKeyArray

__all__ = ["MASKED_LOGIT", "attention", "masked_logits", "materializes_logits", "position_bias"]

# Finite, so that a row without any key to keep gives a mean instead of NaN.
MASKED_LOGIT = -1e9


def attention(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b n h k"],
    value: Float[Array, "b n h k"],
    *,
    query_position: Float[Array, "#b t h k"] | None = None,
    key_position: Float[Array, "#b n h k"] | None = None,
    bias: Float[Array, "#b h t n"] | None = None,
    key_mask: Bool[Array, "b n"] | None = None,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_rng: PRNGKeyArray | None = None,
    implementation: str = "auto",
) -> Float[Array, "b t h k"]:
    """Softmax attention over keys, softmax in float32 (SPEC 1.7).

    Args:
      query: not yet scaled.
      key: of the content.
      value: what is averaged.
      query_position: position queries, not yet scaled, or None.
      key_position: position keys, or None.
      bias: added to the logits, or None.
      key_mask: True = keep, or None.
      causal: whether query i sees only keys 0..i; where there are n - t keys more, they stand in
        front and every query sees them.
      dropout_rate: rate on the probabilities; needs `dropout_rng` when above 0.
      dropout_rng: PRNG key.
      implementation: "xla" (reference), "fused" (`jax.nn.dot_product_attention`, backend's
        choice), "cudnn" (the same, cuDNN flash attention required), or "auto" (= "xla").

    Returns:
      The averages in the dtype of `query`.

    Raises:
      ValueError: if the implementation is unknown or only one of the positions is given.
    """
    if (query_position is None) != (key_position is None):
        raise ValueError("query_position and key_position must be given together")
    scale = (2 * query.shape[-1]) ** -0.5
    if query_position is not None and key_position is not None:
        if query_position.shape[0] == 1 and key_position.shape[0] == 1:
            shared = position_bias(query_position, key_position)
            bias = shared if bias is None else bias + shared.astype(bias.dtype)
        else:
            query = jnp.concatenate([query, jnp.broadcast_to(query_position, query.shape)], -1)
            key = jnp.concatenate([key, jnp.broadcast_to(key_position, key.shape)], -1)
    t, n = query.shape[1], key.shape[1]
    if causal and n != t:
        # Fused kernels align a causal mask of unequal lengths differently; a bias means the same.
        unseen = _causal_bias(t, n)
        bias = unseen if bias is None else bias.astype(jnp.float32) + unseen
        causal = False
    if implementation == "auto" or dropout_rate > 0.0:
        implementation = "xla"
    if implementation == "xla":
        return _xla(query, key, value, scale, bias, key_mask, causal, dropout_rate, dropout_rng)
    if implementation in ("fused", "cudnn"):
        return _fused(query, key, value, scale, bias, key_mask, causal, implementation)
    raise ValueError(
        f"attention implementation must be auto, xla, fused or cudnn, got {implementation!r}"
    )


def materializes_logits(implementation: str) -> bool:
    """Whether logits [b, h, t, n] exist anyway, so that a bias of them costs nothing."""
    return implementation in ("auto", "xla")


def masked_logits(mask: Bool[Array | np.ndarray, "*shape"]) -> Float32[Array, "*shape"]:
    """What to add to logits: 0 where the mask is True (keep), -1e9 elsewhere."""
    return jnp.where(mask, 0.0, jnp.float32(MASKED_LOGIT))


def position_bias(
    query_position: Float[Array, "a t h k"], key_position: Float[Array, "#a n h k"]
) -> Float[Array, "a h t n"]:
    """Absolute position logits of one or more position assignments, not yet scaled (SPEC 1.5)."""
    scale = (2 * query_position.shape[-1]) ** -0.5
    query_position = query_position * scale
    if key_position.shape[0] == 1:
        return jnp.einsum("athk,nhk->ahtn", query_position, key_position[0])
    return jnp.einsum("athk,anhk->ahtn", query_position, key_position)


def _causal_bias(t: int, n: int) -> Float32[Array, "1 1 t n"]:
    """-1e9 where query i may not see key n - t + j for j > i."""
    masked = np.full((1, 1, t, n), MASKED_LOGIT, np.float32)
    return cast(Array, np.triu(masked, 1 + n - t))


def _xla(
    query: Float[Array, "b t h _"],
    key: Float[Array, "b n h _"],
    value: Float[Array, "b n h k"],
    scale: float,
    bias: Float[Array, "#b #h t n"] | None,
    key_mask: Bool[Array, "b n"] | None,
    causal: bool,
    dropout_rate: float,
    dropout_rng: PRNGKeyArray | None,
) -> Float[Array, "b t h k"]:
    logits = jnp.einsum("bthk,bnhk->bhtn", query * scale, key, preferred_element_type=jnp.float32)
    # Masks are added: their logits are so low that nothing else of them survives the softmax, and
    # unlike a select, a sum of constants costs nothing in the backward pass.
    if causal:
        unseen = _causal_bias(*logits.shape[-2:])
        bias = unseen if bias is None else bias.astype(jnp.float32) + unseen
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    if key_mask is not None:
        logits = logits + masked_logits(key_mask)[:, None, None, :]
    probabilities = jax.nn.softmax(logits, axis=-1)
    if dropout_rate > 0.0:
        kept = jax.random.bernoulli(
            cast(Array, dropout_rng), 1.0 - dropout_rate, probabilities.shape
        )
        probabilities = jnp.where(kept, probabilities / (1.0 - dropout_rate), 0.0)
    return jnp.einsum("bhtn,bnhk->bthk", probabilities.astype(value.dtype), value)


def _fused(
    query: Float[Array, "b t h _"],
    key: Float[Array, "b n h _"],
    value: Float[Array, "b n h k"],
    scale: float,
    bias: Float[Array, "#b #h t n"] | None,
    key_mask: Bool[Array, "b n"] | None,
    causal: bool,
    implementation: str,
) -> Float[Array, "b t h k"]:
    k = value.shape[-1]
    if query.shape[-1] != k:
        # Fused kernels want one head size; the zero half of the values costs little beside the
        # [b, h, t, n] array that the concatenation saves.
        value = jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, query.shape[-1] - k)))
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        bias=None if bias is None else bias.astype(query.dtype),
        mask=None if key_mask is None else key_mask[:, None, None, :],
        scale=scale,
        is_causal=causal,
        implementation="cudnn" if implementation == "cudnn" else None,
    )
    return out[..., :k]
