"""Decoding without branching: every hypothesis grows in its own place, one token per step.

What greedy search (`beam`) and sampling share; they differ in how the next token is chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ofa_jax import vocab
from ofa_jax.decoding import rules
from ofa_jax.decoding.constraints import Constraint, advance_state, initial_state
from ofa_jax.decoding.rules import NEGATIVE_INFINITY, Cache, Hypotheses, StepFn

Choose = Callable[
    [rules.Position, Float[Array, "b g v"], Float[Array, "b g"]],
    tuple[Int[Array, "b g"], Float[Array, "b g"]],
]
"""(position, scores, normalizers) of `rules.step_scores` to (tokens, their log-probabilities)."""


def grow(
    step_fn: StepFn,
    cache: Cache,
    config: rules.DecodingConfig,
    choose: Choose,
    *,
    batch: int,
    hypotheses: int,
    max_length: int,
    constraint: Constraint | None = None,
    prefix: Int[Array, "b p"] | None = None,
) -> Hypotheses:
    """Extends all hypotheses until each has ended. Traceable.

    Args:
      step_fn: the decoder, see `rules`. It is called with positions 0 .. p + max_length.
      cache: its state before position 0, with g = `hypotheses` in cache["self"].
      choose: picks the next tokens.
      batch: b.
      hypotheses: g, per sentence.
      max_length: the longest answer without EOS.
      constraint: what may be answered.
      prefix: what the decoder reads after BOS and before it answers, padded right with 0.

    Returns:
      g hypotheses per sentence, in their places.
    """
    shape = (batch, hypotheses)
    prompt = rules.Prompt.of(prefix, batch)

    def unfinished(carry: tuple[PyTree, ...]) -> Bool[Array, ""]:
        position, *_, done = carry
        return (position <= prompt.last.max() + max_length) & ~done.all()

    def extend(carry: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        position, cache, history, gains, state, done = carry
        logits, cache = step_fn(cache, prompt.inputs(position, history), position)
        step = position - prompt.last
        waits = step < 0
        scores, normalizers = rules.step_scores(
            logits,
            config,
            step=step,
            max_length=max_length,
            history=history[..., :-1],
            constraint=constraint,
            constraint_state=state,
        )
        tokens, gain = choose(position, scores, normalizers)
        idle = done | waits[:, None]
        tokens, gain = jnp.where(idle, vocab.PAD_ID, tokens), jnp.where(idle, 0.0, gain)
        history = rules.write_column(history, tokens, jnp.where(waits, -1, step + 1))
        gains = rules.write_column(gains, gain, step)
        state = advance_state(constraint, state, tokens, waits)
        done = done | (tokens == vocab.EOS_ID) | (gain == NEGATIVE_INFINITY)
        return position + 1, cache, history, gains, state, done

    # BOS, max_length tokens, EOS.
    history = jnp.full((*shape, max_length + 2), vocab.PAD_ID, jnp.int32)
    _, _, history, gains, _, _ = jax.lax.while_loop(
        unfinished,
        extend,
        (
            jnp.int32(0),
            cache,
            history.at[..., 0].set(vocab.BOS_ID),
            jnp.zeros((*shape, max_length + 1), jnp.float32),
            initial_state(constraint, *shape),
            jnp.zeros(shape, bool),
        ),
    )
    return _complete(history[..., 1:], gains, config)


def _complete(
    tokens: Int[Array, "b g t"], gains: Float[Array, "b g t"], config: rules.DecodingConfig
) -> Hypotheses:
    """Scores the sequences.

    Args:
      tokens: without BOS, padded after EOS.
      gains: log-probability of each token, 0 on padding. A -inf in it says that no id was allowed
        there: such a sequence is no result.
      config: for the normalization.
    """
    is_complete = (tokens == vocab.EOS_ID).any(axis=-1) & (gains > NEGATIVE_INFINITY).all(axis=-1)
    lengths = jnp.where(is_complete, (tokens != vocab.PAD_ID).sum(axis=-1), 0).astype(jnp.int32)
    totals = jnp.where(is_complete, gains.sum(axis=-1), NEGATIVE_INFINITY)
    scores = totals
    if config.normalize_scores:
        scores = scores / jnp.maximum(lengths, 1).astype(jnp.float32) ** config.length_penalty
    return Hypotheses(
        tokens=jnp.where(is_complete[..., None], tokens, vocab.PAD_ID),
        lengths=lengths,
        scores=scores,
        log_probabilities=totals,
        positional_scores=jnp.where(is_complete[..., None], gains, 0.0),
    )
