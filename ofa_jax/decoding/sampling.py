"""Ancestral sampling with temperature, top-k and top-p (SPEC 7.9).

Image generation draws `samples` images for each caption this way: `top_k=256`, `gen_code`, an
id range over the image codes, and as many tokens as the image has codes.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ofa_jax.decoding import rules
from ofa_jax.decoding.constraints import Constraint, IdRanges
from ofa_jax.decoding.rules import NEGATIVE_INFINITY, Cache, Hypotheses, StepFn
from ofa_jax.decoding.unbranched import grow
from ofa_jax.schema import Between

__all__ = ["SamplingConfig", "draw", "guided", "sample"]


@dataclasses.dataclass(frozen=True)
class SamplingConfig(rules.DecodingConfig):
    """Settings of sampling; `DecodingConfig` documents the inherited ones.

    Attributes:
      samples: independent samples per sentence.
      top_k: draw among the k most probable ids; 0 = among all.
      top_p: draw among the smallest set of most probable ids whose probabilities sum to p or
        more; 0 = off. It takes precedence over `top_k`.
      guidance: classifier-free guidance (Ho and Salimans 2022): logits are those of an empty prompt
        plus so many times their difference to those of the prompt. 1 = off, 0 = without the
        prompt. Models trained with empty prompts follow theirs closer above 1.
    """

    samples: Annotated[int, Between(1, 1024)] = 1
    top_k: Annotated[int, Between(0, 1 << 24)] = 0
    top_p: Annotated[float, Between(0, 1)] = 0.0
    guidance: Annotated[float, Between(0, 100)] = 1.0


def sample(
    step_fn: StepFn,
    cache: Cache,
    config: SamplingConfig,
    rng: PRNGKeyArray,
    *,
    batch: int,
    max_length: int,
    constraint: Constraint | None = None,
    prefix: Int[Array, "b p"] | None = None,
) -> Hypotheses:
    """Draws sequences token by token. Traceable: call it under jit.

    Args:
      step_fn: the decoder, see `rules`. It is called with positions 0 .. p + max_length.
      cache: its state before position 0, with g = config.samples in cache["self"].
      rng: key; decoder position i draws with fold_in(rng, i).
      batch: b.
      max_length: the longest answer without EOS, `config.max_length(source length)`.
      constraint: what may be answered.
      prefix: what the decoder reads after BOS and before it answers, padded right with 0.

    Returns:
      g samples per sentence, the most probable first. Scores are log-probabilities under the
      model (renormalized by the constraint), not under the cut-off distribution, as in the
      official code.
    """

    # Those are sorted that can be drawn: 8,192 codes rather than the whole vocabulary.
    possible = constraint.ids() if isinstance(constraint, IdRanges) else None

    def choose(
        position: rules.Position, scores: Float[Array, "b g v"], normalizers: Float[Array, "b g"]
    ) -> tuple[Int[Array, "b g"], Float[Array, "b g"]]:
        log_probs = rules.log_probabilities(scores, normalizers[..., None])
        key = jax.random.fold_in(rng, position)
        if possible is None:
            return draw(key, log_probs, config)
        places, gain = draw(key, log_probs[..., possible], config)
        return jnp.asarray(possible)[places], gain

    return grow(
        step_fn,
        cache,
        config,
        choose,
        batch=batch,
        hypotheses=config.samples,
        max_length=max_length,
        constraint=constraint,
        prefix=prefix,
    ).sorted()


def guided(step_fn: StepFn, guidance: float) -> StepFn:
    """A step of twice the batch, prompts first and empty prompts behind, as one of the batch.

    Args:
      step_fn: the decoder, of 2 b rows.
      guidance: see `SamplingConfig`.

    Returns:
      A step whose tokens and logits have b rows; the cache keeps its 2 b.
    """

    def step(
        cache: Cache, tokens: Int[Array, "b g"], position: rules.Position
    ) -> tuple[Float[Array, "b g v"], Cache]:
        logits, cache = step_fn(cache, jnp.concatenate([tokens, tokens]), position)
        own, empty = jnp.split(logits.astype(jnp.float32), 2)
        mixed = empty + guidance * (own - empty)
        # Ids beyond the vocabulary have no finite logits.
        return jnp.where(jnp.isfinite(own), mixed, own), cache

    return step


def draw(
    rng: PRNGKeyArray, log_probs: Float[Array, "*rows v"], config: SamplingConfig
) -> tuple[Int[Array, "*rows"], Float[Array, "*rows"]]:
    """Draws one id per row.

    Args:
      rng: key.
      log_probs: -inf = forbidden. Need not sum to one.
      config: `top_k` and `top_p` are read.

    Returns:
      (ids, their entries of log_probs).
    """
    ids = None
    kept = log_probs
    if config.top_p > 0:
        kept, ids = jax.lax.top_k(log_probs, log_probs.shape[-1])
        before = jnp.cumsum(jnp.exp(kept), axis=-1) - jnp.exp(kept)
        kept = jnp.where(before < config.top_p, kept, NEGATIVE_INFINITY)
    elif 0 < config.top_k < log_probs.shape[-1]:
        kept, ids = jax.lax.top_k(log_probs, config.top_k)
    places = jax.random.categorical(rng, kept, axis=-1)[..., None]
    gain = jnp.take_along_axis(kept, places, axis=-1)[..., 0]
    if ids is not None:
        places = jnp.take_along_axis(ids, places, axis=-1)
    return places[..., 0].astype(jnp.int32), gain
