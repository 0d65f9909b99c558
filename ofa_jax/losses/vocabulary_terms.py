"""The four reductions over the vocabulary that every token loss is made of.

First stop after the model's logits. Cross entropy with or without smoothing is a linear
combination of the log normalizer, the target's logit and the sum of logits, so the table of
log-probabilities [b, t, v] need not exist. The derivative is written by hand: it recomputes the
softmax from the logits inside one fused expression, so the backward pass keeps no second
[b, t, v] array either. Logits may be sharded over the vocabulary: there are only reductions and
comparisons with an iota, no gathers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ofa_jax.vocab import NUM_SPECIALS

MASKED_LOGIT = -1e9
"""Finite stand-in for minus infinity, so that no NaN can appear in a gradient."""


class VocabularyTerms(NamedTuple):
    """Reductions of logits over the allowed part of the vocabulary.

    Attributes:
      log_normalizer: log of the sum of exponentials.
      target_logit: the logit of the target (`MASKED_LOGIT` where the target is not allowed).
      logit_sum: sum of the allowed logits.
      max_logit: the largest allowed logit; carries no gradient.
    """

    log_normalizer: Float[Array, "b t"]
    target_logit: Float[Array, "b t"]
    logit_sum: Float[Array, "b t"]
    max_logit: Float[Array, "b t"]


Allowed = Bool[Array, "v"] | Bool[Array, "b t v"] | None
"""Which ids may be chosen, True = allowed: everywhere the same or at each position. None = all."""


def range_mask(vocab_size: int, constraint_range: tuple[int, int] | None) -> Bool[Array, "v"]:
    """Which ids a constraint range leaves (SPEC 5.1, step 2).

    Args:
      vocab_size: number of real ids v.
      constraint_range: (start, stop) of the ids allowed besides the specials, or None for no
        constraint.

    Returns:
      True = allowed.

    Raises:
      ValueError: if the range is empty or leaves the vocabulary.
    """
    ids = jnp.arange(vocab_size)
    if constraint_range is None:
        return jnp.ones((vocab_size,), bool)
    start, stop = constraint_range
    if not NUM_SPECIALS <= start < stop <= vocab_size:
        raise ValueError(
            f"constraint range {start},{stop} must satisfy "
            f"{NUM_SPECIALS} <= start < stop <= vocabulary size {vocab_size}"
        )
    return (ids < NUM_SPECIALS) | ((ids >= start) & (ids < stop))


def allowed_mask(
    logits_size: int,
    vocab_size: int,
    constraint_range: tuple[int, int] | None = None,
    constraint_masks: Bool[Array, "b t _"] | None = None,
) -> Allowed:
    """Combines range, masks and the padded tail of the vocabulary into one mask.

    Args:
      logits_size: width of the logits, at least `vocab_size`.
      vocab_size: number of real ids; the tail beyond is never allowed.
      constraint_range: (start, stop) or None.
      constraint_masks: as wide as the vocabulary or the logits, or None.

    Returns:
      As wide as the logits.

    Raises:
      ValueError: if the widths do not fit.
    """
    if vocab_size > logits_size:
        raise ValueError(f"vocab_size {vocab_size} exceeds the width of the logits {logits_size}")
    if constraint_masks is None and constraint_range is None and vocab_size == logits_size:
        return None
    allowed = jnp.pad(range_mask(vocab_size, constraint_range), (0, logits_size - vocab_size))
    if constraint_masks is not None:
        width = constraint_masks.shape[-1]
        if width not in (vocab_size, logits_size):
            raise ValueError(
                f"constraint masks are {width} wide, expected {vocab_size} (the vocabulary)"
            )
        padding = [(0, 0)] * (constraint_masks.ndim - 1) + [(0, logits_size - width)]
        allowed = allowed & jnp.pad(constraint_masks, padding)
    return allowed


def _masked(logits: Float[Array, "b t v"], allowed: Allowed) -> Float[Array, "b t v"]:
    logits = logits.astype(jnp.float32)
    return logits if allowed is None else jnp.where(allowed, logits, MASKED_LOGIT)


def _is_target(logits: Float[Array, "b t v"], targets: Int[Array, "b t"]) -> Bool[Array, "b t v"]:
    return targets[..., None] == jnp.arange(logits.shape[-1], dtype=targets.dtype)


@jax.custom_vjp
def vocabulary_terms(
    logits: Float[Array, "b t v"], targets: Int[Array, "b t"], allowed: Allowed
) -> VocabularyTerms:
    """Reduces logits over the allowed ids (SPEC 5.1 steps 1 to 3).

    Args:
      logits: any float type; computed in float32.
      targets: internal ids.
      allowed: a row without any allowed id gives finite, meaningless values; the caller must not
        count it.
    """
    masked = _masked(logits, allowed)
    max_logit = jnp.max(masked, axis=-1)
    exponentials = jnp.exp(masked - max_logit[..., None])
    log_normalizer = max_logit + jnp.log(jnp.sum(exponentials, axis=-1))
    target_logit = jnp.sum(jnp.where(_is_target(logits, targets), masked, 0.0), axis=-1)
    kept = masked if allowed is None else jnp.where(allowed, masked, 0.0)
    return VocabularyTerms(log_normalizer, target_logit, jnp.sum(kept, axis=-1), max_logit)


def _forward(logits, targets, allowed):
    terms = vocabulary_terms(logits, targets, allowed)
    return terms, (logits, targets, allowed, terms.log_normalizer)


def _backward(residuals, gradients: VocabularyTerms):
    logits, targets, allowed, log_normalizer = residuals
    probabilities = jnp.exp(_masked(logits, allowed) - log_normalizer[..., None])
    gradient = (
        gradients.log_normalizer[..., None] * probabilities
        + jnp.where(_is_target(logits, targets), gradients.target_logit[..., None], 0.0)
        + gradients.logit_sum[..., None]
    )
    if allowed is not None:
        gradient = jnp.where(allowed, gradient, 0.0)
    return gradient.astype(logits.dtype), None, None


vocabulary_terms.defvjp(_forward, _backward)


def log_probabilities(logits: Float[Array, "b t v"], allowed: Allowed) -> Float[Array, "b t v"]:
    """Log softmax over the allowed ids, in float32, for the losses that need the whole table.

    Ids that are not allowed hold about `MASKED_LOGIT`.
    """
    return jax.nn.log_softmax(_masked(logits, allowed), axis=-1)
