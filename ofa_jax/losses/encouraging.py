"""Encouraging loss: a bonus for tokens that are already likely (SPEC 5.4; Zhao et al. 2022).

Added to the token losses of `cross_entropy` in captioning and VQA fine-tuning.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def encouraging_bonus(
    probabilities: Float[Array, "*shape"], log_end: float
) -> Float[Array, "*shape"]:
    """log(1 - P), continued by its tangent beyond `log_end` (SPEC 5.4).

    Args:
      probabilities: may exceed 1 a little by rounding.
      log_end: where the tangent begins, in (0, 1]; 1 means no tangent.

    Returns:
      Not positive.
    """
    bonus = jnp.log(jnp.maximum(1.0 - probabilities, 1e-5))
    if log_end == 1.0:
        return bonus
    tangent = math.log(1.0 - log_end) - (probabilities - log_end) / (1.0 - log_end)
    return jnp.where(probabilities > log_end, tangent, bonus)


def encouraging_token_loss(
    target_log_probability: Float[Array, "b t"],
    log_probabilities: Float[Array, "b t v"] | None,
    *,
    label_smoothing: float,
    log_end: float,
    vocab_size: int,
) -> Float[Array, "b t"]:
    """The term c of SPEC 5.4, per token.

    Args:
      target_log_probability: confidence-scaled.
      log_probabilities: confidence-scaled, -inf where an id is not allowed; needed only with label
        smoothing, otherwise None.
      label_smoothing: eps of the cross entropy.
      log_end: see `encouraging_bonus`.
      vocab_size: V of the formula.

    Raises:
      ValueError: with label smoothing, but without `log_probabilities`.
    """
    bonus = encouraging_bonus(jnp.exp(target_log_probability), log_end)
    if not label_smoothing:
        return bonus
    if log_probabilities is None:
        raise ValueError("the encouraging loss with label smoothing needs log_probabilities")
    present = jnp.isfinite(log_probabilities)
    probabilities = jnp.where(present, jnp.exp(jnp.where(present, log_probabilities, 0.0)), 0.0)
    spread = jnp.sum(encouraging_bonus(probabilities, log_end), axis=-1)
    return (1.0 - label_smoothing) * bonus + label_smoothing / vocab_size * spread
