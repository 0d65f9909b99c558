"""The losses by which an image tokenizer and its discriminator train each other (VQGAN_SPEC 6).

The discriminator scores patches, high for originals; the tokenizer wants high scores for what it
reconstructs. Examples of weight 0 count nowhere.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

# Of the adaptive weight: keeps the quotient finite, and the largest one.
_NORM_EPS = 1e-4
_LARGEST_WEIGHT = 1e4


def weighted_mean(
    values: Float[Array, "b *rest"], weights: Float[Array, "b"] | None = None
) -> Float[Array, ""]:
    """The mean over everything, of examples of weight 1; None counts all.

    Returns:
      float32; 0 where no example counts.
    """
    rows = jnp.mean(values.reshape(len(values), -1), axis=1)
    if weights is None:
        return jnp.mean(rows)
    return jnp.sum(rows * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def discriminator_loss(
    real: Float[Array, "b y x 1"],
    fake: Float[Array, "b y x 1"],
    variant: str,
    weights: Float[Array, "b"] | None = None,
) -> Float[Array, ""]:
    """What the discriminator minimizes.

    Args:
      real: scores of originals.
      fake: scores of reconstructions.
      variant: "hinge" or "vanilla" (cross entropy).
      weights: 1 for examples that count, else 0.
    """
    if variant == "hinge":
        parts = jax.nn.relu(1.0 - real), jax.nn.relu(1.0 + fake)
    else:
        parts = jax.nn.softplus(-real), jax.nn.softplus(fake)
    return 0.5 * (weighted_mean(parts[0], weights) + weighted_mean(parts[1], weights))


def generator_loss(
    fake: Float[Array, "b y x 1"], weights: Float[Array, "b"] | None = None
) -> Float[Array, ""]:
    """What the tokenizer minimizes of the scores of its reconstructions."""
    return -weighted_mean(fake, weights)


def adaptive_weight(reconstruction: PyTree[Array], generator: PyTree[Array]) -> Float[Array, ""]:
    """The weight by which both losses pull equally at the last kernel.

    Args:
      reconstruction: gradient of the reconstruction loss with respect to it.
      generator: gradient of the generator loss.

    Returns:
      |reconstruction| / (|generator| + 1e-4), at most 1e4, without gradient.
    """
    wanted, given = (
        jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))
        for tree in (reconstruction, generator)
    )
    return lax.stop_gradient(jnp.clip(wanted / (given + _NORM_EPS), 0.0, _LARGEST_WEIGHT))


def from_start(step: Int[Array, ""] | int, start: int) -> Float[Array, ""]:
    """1 from a step on, 0 before it.

    Args:
      step: finished updates.
      start: the first of which the discriminator counts.
    """
    return (jnp.asarray(step) >= start).astype(jnp.float32)
