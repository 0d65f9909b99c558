"""Text infilling noise: spans of whole words become single `<mask>` tokens, as in BART.

Source of the algorithm: SPEC 4.3.8. The clean ids are the target, the noised ids go into the
instruction.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class InfillingNoise:
    """Settings of the noise.

    Attributes:
      mask_ratio: share of the words that is masked. The budget is exact: spans, insertions counted
        as length zero, add up to ceil(mask_ratio * words) words.
      mean_span: mean of the Poisson distribution of span lengths in words, before the last span is
        shortened to the budget.
    """

    mask_ratio: float = 0.3
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.mask_ratio <= 1.0:
            raise ValueError(f"mask_ratio must be in [0, 1], got {self.mask_ratio}")
        if not self.mean_span >= 0.1:
            raise ValueError(f"mean_span must be at least 0.1 words, got {self.mean_span}")


@functools.lru_cache(maxsize=16)
def span_length_probabilities(mean: float) -> np.ndarray:
    """Poisson distribution, cut where it becomes negligible and normalized (SPEC 4.3.8).

    Args:
      mean: mean of the Poisson distribution.

    Returns:
      float64[k] probabilities of the span lengths 0, 1, ... k - 1 words. The last one kept is the
      first that falls below 1e-7 on the far side of the mean.
    """
    masses = [math.exp(-mean)]
    while masses[-1] >= 1e-7 or len(masses) <= mean:
        masses.append(masses[-1] * mean / len(masses))
    probabilities = np.array(masses)
    probabilities /= probabilities.sum()
    probabilities.setflags(write=False)
    return probabilities


def sample_span_lengths(budget: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Span lengths that add up to a budget exactly.

    Args:
      budget: number of words to mask, at least 1.
      mean: mean of the Poisson distribution.
      rng: source of randomness.

    Returns:
      int64[k] lengths in words, zeros included (they become insertions); the last one is shortened
      to meet the budget.
    """
    probabilities = span_length_probabilities(mean)
    lengths = np.zeros(0, np.int64)
    while lengths.sum() < budget:
        lengths = np.append(lengths, rng.choice(len(probabilities), budget, p=probabilities))
    last = int(np.searchsorted(np.cumsum(lengths), budget))
    lengths = lengths[: last + 1]
    lengths[last] -= lengths.sum() - budget
    return lengths


def infill_noise(
    tokens: np.ndarray,
    word_starts: np.ndarray,
    mask_id: int,
    rng: np.random.Generator,
    noise: InfillingNoise | None = None,
) -> np.ndarray:
    """Masks spans of whole words.

    Spans may overlap: a word start that another span has taken already just disappears. Words are
    counted by their starts; the pieces before the first start of the text stay as they are.

    Args:
      tokens: int[s] text ids without BOS and EOS.
      word_starts: bool[v] of `Tokenizer.word_starts`: which ids begin a word.
      mask_id: id of `<mask>`.
      rng: source of randomness.
      noise: ratio and span lengths; by default those of OFA.

    Returns:
      int32[r] noised ids.

    Raises:
      ValueError: an id has no entry in `word_starts`.
    """
    noise = noise or InfillingNoise()
    tokens = np.asarray(tokens, np.int32)
    if tokens.ndim != 1:
        raise ValueError(f"tokens must be one sequence, got an array of shape {tokens.shape}")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < len(word_starts)):
        raise ValueError(
            f"ids {tokens.min()} .. {tokens.max()}, but only text ids 0 .. "
            f"{len(word_starts) - 1} can be noised"
        )
    starts = np.flatnonzero(np.asarray(word_starts)[tokens])
    budget = math.ceil(noise.mask_ratio * len(starts))
    if budget == 0:
        return tokens.copy()
    lengths = sample_span_lengths(budget, noise.mean_span, rng)
    num_insertions = int((lengths == 0).sum())
    lengths = lengths[lengths > 0]
    # Where the n-th word after a start ends: at the next start, or at the end of the text.
    ends = np.append(starts, len(tokens))
    chosen = rng.permutation(len(starts))[: len(lengths)]
    noised = tokens.copy()
    keep = np.ones(len(tokens), bool)
    noised[starts[chosen]] = mask_id
    for word, length in zip(chosen, lengths):
        keep[starts[word] + 1 : ends[min(word + length, len(starts))]] = False
    return _insert_masks(noised[keep], num_insertions, mask_id, rng)


def _insert_masks(
    tokens: np.ndarray, count: int, mask_id: int, rng: np.random.Generator
) -> np.ndarray:
    """Spreads `count` masks over a sequence; every arrangement is equally likely."""
    is_mask = np.zeros(len(tokens) + count, bool)
    is_mask[rng.permutation(len(is_mask))[:count]] = True
    result = np.full(len(is_mask), mask_id, np.int32)
    result[~is_mask] = tokens
    return result
