"""Wordpiece of Chinese BERT, the text vocabulary of the Chinese OFA models (SPEC 3.4).

Follows the published BertTokenizer with lower-casing: clean, put spaces around Chinese
characters, lower-case, drop accents, split at punctuation, then match the longest pieces first.
"""

from __future__ import annotations

import functools
import pathlib
import re
import shutil
import unicodedata
from collections.abc import Iterable

import numpy as np

from ofa_jax.text.gpt2_bpe import read_dictionary
from ofa_jax.vocab import NUM_SPECIALS, OFFICIAL_SPECIALS, UNK_ID

__all__ = [
    "DICTIONARY_FILE",
    "MAX_WORD_CHARACTERS",
    "VOCABULARY_FILE",
    "BertWordpiece",
    "split_words",
]

VOCABULARY_FILE = "vocab.txt"
# fairseq's order of the ids; without it they follow the rows of the vocabulary file.
DICTIONARY_FILE = "dict.txt"
MAX_WORD_CHARACTERS = 100

# BERT's own specials; written in a text they are kept as one piece, in upper case.
_BERT_SPECIALS = re.compile(r"(\[UNK\]|\[SEP\]|\[PAD\]|\[CLS\]|\[MASK\])")

_CHINESE_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)

# Spaces that joining pieces leaves before punctuation and English contractions.
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class BertWordpiece:
    """Chinese tokenizer of OFA. Implements `ofa_jax.text.tokenizer.TextTokenizer`.

    Attributes:
      directory: with `vocab.txt`, and `dict.txt` in fairseq's layout.
    """

    def __init__(self, directory: str | pathlib.Path) -> None:
        """Looks for the files but does not read them yet.

        Args:
          directory: with `vocab.txt`: one piece per line, in HuggingFace's OFA directories
            behind `<s>`, `<pad>`, `</s>` and `<unk>`. A `dict.txt` beside it says the order of the
            ids.

        Raises:
          FileNotFoundError: there is no `vocab.txt`.
        """
        self.directory = pathlib.Path(directory)
        if not (self.directory / VOCABULARY_FILE).is_file():
            raise FileNotFoundError(
                f"no Chinese BERT vocabulary in {self.directory}: expected {VOCABULARY_FILE}"
            )

    def __getstate__(self) -> dict:
        return {"directory": self.directory}

    @property
    def num_text(self) -> int:
        """Number of text ids (21,128 for the released models)."""
        return len(self.symbols)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the text ids 4, 5, ...: the rows of dict.txt, else of vocab.txt."""
        return self._tables[0]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, lower-cased, without BOS and EOS; unknown words become BERT's [UNK].

        Args:
          text: any string.

        Returns:
          ids in 4 .. 3 + num_text.
        """
        _, ids = self._tables
        pieces = []
        for part in _BERT_SPECIALS.split(text):
            if _BERT_SPECIALS.fullmatch(part):
                pieces.append(part)
            else:
                for word in split_words(part):
                    pieces.extend(self._word_pieces(word))
        return [ids.get(piece, UNK_ID) for piece in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids: pieces joined, spaces before punctuation removed.

        Args:
          ids: ids below 4 + num_text; the four specials stand for nothing here.

        Returns:
          The text, Chinese characters separated by spaces as BERT leaves them.
        """
        symbols = self.symbols
        text = " ".join(symbols[i - NUM_SPECIALS] for i in ids if i >= NUM_SPECIALS)
        text = text.replace(" ##", "").strip()
        for spaced, joined in _CLEAN_UP:
            text = text.replace(spaced, joined)
        return text

    def word_starts(self) -> np.ndarray:
        """bool[4 + num_text]: True for the specials and for pieces without "##" in front."""
        return self._word_starts

    def save(self, directory: str | pathlib.Path) -> None:
        """Copies the vocabulary files to another directory."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name in (VOCABULARY_FILE, DICTIONARY_FILE):
            source, target = self.directory / name, directory / name
            if source.is_file() and not (target.exists() and target.samefile(source)):
                shutil.copyfile(source, target)

    def huggingface_files(self) -> dict[str, str]:
        """Content of HuggingFace's `vocab.txt`: the specials in front, a row for each id."""
        # fairseq's dictionary cannot spell pieces that are white space.
        spelt = zip(self.symbols, self._rows)
        rows = [symbol if symbol in self._pieces else row for symbol, row in spelt]
        return {VOCABULARY_FILE: "".join(f"{row}\n" for row in (*OFFICIAL_SPECIALS, *rows))}

    def _word_pieces(self, word: str) -> list[str]:
        """Longest pieces first, from the left; a word that cannot be covered is [UNK]."""
        if len(word) > MAX_WORD_CHARACTERS:
            return ["[UNK]"]
        known = self._pieces
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                piece = prefix + word[start:end]
                if piece in known:
                    pieces.append(piece)
                    start = end
                    break
            else:
                return ["[UNK]"]
        return pieces

    @functools.cached_property
    def _word_starts(self) -> np.ndarray:
        starts = [not symbol.startswith("##") for symbol in self.symbols]
        starts = np.array([True] * NUM_SPECIALS + starts)
        starts.setflags(write=False)
        return starts

    @functools.cached_property
    def _pieces(self) -> frozenset[str]:
        return frozenset(self._rows) - {""}

    @functools.cached_property
    def _rows(self) -> list[str]:
        """The text of the vocabulary file, without the specials in front and whole tokens behind.

        Only line feeds end a line; odd separators are pieces themselves.
        """
        text = (self.directory / VOCABULARY_FILE).read_text(encoding="utf-8")
        rows = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        if tuple(rows[:NUM_SPECIALS]) == OFFICIAL_SPECIALS:
            rows = rows[NUM_SPECIALS:]
        return rows[: rows.index("<mask>")] if "<mask>" in rows else rows

    @functools.cached_property
    def _tables(self) -> tuple[tuple[str, ...], dict[str, int]]:
        dictionary = self.directory / DICTIONARY_FILE
        symbols = read_dictionary(dictionary) if dictionary.is_file() else self._rows
        return tuple(symbols), {
            symbol: NUM_SPECIALS + row for row, symbol in enumerate(symbols) if symbol
        }


def split_words(text: str) -> list[str]:
    """BERT's basic tokenizer: lower-cased words, punctuation and Chinese characters apart.

    Args:
      text: any string.

    Returns:
      Words without white space.
    """
    text = "".join(_spaced(char) for char in unicodedata.normalize("NFC", text.lower()))
    words = []
    for word in text.split():
        word = unicodedata.normalize("NFD", word.lower())
        word = "".join(char for char in word if unicodedata.category(char) != "Mn")
        words.extend("".join(f" {c} " if _is_punctuation(c) else c for c in word).split())
    return words


def _spaced(char: str) -> str:
    """A character cleaned: control characters vanish, Chinese ones get spaces around them."""
    code = ord(char)
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
        return " "
    if code in (0, 0xFFFD) or unicodedata.category(char).startswith("C"):
        return ""
    if any(first <= code <= last for first, last in _CHINESE_RANGES):
        return f" {char} "
    return char


def _is_punctuation(char: str) -> bool:
    """Unicode punctuation, and every ASCII character that is neither letter, digit nor space."""
    code = ord(char)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(char).startswith("P")
