"""Beam search and greedy search with fairseq's scoring (SPEC 7.1), in fixed shapes.

The official search keeps lists of finished hypotheses and removes finished sentences from the
batch. Here every sentence keeps its g places to the end: finished hypotheses are written into
g slots per sentence, and the loop stops as soon as all sentences are done. The numbers are the
same; see `rules.step_scores` for the deliberate difference.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ofa_jax import vocab
from ofa_jax.decoding import rules
from ofa_jax.decoding.constraints import Constraint, State, advance_state, initial_state
from ofa_jax.decoding.rules import NEGATIVE_INFINITY, Cache, Hypotheses, StepFn
from ofa_jax.decoding.unbranched import grow
from ofa_jax.schema import Between

__all__ = ["BeamConfig", "beam_search"]


@dataclasses.dataclass(frozen=True)
class BeamConfig(rules.DecodingConfig):
    """Settings of beam search; `DecodingConfig` documents the inherited ones.

    Attributes:
      beam: hypotheses kept per sentence. 1 is greedy search.
    """

    beam: Annotated[int, Between(1, 1024)] = 5


class _Live(NamedTuple):
    """The hypotheses that still grow, best first. t = max length + 1."""

    history: Int[Array, "b g t"]  # BOS, then the answer; also the next decoder inputs
    totals: Float[Array, "b g t"]  # summed log-probability up to each token
    total: Float[Array, "b g"]  # the last of them; -inf = dead
    constraint_state: State


class _Finished(NamedTuple):
    """The hypotheses that ended, in order of arrival."""

    tokens: Int[Array, "b g t"]
    totals: Float[Array, "b g t"]
    lengths: Int[Array, "b g"]
    scores: Float[Array, "b g"]
    count: Int[Array, "b"]


_Carry = tuple[Int[Array, ""], Cache, _Live, _Finished]


def beam_search(
    step_fn: StepFn,
    cache: Cache,
    config: BeamConfig,
    *,
    batch: int,
    max_length: int,
    constraint: Constraint | None = None,
    prefix: Int[Array, "b p"] | None = None,
) -> Hypotheses:
    """Finds the best sequences (SPEC 7.1). Traceable: call it under jit.

    Args:
      step_fn: the decoder, see `rules`. It is called with positions 0 .. p + max_length.
      cache: its state before position 0, with g = config.beam in the leaves of cache["self"].
      config: the settings. `beam` 1 takes a shorter path with the same result.
      batch: b.
      max_length: the longest answer without EOS, `config.max_length(source length)`.
      constraint: what may be answered.
      prefix: what the decoder reads after BOS and before it answers (a decoder
        prompt), padded right with 0. Its lengths may differ.

    Returns:
      g hypotheses per sentence, best first.

    Raises:
      ValueError: the vocabulary is too small for 2 * beam candidates.
    """
    if config.beam == 1:
        return grow(
            step_fn,
            cache,
            config,
            _most_probable,
            batch=batch,
            hypotheses=1,
            max_length=max_length,
            constraint=constraint,
            prefix=prefix,
        )
    beams, places = config.beam, max_length + 1
    ranks = jnp.arange(2 * beams)
    prompt = rules.Prompt.of(prefix, batch)

    def unfinished(carry: _Carry) -> Bool[Array, ""]:
        position, _, live, finished = carry
        # A sentence whose live hypotheses are all dead (a trie with fewer candidates than
        # beams) cannot finish another one.
        waiting = (finished.count < beams) & (live.total.max(axis=1) > NEGATIVE_INFINITY)
        return (position <= prompt.last.max() + max_length) & waiting.any()

    def extend(carry: _Carry) -> _Carry:
        position, cache, live, finished = carry
        logits, cache = step_fn(cache, prompt.inputs(position, live.history), position)
        step = position - prompt.last
        waits = step < 0
        scores, normalizers = rules.step_scores(
            logits,
            config,
            step=step,
            max_length=max_length,
            history=live.history,
            constraint=constraint,
            constraint_state=live.constraint_state,
        )
        if scores.shape[-1] < 2 * beams:
            raise ValueError(
                f"a beam of {beams} needs a vocabulary of at least {2 * beams} ids, got "
                f"{scores.shape[-1]}"
            )
        # The best 2g of each beam contain the best 2g of all, and a vocabulary sharded over a
        # mesh is never gathered. Both calls put lower indices first among equals.
        scores, ids = jax.lax.top_k(scores, 2 * beams)
        totals = live.total[..., None] + rules.log_probabilities(scores, normalizers[..., None])
        totals = jnp.where(jnp.isnan(totals), NEGATIVE_INFINITY, totals).reshape(batch, -1)
        candidate_totals, index = jax.lax.top_k(totals, 2 * beams)
        candidate_beams = index // (2 * beams)
        candidate_ids = jnp.take_along_axis(ids.reshape(batch, -1), index, axis=1)

        ends = (candidate_ids == vocab.EOS_ID) & (candidate_totals > NEGATIVE_INFINITY)
        ends = ends & ~waits[:, None]
        finished = _finish(
            finished,
            live,
            ends[:, :beams],
            candidate_beams[:, :beams],
            candidate_totals[:, :beams],
            step,
            config,
        )

        # The first g candidates that do not end, in order of rank.
        _, chosen = jax.lax.top_k(-(ranks + 2 * beams * ends), beams)
        parents = jnp.take_along_axis(candidate_beams, chosen, axis=1)
        tokens = jnp.take_along_axis(candidate_ids, chosen, axis=1)
        total = jnp.take_along_axis(candidate_totals, chosen, axis=1)
        # A sentence that reads its prompt stays as it is.
        parents = jnp.where(waits[:, None], jnp.arange(beams), parents)
        total = jnp.where(waits[:, None], live.total, total)
        place = jnp.where(waits, -1, step + 1)
        live = _Live(
            history=rules.write_column(rules.take_beams(live.history, parents), tokens, place),
            totals=rules.write_column(rules.take_beams(live.totals, parents), total, step),
            total=total,
            constraint_state=advance_state(
                constraint,
                jax.tree.map(lambda leaf: rules.take_beams(leaf, parents), live.constraint_state),
                tokens,
                waits,
            ),
        )
        return position + 1, rules.reorder_cache(cache, parents), live, finished

    shape = (batch, beams, places)
    live = _Live(
        history=jnp.full(shape, vocab.PAD_ID, jnp.int32).at[..., 0].set(vocab.BOS_ID),
        totals=jnp.zeros(shape, jnp.float32),
        # All beams are equal at first, so only one is expanded.
        total=jnp.broadcast_to(
            jnp.where(jnp.arange(beams) == 0, 0.0, NEGATIVE_INFINITY), shape[:2]
        ).astype(jnp.float32),
        constraint_state=initial_state(constraint, batch, beams),
    )
    finished = _Finished(
        tokens=jnp.full(shape, vocab.PAD_ID, jnp.int32),
        totals=jnp.zeros(shape, jnp.float32),
        lengths=jnp.zeros(shape[:2], jnp.int32),
        scores=jnp.full(shape[:2], NEGATIVE_INFINITY, jnp.float32),
        count=jnp.zeros(batch, jnp.int32),
    )
    *_, finished = jax.lax.while_loop(unfinished, extend, (jnp.int32(0), cache, live, finished))
    earlier = jnp.pad(finished.totals, ((0, 0), (0, 0), (1, 0)))[..., :-1]
    is_token = jnp.arange(places) < finished.lengths[..., None]
    is_last = jnp.arange(places) == finished.lengths[..., None] - 1
    totals = jnp.where(is_last, finished.totals, 0.0).sum(axis=-1)
    return Hypotheses(
        tokens=finished.tokens,
        lengths=finished.lengths,
        scores=finished.scores,
        log_probabilities=jnp.where(finished.lengths > 0, totals, NEGATIVE_INFINITY),
        positional_scores=jnp.where(is_token, finished.totals - earlier, 0.0),
    ).sorted()


def _finish(
    finished: _Finished,
    live: _Live,
    ends: Bool[Array, "b g"],
    parents: Int[Array, "b g"],
    totals: Float[Array, "b g"],
    step: Int[Array, "b"],
    config: BeamConfig,
) -> _Finished:
    """Writes the candidates that end now into the free slots of their sentences.

    Args:
      finished: the slots.
      live: the hypotheses before this step.
      ends: which of the g best candidates are EOS.
      parents: the beam each candidate continues.
      totals: summed log-probability of each candidate.
      step: tokens before the EOS.
      config: for the normalization.
    """
    slots = jnp.arange(ends.shape[1])
    target = finished.count[:, None] + jnp.cumsum(ends, axis=1) - 1
    enters = ends[:, None, :] & (target[:, None, :] == slots[None, :, None])  # [b, slot, candidate]
    is_new = enters.any(axis=2)
    source = jnp.argmax(enters, axis=2)
    source_parents = jnp.take_along_axis(parents, source, axis=1)
    source_totals = jnp.take_along_axis(totals, source, axis=1)

    places, length = jnp.arange(finished.tokens.shape[2]), step[:, None]
    # The history starts with BOS, which the output does not have.
    tokens = jnp.pad(live.history[..., 1:], ((0, 0), (0, 0), (0, 1)))
    tokens = rules.take_beams(tokens, source_parents)
    is_end = places == length[..., None]
    tokens = jnp.where(
        places < length[..., None], tokens, jnp.where(is_end, vocab.EOS_ID, vocab.PAD_ID)
    ).astype(jnp.int32)
    running = rules.take_beams(live.totals, source_parents)
    running = jnp.where(is_end, source_totals[..., None], running)
    scores = source_totals
    if config.normalize_scores:
        scores = scores / (length + 1).astype(jnp.float32) ** config.length_penalty
    return _Finished(
        tokens=jnp.where(is_new[..., None], tokens, finished.tokens),
        totals=jnp.where(is_new[..., None], running, finished.totals),
        lengths=jnp.where(is_new, length + 1, finished.lengths),
        scores=jnp.where(is_new, scores, finished.scores),
        count=jnp.minimum(finished.count + ends.sum(axis=1), ends.shape[1]),
    )


def _most_probable(
    position: rules.Position, scores: Float[Array, "b g v"], normalizers: Float[Array, "b g"]
) -> tuple[Int[Array, "b g"], Float[Array, "b g"]]:
    """The best id of each hypothesis and its log-probability; see `unbranched.Choose`."""
    del position
    tokens = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    best = jnp.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
    return tokens, rules.log_probabilities(best, normalizers)
