"""What every kind of decoding shares: settings, the result, and the rules on one step's logits.

`beam`, `sampling` and `generate` build on it. A decoder is seen only as a function

    step_fn(cache, tokens int32[b, g], position int32[]) -> (logits float32[b, g, v], cache)

where `position` is the index of `tokens` in the decoder input (BOS is 0) and `cache` is a dict:
the leaves below `cache["self"]` are [b, g, ...] and move with their beams, everything else (the
cross-attention keys, [b, ...]) belongs to the sentence and stays.

All scores are float32 log-probabilities (natural logarithm).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ofa_jax import vocab
from ofa_jax.decoding.constraints import Constraint

Cache = dict[str, Any]
StepFn = Callable[[Cache, jax.Array, jax.Array], tuple[jax.Array, Cache]]

NEGATIVE_INFINITY = float("-inf")


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """Settings that beam search and sampling share (SPEC 7.1). Hashable, so static under jit.

    Attributes:
      max_len_a: the longest output is int(max_len_a * source length + max_len_b) tokens, not
        counting EOS.
      max_len_b: see `max_len_a`.
      min_len: EOS is forbidden for the first `min_len` steps that no prefix forces.
      temperature: logits are divided by it, before anything else.
      unk_penalty: subtracted from the log-probability of UNK.
      no_repeat_ngram_size: n; an id that would repeat an n-gram of the hypothesis (BOS is part
        of it) is forbidden. 0 switches it off.
      gen_code: the output is image codes: ids 0..3 are forbidden before the last step.
      zero_shot: softmax over the whole vocabulary first, constraint afterwards. Otherwise the
        probabilities are renormalised over what the constraint allows.
      normalize_scores: divide the score of a hypothesis by length ** length_penalty (the length
        counts EOS).
      length_penalty: see `normalize_scores`.
    """

    max_len_a: float = 0.0
    max_len_b: int = 200
    min_len: int = 1
    temperature: float = 1.0
    unk_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    gen_code: bool = False
    zero_shot: bool = False
    normalize_scores: bool = True
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.no_repeat_ngram_size < 0:
            raise ValueError(
                f"no_repeat_ngram_size must be 0 (off) or more, got {self.no_repeat_ngram_size}"
            )
        if self.max_len_a < 0 or self.max_len_b < 0 or self.min_len < 0:
            raise ValueError(
                "max_len_a, max_len_b and min_len must not be negative, got "
                f"{self.max_len_a}, {self.max_len_b}, {self.min_len}"
            )

    def max_length(self, source_length: int = 0) -> int:
        """The longest output in tokens, EOS not counted (SPEC 7.1).

        Args:
          source_length: length of the padded source text. OFA-NOTE: SPEC 7.1. It is the static
            length of our batch; the official batch is padded to its longest member only, so the
            two agree exactly when `max_len_a` is 0, as in every released recipe but speech.

        Raises:
          ValueError: `min_len` is larger than the result.
        """
        length = int(self.max_len_a * source_length + self.max_len_b)
        if self.min_len > length:
            raise ValueError(
                f"min_len {self.min_len} is larger than the longest output, {length} tokens; "
                "lower min_len or raise max_len_b"
            )
        return length


@struct.dataclass
class Hypotheses:
    """Decoded sequences, per sentence the best first.

    Attributes:
      tokens: int32[b, g, t] without BOS, with the final EOS, then padding. t = max length + 1.
      lengths: int32[b, g] tokens including EOS. 0 marks an empty place: a constraint left fewer
        than g hypotheses; its score is -inf.
      scores: float32[b, g] total log-probability, divided by length ** length_penalty where the
        settings normalise.
      positional_scores: float32[b, g, t] log-probability of each token, 0 on padding.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array
    positional_scores: jax.Array

    def sorted(self) -> Hypotheses:
        """The same hypotheses ordered by falling score; equal scores keep their order."""
        order = jnp.argsort(-self.scores, axis=1, stable=True)
        return jax.tree.map(lambda leaf: take_beams(leaf, order), self)


def take_beams(leaf: jax.Array, beams: jax.Array) -> jax.Array:
    """Picks beams sentence by sentence.

    Args:
      leaf: [b, g, ...].
      beams: int32[b, k] indices into g.

    Returns:
      [b, k, ...].
    """
    return jax.vmap(lambda rows, index: rows[index])(leaf, beams)


def reorder_cache(cache: Cache, beams: jax.Array) -> Cache:
    """Moves the self-attention state with its beams; the rest of the cache is left alone.

    Args:
      cache: see the module's docstring.
      beams: int32[b, g], for each new beam the old one that it continues.
    """
    moved = jax.tree.map(lambda leaf: take_beams(leaf, beams), cache["self"])
    return {**cache, "self": moved}


def write_column(buffer: jax.Array, column: jax.Array, position: jax.Array) -> jax.Array:
    """Stores column [b, g] at buffer[:, :, position]; a position past the end changes nothing."""
    return buffer.at[:, :, position].set(column, mode="drop")


def forced_tokens(prefix: jax.Array | None, step: jax.Array, max_length: int) -> jax.Array | None:
    """The token that the prefix dictates at this step, PAD where it dictates none.

    Args:
      prefix: int32[b, p] tokens after BOS, padded right with 0; or None.
      step: int32[] number of tokens generated so far.
      max_length: the longest output; the step after it is never forced (SPEC 7.1).

    Returns:
      int32[b], or None without a prefix.
    """
    if prefix is None or prefix.shape[1] == 0:
        return None
    column = jax.lax.dynamic_index_in_dim(
        prefix, jnp.minimum(step, prefix.shape[1] - 1), axis=1, keepdims=False
    )
    return jnp.where((step < prefix.shape[1]) & (step < max_length), column, vocab.PAD_ID)


