"""A slow search in plain Python, one sentence at a time, written from SPEC 7.1 and 7.2.

It keeps lists of hypotheses and recomputes everything for each of them, so it shares neither
code nor layout with `ofa_jax.decoding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ofa_jax.decoding.beam import BeamConfig

PAD, BOS, EOS, UNK = 0, 1, 2, 3
Result = tuple[list[int], float, list[float]]


def log_softmax(row: np.ndarray) -> np.ndarray:
    """float64[v] -> float64[v]; -inf everywhere where every entry is -inf."""
    top = row.max()
    if top == -math.inf:
        return row
    return row - top - math.log(np.exp(row - top).sum())


def trie_children(candidates: Sequence[Sequence[int]], generated: Sequence[int]) -> set[int]:
    """Ids that continue a candidate after `generated`; only EOS where none begins like that."""
    complete = [[*candidate, EOS] for candidate in candidates]
    size = len(generated)
    following = {
        candidate[size]
        for candidate in complete
        if len(candidate) > size and candidate[:size] == list(generated)
    }
    return following or {EOS}


def row_of_log_probs(
    logits: np.ndarray,
    config: BeamConfig,
    generated: list[int],
    max_length: int,
    allowed: Callable[[list[int]], set[int]] | None,
) -> np.ndarray:
    """All rules for the next id after the answer `generated` (without BOS and prompt)."""
    step = len(generated)
    row = logits.astype(np.float64) / config.temperature
    barred: list[int] = []
    if allowed is not None:
        inside = allowed(generated)
        barred = [index for index in range(len(row)) if index not in inside]
    if not config.zero_shot:
        row[barred] = -math.inf
    row = log_softmax(row)
    row[barred] = -math.inf
    if step < config.min_len:
        row[EOS] = -math.inf
    row[PAD] = -math.inf
    row[UNK] -= config.unk_penalty
    if config.gen_code and step < max_length:
        row[:4] = -math.inf
    if step == max_length:
        own = row[EOS]
        row[:] = -math.inf
        row[EOS] = own
    size = config.no_repeat_ngram_size
    if size:
        sequence = [BOS, *generated]
        seen = {tuple(sequence[i : i + size]) for i in range(len(sequence) - size + 1)}
        tail = sequence[len(sequence) - size + 1 :]
        for index in range(len(row)):
            if len(tail) == size - 1 and (*tail, index) in seen:
                row[index] = -math.inf
    return row


def search(
    next_logits: Callable[[list[int]], np.ndarray],
    config: BeamConfig,
    *,
    max_length: int,
    prefix: Sequence[int] = (),
    allowed: Callable[[list[int]], set[int]] | None = None,
) -> list[Result]:
    """Beam search for one sentence.

    Args:
      next_logits: decoder inputs after BOS -> float[v].
      config: the settings.
      max_length: the longest answer without EOS.
      prefix: the decoder prompt, which only `next_logits` sees.
      allowed: answer so far -> ids that may follow.

    Returns:
      (answer with EOS, score, log-probability of each token), best first.
    """
    live: list[tuple[list[int], list[float]]] = [([], [])]
    finished: list[Result] = []
    for step in range(max_length + 1):
        candidates = []
        for order, (tokens, gains) in enumerate(live):
            logits = next_logits([*prefix, *tokens])
            row = row_of_log_probs(logits, config, tokens, max_length, allowed)
            total = sum(gains)
            for index in np.flatnonzero(row > -math.inf):
                candidates.append((-(total + row[index]), order, int(index), float(row[index])))
        candidates.sort()
        candidates = candidates[: 2 * config.beam]
        for rank, (negative_total, order, index, gain) in enumerate(candidates):
            if index != EOS or rank >= config.beam or len(finished) == config.beam:
                continue
            score = -negative_total
            if config.normalize_scores:
                score /= (step + 1) ** config.length_penalty
            tokens, gains = live[order]
            finished.append(([*tokens, EOS], score, [*gains, gain]))
        live = [
            ([*live[order][0], index], [*live[order][1], gain])
            for _, order, index, gain in candidates
            if index != EOS
        ][: config.beam]
        if len(finished) == config.beam or not live:
            break
    return sorted(finished, key=lambda result: -result[1])
