"""Self-critical sequence training, the loss part (SPEC 5.5.4, 5.6).

Sampling and rewards happen outside (decoding and metrics); here sampled captions or image codes
with their advantages become a loss.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from ofa_jax.losses.cross_entropy import TokenLosses
from ofa_jax.losses.vocabulary_terms import allowed_mask, vocabulary_terms

__all__ = ["leave_one_out_advantages", "scst_token_losses"]


def leave_one_out_advantages(rewards: Float[Array, "b g"]) -> Float[Array, "b g"]:
    """Reward minus the mean reward of the other samples of the same input (SPEC 5.5.3).

    Args:
      rewards: of g samples of each of b inputs.

    Raises:
      ValueError: if g is 1, since then there are no others.
    """
    samples = rewards.shape[1]
    if samples < 2:
        raise ValueError("the leave-one-out baseline needs at least 2 samples of each input")
    others = (jnp.sum(rewards, axis=1, keepdims=True) - rewards) / (samples - 1)
    return rewards - others


def scst_token_losses(
    logits: Float[Array, "b t v"],
    targets: Int[Array, "b t"],
    counted: Shaped[Array, "b t"],
    advantages: Float[Array, "b"],
    *,
    vocab_size: int,
    constraint_range: tuple[int, int] | None = None,
) -> TokenLosses:
    """-advantage * log p(token), per token of the sampled sequences (SPEC 5.5.4).

    Args:
      logits: of the teacher-forced samples.
      targets: sampled tokens, end of sequence included.
      counted: non-zero for real tokens.
      advantages: no gradient flows into them.
      vocab_size: number of real ids.
      constraint_range: (start, stop) of allowed ids (the codes, for images), or None.

    Returns:
      TokenLosses; `nll` is without the advantage.
    """
    allowed = allowed_mask(logits.shape[-1], vocab_size, constraint_range)
    terms = vocabulary_terms(logits, targets, allowed)
    counted = counted != 0
    nll = jnp.where(counted, terms.log_normalizer - terms.target_logit, 0.0)
    correct = counted & (terms.target_logit >= terms.max_logit)
    return TokenLosses(
        loss=jax.lax.stop_gradient(advantages)[:, None] * nll,
        nll=nll,
        counted=counted.astype(jnp.float32),
        correct=correct.astype(jnp.float32),
    )