def check_prefix(prefix: jax.Array | None, max_length: int) -> None:
    """Raises ValueError where a prefix int32[b, p] has more places than the longest output."""
    if prefix is not None and prefix.shape[1] > max_length:
        raise ValueError(
            f"the prefix has {prefix.shape[1]} places, the longest output only {max_length}; "
            "raise max_len_b"
        )


def step_scores(
    logits: jax.Array,
    config: DecodingConfig,
    *,
    step: jax.Array,
    max_length: int,
    history: jax.Array,
    forced: jax.Array | None = None,
    constraint: Constraint | None = None,
    constraint_state: Any = (),
) -> tuple[jax.Array, jax.Array]:
    """Applies all rules of SPEC 7.1 to one step's logits, in the official order.

    The log-probability of id i is `scores[..., i] - normalisers`; the two are kept apart so that
    the log-softmax over the vocabulary is never stored. Subtracting a constant changes no
    order, so the best ids can be picked from `scores`.

    OFA-NOTE: SPEC 7.1 says that a forced prefix leaves -inf for all other ids; the official code
    does that only with a trie and otherwise lets wrong prefixes through at one nat below the
    forced token. Minimum length is decided per sentence here (the official code suspends it for
    as long as the longest prefix of the batch), constraints and n-gram blocking do not apply to
    forced tokens (they could only kill the hypothesis), and a forced prefix is also cut off
    before a zero-shot trie is asked. So results do not depend on how a batch was padded.

    Args:
      logits: float[b, g, v].
      config: the rules.
      step: int32[] number of tokens generated so far.
      max_length: the longest output without EOS; at step == max_length only EOS is left.
      history: int32[b, g, t + 1]: BOS, then the tokens generated so far; only
        history[..., :step + 1] is read.
      forced: int32[b] token dictated by the prefix, 0 = none.
      constraint: what may follow, or None.
      constraint_state: its state, leaves [b, g, ...].

    Returns:
      (scores float32[b, g, v], normalisers float32[b, g]); forbidden ids have score -inf.
    """
    scores = logits.astype(jnp.float32)
    if config.temperature != 1.0:
        scores = scores / config.temperature
    ids = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    is_forced = None if forced is None else (forced != vocab.PAD_ID)[:, None, None]

    allowed = None
    if constraint is not None:
        allowed = constraint.allowed(constraint_state, scores.shape[-1])
        if is_forced is not None:
            allowed = allowed | is_forced
    if allowed is not None and not config.zero_shot:
        scores = jnp.where(allowed, scores, NEGATIVE_INFINITY)
    normalisers = jax.nn.logsumexp(scores, axis=-1)

    keep = (ids != vocab.EOS_ID) | (step >= config.min_len)
    if forced is not None and is_forced is not None:
        keep = jnp.where(is_forced, ids == forced[:, None, None], keep)
    keep = keep & (ids != vocab.PAD_ID)
    if config.gen_code:
        keep = keep & ((ids >= vocab.NUM_SPECIALS) | (step >= max_length))
    keep = keep & ((ids == vocab.EOS_ID) | (step < max_length))
    if allowed is not None and config.zero_shot:
        keep = keep & allowed
    scores = jnp.where(keep & ~jnp.isnan(scores), scores, NEGATIVE_INFINITY)
    if config.unk_penalty:
        scores = scores - config.unk_penalty * (ids == vocab.UNK_ID)
    if config.no_repeat_ngram_size:
        scores = _block_repeated_ngrams(
            scores, history, step, config.no_repeat_ngram_size, is_forced
        )
    return scores, normalisers


def log_probabilities(scores: jax.Array, normalisers: jax.Array) -> jax.Array:
    """`scores - normalisers`, with -inf instead of NaN (a row without any allowed id)."""
    result = scores - normalisers
    return jnp.where(jnp.isnan(result), NEGATIVE_INFINITY, result)


def _block_repeated_ngrams(
    scores: jax.Array, history: jax.Array, step: jax.Array, size: int, is_forced: jax.Array | None
) -> jax.Array:
    """-inf for each id that would complete an n-gram already in history[..., :step + 1].

    Args:
      scores: float32[b, g, v].
      history: int32[b, g, l].
      step: int32[].
      size: n.
      is_forced: bool[b, 1, 1], sentences to leave alone, or None.
    """
    windows = history.shape[-1] - size + 1
    if windows <= 0:
        return scores
    starts = jnp.arange(windows)
    matches = jnp.broadcast_to(starts + size - 1 <= step, (*history.shape[:2], windows))
    for offset in range(size - 1):
        recent = jax.lax.dynamic_index_in_dim(
            history, jnp.maximum(step + 2 - size + offset, 0), axis=-1
        )
        matches = matches & (history[..., offset : offset + windows] == recent)
    if is_forced is not None:
        matches = matches & ~is_forced
    banned = jnp.where(matches, history[..., size - 1 :], scores.shape[-1])
    rows = jnp.arange(scores.shape[0])[:, None, None]
    beams = jnp.arange(scores.shape[1])[None, :, None]
    return scores.at[rows, beams, banned].set(NEGATIVE_INFINITY, mode="drop")
