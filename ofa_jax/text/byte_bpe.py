"""The engine shared by all byte-level BPE vocabularies: ranked byte strings in, ids out.

`gpt2_bpe` fills it from vocabulary files, `trained_bpe` from merges learnt on a small corpus. The
merging itself is done by tiktoken; this module only translates between merge ranks and the ids of
the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tiktoken

from ofa_jax.vocab import NUM_SPECIALS, UNK_ID

# How GPT-2 cuts text into pieces before merging (SPEC 3.1).
SPLIT_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_alphabet() -> dict[int, str]:
    """The printable character that GPT-2's vocabulary files write for each byte.

    Returns:
      Byte value to one character, in the order in which GPT-2 numbers its first 256 tokens: bytes
      that are printable in Latin-1 stand for themselves and come first, the others are moved to
      U+0100 and up.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {byte: chr(byte) for byte in printable}
    alphabet.update({byte: chr(0x100 + i) for i, byte in enumerate(hidden)})
    return alphabet


class ByteBPE:
    """Byte-level BPE with any numbering of its tokens.

    Attributes:
      num_text: how many text ids the vocabulary has, starting at id 4.
    """

    def __init__(
        self,
        name: str,
        ranked_tokens: Sequence[bytes],
        ids: Sequence[int],
        num_text: int,
        unranked: Mapping[int, bytes] | None = None,
    ) -> None:
        """Builds the merge engine.

        Args:
          name: shown in errors.
          ranked_tokens: the 256 single bytes in any order, then the result of every merge, earlier
            merges first.
          ids: id of each ranked token; `UNK_ID` where the vocabulary does not have it.
          num_text: number of text ids; ids run from 4 to 3 + num_text.
          unranked: text of ids that no merge produces (end of text).

        Raises:
          ValueError: a byte is missing, a token is repeated, or an id is out of range.
        """
        if len(set(ranked_tokens)) != len(ranked_tokens):
            raise ValueError(f"{name}: a token is the result of two different merges")
        if len(ids) != len(ranked_tokens):
            raise ValueError(f"{name}: {len(ranked_tokens)} tokens but {len(ids)} ids")
        missing = {bytes([byte]) for byte in range(256)} - set(ranked_tokens)
        if missing:
            raise ValueError(f"{name}: no token for the bytes {sorted(missing)[:5]} ...")
        self.name = name
        self.num_text = num_text
        self._ids = [int(i) for i in ids]
        self._bytes: list[bytes] = [b""] * (NUM_SPECIALS + num_text)
        pairs = [*zip(self._ids, ranked_tokens), *(unranked or {}).items()]
        for token_id, token in pairs:
            if token_id == UNK_ID:
                continue
            if not NUM_SPECIALS <= token_id < NUM_SPECIALS + num_text:
                raise ValueError(
                    f"{name}: token {token!r} has id {token_id}, "
                    f"text ids are {NUM_SPECIALS} .. {NUM_SPECIALS + num_text - 1}"
                )
            if self._bytes[token_id]:
                raise ValueError(
                    f"{name}: id {token_id} stands for both {self._bytes[token_id]!r} and {token!r}"
                )
            self._bytes[token_id] = token
        self._engine = tiktoken.Encoding(
            name,
            pat_str=SPLIT_PATTERN,
            mergeable_ranks={token: rank for rank, token in enumerate(ranked_tokens)},
            special_tokens={},
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without BOS and EOS.

        Args:
          text: any string.

        Returns:
          ids in 4 .. 3 + num_text.
        """
        ids = self._ids
        return [ids[rank] for rank in self._engine.encode_ordinary(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; byte sequences that are not UTF-8 become U+FFFD.

        Args:
          ids: ids below 4 + num_text; the four specials stand for nothing here.

        Returns:
          The text.
        """
        table = self._bytes
        return b"".join([table[i] for i in ids]).decode("utf-8", errors="replace")

    def word_starts(self) -> np.ndarray:
        """Which ids begin a word, for masking whole words (SPEC 4.3.8).

        Returns:
          bool[4 + num_text]: True for the specials, for tokens whose text begins with a space, and
          for ids without text. Read-only: computed once, handed out for every example.
        """
        return self._word_starts

    @functools.cached_property
    def _word_starts(self) -> np.ndarray:
        starts = np.array([not token or token.startswith(b" ") for token in self._bytes])
        starts.setflags(write=False)
        return starts
