"""What every kind of decoding shares: settings, the result, and the rules on one step's logits.

`beam`, `sampling` and `generate` build on it. A decoder is seen only as a function

    step_fn(cache, tokens, position) -> (logits, cache)

where `position` is the index of `tokens` in the decoder input (BOS is 0) and `cache` is a dict:
the leaves below `cache["self"]` are [b, g, ...] and move with their beams, everything else (the
cross-attention keys, [b, ...]) belongs to the sentence and stays.

What the decoder reads before it answers, BOS and perhaps a decoder prompt, is a `Prompt`. It is
context: settings, constraints, scores and results know only the tokens after it.

All scores are float32 log-probabilities (natural logarithm).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, PyTree, Shaped

from ofa_jax import schema, vocab
from ofa_jax.decoding.constraints import Constraint
from ofa_jax.schema import Between

Cache = dict[str, PyTree]
Position = Int[Array, ""] | int
StepFn = Callable[[Cache, Int[Array, "b g"], Position], tuple[Float[Array, "b g v"], Cache]]

NEGATIVE_INFINITY = float("-inf")
Tokens = Annotated[int, Between(0, 1 << 20)]


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """Settings that beam search and sampling share (SPEC 7.1). Hashable, so static under jit.

    Lengths, n-grams and scores count the tokens of the answer, never those of a decoder prompt.

    Attributes:
      max_len_a: the longest output is int(max_len_a * source length + max_len_b) tokens, not
        counting EOS.
      max_len_b: see `max_len_a`.
      min_len: EOS is forbidden as one of the first `min_len` tokens.
      temperature: logits are divided by it, before anything else.
      unk_penalty: subtracted from the log-probability of UNK.
      no_repeat_ngram_size: n; an id that would repeat an n-gram of the hypothesis (which begins
        with BOS) is forbidden. 0 switches it off.
      gen_code: the output is image codes: ids 0..3 are forbidden before the last step.
      zero_shot: softmax over the whole vocabulary first, constraint afterwards. Otherwise the
        probabilities are renormalized over what the constraint allows.
      normalize_scores: divide the score of a hypothesis by length ** length_penalty (the length
        counts EOS).
      length_penalty: see `normalize_scores`.
    """

    max_len_a: Annotated[float, Between(0, 1024)] = 0.0
    max_len_b: Tokens = 200
    min_len: Tokens = 1
    temperature: Annotated[float, Between(1e-6, 1e6)] = 1.0
    unk_penalty: float = 0.0
    no_repeat_ngram_size: Annotated[int, Between(0, 1024)] = 0
    gen_code: bool = False
    zero_shot: bool = False
    normalize_scores: bool = True
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        schema.check(self, "decoding")

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
class Prompt:
    """What the decoder reads before it answers: BOS, then the decoder prompt of each sentence.

    Attributes:
      tokens: BOS first, padded right with 0. EOS may be among them.
      last: position of the last of them; the decoder's output there begins the answer.
    """

    tokens: Int[Array, "b p"]
    last: Int[Array, "b"]

    @classmethod
    def of(cls, prefix: Int[Array, "b p"] | None, batch: int) -> Prompt:
        """From decoder prompts.

        Args:
          prefix: tokens after BOS, padded right with 0; their lengths may differ. None leaves BOS
            alone.
          batch: b.
        """
        if prefix is None:
            prefix = jnp.zeros((batch, 0), jnp.int32)
        tokens = jnp.pad(prefix, ((0, 0), (1, 0)), constant_values=vocab.BOS_ID)
        return cls(tokens, (tokens != vocab.PAD_ID).sum(axis=1) - 1)

    def inputs(self, position: Position, history: Int[Array, "b g t"]) -> Int[Array, "b g"]:
        """Decoder inputs at a position: of the prompt, behind it of the answers (BOS first)."""
        own = self.tokens[:, jnp.minimum(position, self.tokens.shape[1] - 1)]
        answered = position - self.last
        return jnp.where((answered <= 0)[:, None], own[:, None], read_column(history, answered))


@struct.dataclass
class Hypotheses:
    """Decoded answers, per sentence the best first; the decoder prompt is not part of them.

    Attributes:
      tokens: without BOS, with the final EOS, then padding. t = max length + 1.
      lengths: tokens including EOS. 0 marks an empty place: a constraint left fewer than g
        hypotheses; its score is -inf.
      scores: by which they are ordered: the log-probability, divided by length ** length_penalty
        where the settings normalize.
      log_probabilities: sum over the tokens.
      positional_scores: log-probability of each token, 0 on padding; None where only whole answers
        were scored (`ranking`).
    """

    tokens: Int[Array, "b g t"]
    lengths: Int[Array, "b g"]
    scores: Float[Array, "b g"]
    log_probabilities: Float[Array, "b g"]
    positional_scores: Float[Array, "b g t"] | None

    def sorted(self) -> Hypotheses:
        """The same hypotheses ordered by falling score; equal scores keep their order."""
        order = jnp.argsort(-self.scores, axis=1, stable=True)
        return jax.tree.map(lambda leaf: take_beams(leaf, order), self)


def take_beams(
    leaf: Shaped[Array, "b _ *rest"], beams: Int[Array, "b g"]
) -> Shaped[Array, "b g *rest"]:
    """Picks beams sentence by sentence."""
    return jax.vmap(lambda rows, index: rows[index])(leaf, beams)


def reorder_cache(cache: Cache, beams: Int[Array, "b g"]) -> Cache:
    """Moves the self-attention state with its beams; the rest of the cache is left alone.

    Args:
      cache: see the module's docstring.
      beams: for each new beam the old one that it continues.
    """
    moved = jax.tree.map(lambda leaf: take_beams(leaf, beams), cache["self"])
    return {**cache, "self": moved}


def read_column(buffer: Shaped[Array, "b g t"], position: Int[Array, "b"]) -> Shaped[Array, "b g"]:
    """The buffer at a place of each sentence, or the nearest one that there is."""
    place = jnp.clip(position, 0, buffer.shape[2] - 1)
    return jnp.take_along_axis(buffer, place[:, None, None], axis=2)[..., 0]


def write_column(
    buffer: Shaped[Array, "b g t"], column: Shaped[Array, "b g"], position: Int[Array, "b"]
) -> Shaped[Array, "b g t"]:
    """Stores a column in the buffer at a place of each sentence, where there is such a place."""
    is_place = jnp.arange(buffer.shape[2]) == position[:, None, None]
    return jnp.where(is_place, column[..., None], buffer)


def step_scores(
    logits: Float[Array, "b g v"],
    config: DecodingConfig,
    *,
    step: Int[Array, "b"],
    max_length: int,
    history: Int[Array, "b g t"],
    constraint: Constraint | None = None,
    constraint_state: PyTree[Shaped[Array, "b g ..."]] = (),
) -> tuple[Float[Array, "b g v"], Float[Array, "b g"]]:
    """Applies all rules of SPEC 7.1 to one step's logits, in the official order.

    The log-probability of id i is `scores[..., i] - normalizers`; the two are kept apart so that
    the log-softmax over the vocabulary is never stored. Subtracting a constant changes no
    order, so the best ids can be picked from `scores`.

    OFA-NOTE: SPEC 7.1 counts a decoder prompt as generated: its EOS ends the hypothesis, its
    n-grams are forbidden, its length and log-probability are part of the limits and the score, and
    without a trie a wrong prompt passes at one nat below the right one. Here a prompt is context,
    and none of these rules sees it. An unnormalized search without n-gram blocking, as the official
    one with a prompt (SPEC 7.3), finds the same answers in the same order.

    Args:
      logits: of any float type; scores are float32.
      step: tokens of the answer so far; negative while a prompt is read, where the
        result means nothing.
      max_length: the longest output without EOS; at step == max_length only EOS is left.
      history: BOS, then the answer so far; only the first step + 1 are read.
      constraint: what may follow, or None.
      constraint_state: its state.

    Returns:
      (scores, normalizers); forbidden ids have score -inf.
    """
    scores = logits.astype(jnp.float32)
    if config.temperature != 1.0:
        scores = scores / config.temperature
    ids = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    count = step[:, None, None]

    allowed = None
    if constraint is not None:
        allowed = constraint.allowed(constraint_state, scores.shape[-1])
    if allowed is not None and not config.zero_shot:
        scores = jnp.where(allowed, scores, NEGATIVE_INFINITY)
    normalizers = jax.nn.logsumexp(scores, axis=-1)

    keep = (ids != vocab.EOS_ID) | (count >= config.min_len)
    keep = keep & (ids != vocab.PAD_ID)
    if config.gen_code:
        keep = keep & ((ids >= vocab.NUM_SPECIALS) | (count >= max_length))
    keep = keep & ((ids == vocab.EOS_ID) | (count < max_length))
    if allowed is not None and config.zero_shot:
        keep = keep & allowed
    scores = jnp.where(keep & ~jnp.isnan(scores), scores, NEGATIVE_INFINITY)
    if config.unk_penalty:
        scores = scores - config.unk_penalty * (ids == vocab.UNK_ID)
    if config.no_repeat_ngram_size:
        scores = _block_repeated_ngrams(scores, history, step, config.no_repeat_ngram_size)
    return scores, normalizers


def log_probabilities(
    scores: Float[Array, "..."], normalizers: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`scores - normalizers`, with -inf instead of NaN (a row without any allowed id)."""
    result = scores - normalizers
    return jnp.where(jnp.isnan(result), NEGATIVE_INFINITY, result)


def _block_repeated_ngrams(
    scores: Float[Array, "b g v"], history: Int[Array, "b g t"], step: Int[Array, "b"], size: int
) -> Float[Array, "b g v"]:
    """-inf for each id that would complete an n-gram already in history[..., :step + 1]."""
    windows = history.shape[-1] - size + 1
    if windows <= 0:
        return scores
    ends = jnp.arange(windows) + size - 1
    matches = jnp.broadcast_to(ends <= step[:, None, None], (*history.shape[:2], windows))
    for offset in range(size - 1):
        recent = read_column(history, step + 2 - size + offset)[..., None]
        matches = matches & (history[..., offset : offset + windows] == recent)
    banned = jnp.where(matches, history[..., size - 1 :], scores.shape[-1])
    rows = jnp.arange(scores.shape[0])[:, None, None]
    beams = jnp.arange(scores.shape[1])[None, :, None]
    return scores.at[rows, beams, banned].set(NEGATIVE_INFINITY, mode="drop")
