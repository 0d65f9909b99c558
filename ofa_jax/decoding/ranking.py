"""Scores every candidate answer of a closed set (SPEC 7.3, 7.4, 7.5, 8.6).

Instead of searching, each candidate is read by the decoder and its log-probability summed up.
The sentence is encoded once and the decoder reads the prompt once; the candidates then continue
from the cached prompt like beams, in chunks of similar length, so short answers do not pay for
long ones. The encoder's keys are shared by all of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.typing import VariableDict
from jaxtyping import Array, Bool, Float, Int

from ofa_jax import vocab
from ofa_jax.decoding.constraints import Trie
from ofa_jax.decoding.generate import Batch, Rules, encode, sharding_rules, start
from ofa_jax.decoding.rules import NEGATIVE_INFINITY, Cache, Hypotheses, Prompt, StepFn
from ofa_jax.model.encoder import EncoderOutput
from ofa_jax.model.ofa import OFA

__all__ = ["Candidates", "rank", "rank_candidates"]


@struct.dataclass
class Candidates:
    """A list of candidates in chunks, and what their probabilities are relative to.

    Chunks hold candidates of similar length; the last is filled up with empty ones.

    Attributes:
      tokens: ids of c candidates per chunk, EOS included if it is scored, padded with 0.
      lengths: of the candidates.
      nodes: node of `trie` at which each token is chosen; zeros without one.
      places: where each candidate, in its original order, lies in chunks * c.
      trie: with it, the softmax is taken over the continuations that lead to some candidate
        (SPEC 7.3); None takes it over the whole vocabulary (zero-shot, SPEC 7.10).
    """

    tokens: Int[Array, "*chunks c t"]
    lengths: Int[Array, "*chunks c"]
    nodes: Int[Array, "*chunks c t"]
    places: Int[Array, "candidates"]
    trie: Trie | None

    @classmethod
    def build(
        cls,
        candidates: Sequence[Sequence[int]],
        *,
        chunk: int = 64,
        renormalize: bool = True,
        append_eos: bool = True,
    ) -> Candidates:
        """Sorts candidates into chunks, in numpy on the host.

        Args:
          candidates: internal ids of each candidate, without BOS and EOS.
          chunk: candidates scored at once; b * chunk rows of logits exist at a time.
          renormalize: softmax over the trie's continuations only.
          append_eos: score the EOS after each candidate. GLUE labels are trained without
            (SPEC 7.5).

        Raises:
          ValueError: no candidate, an empty one, one that contains PAD, BOS or EOS, or a chunk
            below 1.
        """
        trie = Trie.build(candidates)  # also checks them
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        ending = [vocab.EOS_ID] if append_eos else []
        rows = [[*map(int, candidate), *ending] for candidate in candidates]
        order = np.argsort([len(row) for row in rows], kind="stable")
        chunk = min(chunk, len(rows))
        count = -(-len(rows) // chunk)
        tokens = np.zeros((count * chunk, max(map(len, rows))), np.int32)
        lengths = np.zeros(count * chunk, np.int32)
        for place, index in enumerate(order):
            tokens[place, : len(rows[index])] = rows[index]
            lengths[place] = len(rows[index])
        nodes = np.asarray(trie.nodes_before(jnp.asarray(tokens)))
        # Beyond the end of a candidate the node is never looked at, but must be one.
        nodes = np.where(np.arange(tokens.shape[1]) < lengths[:, None], nodes, 0)
        return cls(
            tokens=jnp.asarray(tokens.reshape(count, chunk, -1)),
            lengths=jnp.asarray(lengths.reshape(count, chunk)),
            nodes=jnp.asarray(nodes.reshape(count, chunk, -1)),
            places=jnp.asarray(np.argsort(order).astype(np.int32)),
            trie=trie if renormalize else None,
        )

    def best(self, scores: Float[Array, "b candidates"], count: int) -> Hypotheses:
        """The likeliest candidates, in the form in which a search gives its answers.

        Args:
          scores: from `rank`.
          count: how many; all where there are fewer.

        Returns:
          Candidates of each sentence, the likeliest first; of equal ones the first of the list.
          Scores are plain log-probabilities, not divided by lengths, as in the official recipes
          (SPEC 7.3). Tokens end with EOS where it is scored.
        """
        found, indices = jax.lax.top_k(scores, min(count, scores.shape[-1]))
        places = self.places[indices]
        return Hypotheses(
            tokens=self.tokens.reshape(-1, self.tokens.shape[2])[places],
            lengths=self.lengths.reshape(-1)[places],
            scores=found,
            log_probabilities=found,
            positional_scores=None,
        )


def rank_candidates(
    step_fn: StepFn,
    cache: Cache,
    candidates: Candidates,
    *,
    batch: int,
    prefix: Int[Array, "b p"] | None = None,
) -> Float[Array, "b candidates"]:
    """Log-probability of each candidate after the prompt. Traceable: call it under jit.

    Scores are sums over the candidate's tokens and are not divided by its length (SPEC 7.3).

    Args:
      step_fn: the decoder, see `rules`.
      cache: its state before position 0, with g = 1 in cache["self"] and room for the prefix
        and the longest candidate.
      batch: b.
      prefix: decoder prompt after BOS, padded right with 0. Positions up to the
        shortest prompt of the batch are computed once per sentence, so batches of equal
        prompt lengths are the fastest.

    Returns:
      In the order of `Candidates.build`.
    """
    prompt = Prompt.of(prefix, batch)
    prompt_lengths = prompt.last + 1
    shared = prompt_lengths.min()

    def gains_at(
        position: Int[Array, ""],
        logits: Float[Array, "b #c v"],
        chunk: Candidates,
        is_root: bool,
    ) -> Float[Array, "b c"]:
        """Log-probability of what follows `position`, 0 where nothing is scored.

        Args:
          position: of the decoder input that gave the logits.
          logits: of each candidate, or one for all.
          chunk: one chunk, its leaves without the leading axis.
          is_root: the logits are those right after the shared prompt, the same for every
            candidate.
        """
        place = position + 1 - prompt_lengths
        is_scored = (place[:, None] >= 0) & (place[:, None] < chunk.lengths)
        place = jnp.clip(place, 0, chunk.tokens.shape[1] - 1)
        targets = chunk.tokens.T[place]
        logits = logits.astype(jnp.float32)
        if chunk.trie is not None:
            nodes = jnp.zeros((batch, 1), jnp.int32) if is_root else chunk.nodes.T[place]
            allowed = chunk.trie.allowed(nodes, logits.shape[-1])
            logits = jnp.where(allowed, logits, NEGATIVE_INFINITY)
        normalizers = jax.nn.logsumexp(logits, axis=-1)
        if is_root:
            chosen = jnp.take_along_axis(logits[:, 0], targets, axis=-1)
        else:
            chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jnp.where(is_scored, chosen - normalizers, 0.0)

    def read_prompt(position: Array, carry: tuple[Cache, Array]):
        cache, _ = carry
        logits, cache = step_fn(cache, prompt.tokens[:, position][:, None], position)
        return cache, logits

    first = jax.eval_shape(step_fn, cache, prompt.tokens[:, :1], jnp.int32(0))[0]
    cache, root_logits = jax.lax.fori_loop(
        0, shared, read_prompt, (cache, jnp.zeros(first.shape, first.dtype))
    )

    def score_chunk(arrays: tuple[Array, Array, Array]) -> Array:
        tokens, lengths, nodes = arrays
        chunk = dataclasses.replace(candidates, tokens=tokens, lengths=lengths, nodes=nodes)
        own = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (batch, tokens.shape[0], *leaf.shape[2:])),
            cache["self"],
        )
        history = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=vocab.BOS_ID)
        history = jnp.broadcast_to(history, (batch, *history.shape))

        def read(position: Array, carry: tuple[Cache, Array]):
            own, totals = carry
            inputs = prompt.inputs(position, history)
            logits, after = step_fn({**cache, "self": own}, inputs, position)
            return after["self"], totals + gains_at(position, logits, chunk, is_root=False)

        # The last token of a candidate is scored, never read.
        end = prompt_lengths.max() + lengths.max() - 1
        totals = gains_at(shared - 1, root_logits, chunk, is_root=True)
        return jax.lax.fori_loop(shared, end, read, (own, totals))[1]

    scores = jax.lax.map(score_chunk, (candidates.tokens, candidates.lengths, candidates.nodes))
    return scores.transpose(1, 0, 2).reshape(batch, -1)[:, candidates.places]


def rank(
    model: OFA,
    variables: VariableDict,
    batch: Batch,
    candidates: Candidates,
    *,
    prefix: Int[Array, "b p"] | None = None,
) -> Float[Array, "b candidates"]:
    """`rank_candidates` with the real model, compiled once per model and shapes.

    Args:
      model: OFA.
      variables: {"params": ..., "batch_stats": ...}.
      batch: the encoder's entries; others are ignored.
      prefix: decoder prompt after BOS, padded right with 0.

    Returns:
      Log-probabilities; `Candidates.best` picks the answers.
    """
    encoder_output, code_masks = encode(model, variables, batch)
    rules = sharding_rules()
    return _rank(model, rules, variables, encoder_output, code_masks, candidates, prefix)


@functools.partial(jax.jit, static_argnames=("model", "rules"))
def _rank(
    model: OFA,
    rules: Rules,
    variables: VariableDict,
    encoder_output: EncoderOutput,
    code_masks: Bool[Array, "b"],
    candidates: Candidates,
    prefix: Int[Array, "b p"] | None,
) -> Float[Array, "b candidates"]:
    del rules
    places = 1 + (0 if prefix is None else prefix.shape[1]) + candidates.tokens.shape[2]
    step_fn, cache = start(model, variables, encoder_output, code_masks, beams=1, places=places)
    return rank_candidates(step_fn, cache, candidates, batch=code_masks.shape[0], prefix=prefix)
