"""R-Drop: agreement of two passes with different dropout (SPEC 5.2; Liang et al. 2021).

Adds a symmetric Kullback-Leibler divergence to the token losses of `cross_entropy`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped


def rdrop_token_loss(
    log_probabilities: Float[Array, "rows t v"], alpha: float
) -> Float[Array, "rows t"]:
    """alpha times the symmetric divergence between two passes over the same tokens (SPEC 5.2).

    Args:
      log_probabilities: the second half of the rows is the second pass; -inf marks ids and tokens
        that are left out, which must be the same in both halves. Confidences have scaled the
        values already, which are then used as if they were log-probabilities.
      alpha: weight of the term.

    Returns:
      Each pass carries half of its pair's term, so the sum over all tokens is
      alpha * (KL(q|p) + KL(p|q)) / 2.
    """
    first, second = jnp.split(log_probabilities, 2)
    present = jnp.isfinite(first) & jnp.isfinite(second)
    p = jnp.where(present, first, 0.0)
    q = jnp.where(present, second, 0.0)
    # exp(q) (q - p) + exp(p) (p - q), with both directions in one product.
    divergence = jnp.sum(jnp.where(present, (jnp.exp(q) - jnp.exp(p)) * (q - p), 0.0), axis=-1)
    half = alpha * divergence / 4.0
    return jnp.concatenate([half, half])


def repeat_for_rdrop(
    batch: PyTree[Shaped[Array, "b ..."]],
) -> PyTree[Shaped[Array, "2*b ..."]]:
    """The whole batch, then the whole batch again, as R-Drop wants it."""
    return jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
