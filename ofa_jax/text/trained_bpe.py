"""A small byte-level BPE learnt from a corpus, for data sets with their own little language.

The embedded synthetic data set needs about 400 tokens, not 50,000. All 256 bytes are tokens, so
that any string can be encoded and `<unk>` never appears.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import regex

from ofa_jax.schema import parse_json
from ofa_jax.text.byte_bpe import SPLIT_PATTERN, ByteBPE
from ofa_jax.vocab import NUM_SPECIALS

__all__ = ["FILE_NAME", "TrainedBPE"]

FILE_NAME = "trained_bpe.json"


class TrainedBPE:
    """Byte-level BPE given by its merges. Implements `ofa_jax.text.tokenizer.TextTokenizer`.

    Attributes:
      merged_tokens: what each merge joins to, earliest merge first.
    """

    def __init__(self, merged_tokens: Sequence[bytes]) -> None:
        """Takes the merges as they come from `train` or `from_json`.

        Args:
          merged_tokens: byte strings of at least two bytes, earliest merge first.
        """
        self.merged_tokens = tuple(bytes(token) for token in merged_tokens)

    @classmethod
    def train(
        cls,
        corpus: Iterable[str],
        *,
        num_merges: int | None = None,
        vocab_size: int | None = None,
        min_count: int = 2,
    ) -> TrainedBPE:
        """Learns merges: the most frequent pair of neighbors first, as in GPT-2.

        Deterministic: pairs of equal count are taken in the order of their bytes.

        Args:
          corpus: texts. Begin them with a space where the model will see them so.
          num_merges: at most this many merges. Give either this or `vocab_size`.
          vocab_size: at most this many text tokens, the 256 bytes included.
          min_count: pairs seen less often are not merged.

        Returns:
          The tokenizer; its `num_text` is below the size asked for if the corpus runs out of pairs.

        Raises:
          ValueError: not exactly one of the two sizes is given, or it is too small.
        """
        if (num_merges is None) == (vocab_size is None):
            raise ValueError("give either num_merges or vocab_size")
        if vocab_size is not None:
            num_merges = vocab_size - 256
        if num_merges is None or num_merges < 0:
            raise ValueError(f"vocab_size must be at least 256 (all bytes), got {vocab_size}")
        words = collections.Counter()
        split = regex.compile(SPLIT_PATTERN)
        for text, count in collections.Counter(corpus).items():
            for piece in split.findall(text):
                words[piece] += count
        return cls(_learn_tokens(words, num_merges, min_count))

    @property
    def num_text(self) -> int:
        """Number of text tokens: 256 bytes and one for each merge."""
        return 256 + len(self.merged_tokens)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the text ids 4, 5, ...: their bytes read as Latin-1."""
        return tuple(token.decode("latin-1") for token in self._ranked_tokens())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without BOS and EOS."""
        return self._bpe.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids below 4 + num_text; the specials stand for nothing."""
        return self._bpe.decode(ids)

    def word_starts(self) -> np.ndarray:
        """bool[4 + num_text]: which ids begin a word."""
        return self._bpe.word_starts()

    def to_json(self) -> str:
        """The merged tokens as text, bytes written in hexadecimal."""
        tokens = [token.hex() for token in self.merged_tokens]
        return json.dumps({"kind": "trained_bpe", "merged_tokens": tokens})

    @classmethod
    def from_json(cls, text: str) -> TrainedBPE:
        """Inverse of `to_json`.

        Args:
          text: what `to_json` returned.

        Raises:
          ValueError: the text is something else.
        """
        content = parse_json(text, "a saved TrainedBPE")
        if not isinstance(content, dict) or content.get("kind") != "trained_bpe":
            raise ValueError("not a saved TrainedBPE: the field kind is not 'trained_bpe'")
        tokens = content.get("merged_tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ValueError("a saved TrainedBPE: merged_tokens must be a list of texts")
        return cls([bytes.fromhex(token) for token in tokens])

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `trained_bpe.json` into a directory."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / FILE_NAME).write_text(self.to_json(), encoding="utf-8")

    def huggingface_files(self) -> dict[str, str]:
        """{}: HuggingFace merges pairs, which the joined tokens do not tell."""
        return {}

    def __getstate__(self) -> dict:
        return {"merged_tokens": self.merged_tokens}

    def _ranked_tokens(self) -> list[bytes]:
        return [bytes([byte]) for byte in range(256)] + list(self.merged_tokens)

    @functools.cached_property
    def _bpe(self) -> ByteBPE:
        ids = range(NUM_SPECIALS, NUM_SPECIALS + self.num_text)
        return ByteBPE("trained", self._ranked_tokens(), ids, self.num_text)


def _learn_tokens(words: Mapping[str, int], num_merges: int, min_count: int) -> list[bytes]:
    """Merged tokens for words with counts; only words that contain the merged pair are touched.

    Pairs are counted by the bytes they join to, not by how the bytes are divided: this is how
    tiktoken merges, which knows a rank for each byte string only.
    """
    spellings = [[bytes([byte]) for byte in word.encode("utf-8", "replace")] for word in words]
    counts = list(words.values())
    pair_counts: collections.Counter[bytes] = collections.Counter()
    where: dict[bytes, set[int]] = collections.defaultdict(set)
    for index, spelling in enumerate(spellings):
        for joined in _joined_neighbors(spelling):
            pair_counts[joined] += counts[index]
            where[joined].add(index)
    tokens: dict[bytes, None] = {}
    while len(tokens) < num_merges:
        candidates = [
            (-count, joined)
            for joined, count in pair_counts.items()
            if count >= min_count and joined not in tokens
        ]
        if not candidates:
            break
        best = min(candidates)[1]
        tokens[best] = None
        for index in where[best]:
            old = spellings[index]
            new = _merge(old, best)
            for joined in _joined_neighbors(old):
                pair_counts[joined] -= counts[index]
            for joined in _joined_neighbors(new):
                pair_counts[joined] += counts[index]
                where[joined].add(index)
            spellings[index] = new
    return list(tokens)


def _joined_neighbors(spelling: list[bytes]) -> list[bytes]:
    return [left + right for left, right in itertools.pairwise(spelling)]


def _merge(spelling: list[bytes], token: bytes) -> list[bytes]:
    """Joins, left to right, neighbors that together make the token."""
    result, position = [], 0
    while position < len(spelling):
        if b"".join(spelling[position : position + 2]) == token and position + 1 < len(spelling):
            result.append(token)
            position += 2
        else:
            result.append(spelling[position])
            position += 1
    return result
