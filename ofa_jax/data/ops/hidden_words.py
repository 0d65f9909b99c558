"""Words of a target that are not scored, or not read.

Where a preparation hides what a word speaks of, the word teaches only how often it occurs beside
the others: it is not scored. Where the next word is to be learnt from the image and not from the
word before, the model reads a token drawn by lot in the place of that.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

# Fields of a prepared example: tuples of words, or of several in a row.
UNSCORED_WORDS, UNREAD_WORDS = "unscored_words", "unread_words"


class Encoder(Protocol):
    """The part of a tokenizer that words need."""

    def encode(self, text: str) -> Sequence[int]: ...


@functools.lru_cache(maxsize=64)
def _spellings(words: tuple[str, ...], tokenizer: Encoder) -> dict[int, list[list[int]]]:
    """The ids of each word by its first id, long ones first."""
    found: dict[int, list[list[int]]] = {}
    for ids in sorted((list(tokenizer.encode(f" {word}")) for word in words), key=len)[::-1]:
        found.setdefault(ids[0], []).append(ids)
    return found


@functools.lru_cache(maxsize=64)
def _other_tokens(
    words: tuple[str, ...], tokenizer: Encoder, tokens: tuple[int, int]
) -> np.ndarray:
    spelled = [ids for alike in _spellings(words, tokenizer).values() for ids in alike]
    return np.setdiff1d(np.arange(*tokens, dtype=np.int32), np.concatenate(spelled))


def _places(tokens: list[int], words: tuple[str, ...], tokenizer: Encoder) -> list[int]:
    """Which tokens belong to one of the words."""
    spellings = _spellings(words, tokenizer)
    found: set[int] = set()
    for start, token in enumerate(tokens):
        for ids in spellings.get(token, ()):
            if tokens[start : start + len(ids)] == ids:
                found.update(range(start, start + len(ids)))
                break
    return sorted(found)


def hide_words(
    features: dict[str, np.ndarray],
    unscored: tuple[str, ...],
    unread: tuple[str, ...],
    tokenizer: Encoder,
    tokens: tuple[int, int],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Takes words out of the loss, and out of what encoder and decoder read.

    Args:
      features: with inputs int32[s], targets int32[t], decoder_inputs int32[t] (the targets behind
        bos) and loss_weights float32[t].
      unscored: words, or several in a row, which stand behind a space.
      unread: likewise.
      tokenizer: of the model; hashable.
      tokens: first id, and the id behind the last, of which those that are read are drawn. None
        that spells an unread word is.
      rng: the example's generator.

    Returns:
      New features: weights that are zero at unscored words, other tokens in the place of unread
      ones in inputs and decoder_inputs.
    """
    targets = features["targets"].tolist()
    weights = features["loss_weights"].copy()
    weights[_places(targets, unscored, tokenizer)] = 0.0
    hidden = {**features, "loss_weights": weights}
    if unread:
        others = _other_tokens(unread, tokenizer, tokens)
        # Decoder inputs stand one place behind the targets.
        behind = [place + 1 for place in _places(targets, unread, tokenizer)]
        behind = [place for place in behind if place < len(targets)]
        read = _places(features["inputs"].tolist(), unread, tokenizer)
        for name, places in (("decoder_inputs", behind), ("inputs", read)):
            hidden[name] = features[name].copy()
            hidden[name][places] = others[rng.integers(len(others), size=len(places))]
    return hidden
