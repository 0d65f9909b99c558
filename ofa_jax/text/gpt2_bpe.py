"""GPT-2's byte-level BPE with the numbering of BART and OFA, read from a local directory.

Two layouts of the directory are understood. fairseq: `encoder.json`, `vocab.bpe` and `dict.txt`,
where line k of dict.txt (from 0) names the GPT-2 id that OFA calls k + 4. HuggingFace: `vocab.json`
and `merges.txt`, where vocab.json already holds OFA's ids. Files are read at the first use.
"""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
from collections.abc import Iterable

import numpy as np

from ofa_jax.schema import read_json, shown
from ofa_jax.text.byte_bpe import ByteBPE, byte_alphabet
from ofa_jax.vocab import NUM_SPECIALS, OFFICIAL_SPECIALS, UNK_ID

__all__ = ["FAIRSEQ_FILES", "GPT2BPE", "HUGGINGFACE_FILES", "read_dictionary"]

FAIRSEQ_FILES = ("encoder.json", "vocab.bpe", "dict.txt")
HUGGINGFACE_FILES = ("vocab.json", "merges.txt")

# Ids beyond it are no mistake of counting but of the file.
_MOST_TOKENS = 1 << 24
_END_OF_TEXT = "<|endoftext|>"


def read_dictionary(path: pathlib.Path) -> list[str]:
    """Symbols of a fairseq dictionary in file order.

    Args:
      path: a text file with a symbol, a space and a count on each line.

    Returns:
      The symbols; symbol k has the id k + 4.

    Raises:
      ValueError: a line has no count.
    """
    symbols = []
    # Only line feeds end a line: str.splitlines would also cut at the odd separators that are
    # themselves symbols of the Chinese dictionary.
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line and number == len(lines):
            continue
        line = line.removesuffix("\r").removesuffix(" #fairseq:overwrite")
        symbol, separator, count = line.rpartition(" ")
        if not separator or not (count.isascii() and count.isdigit()):
            raise ValueError(f"{path}, line {number}: expected 'symbol count', found {line!r}")
        symbols.append(symbol)
    return symbols


class GPT2BPE:
    """English tokenizer of OFA. Implements `ofa_jax.text.tokenizer.TextTokenizer`.

    Attributes:
      directory: with the vocabulary files.
      files: names of the files used, of the fairseq or of the HuggingFace layout.
    """

    def __init__(self, directory: str | pathlib.Path) -> None:
        """Looks for the files but does not read them yet.

        Args:
          directory: in one of the two layouts; where both are there, fairseq's is used.

        Raises:
          FileNotFoundError: neither layout is complete.
        """
        self.directory = pathlib.Path(directory)
        for files in (FAIRSEQ_FILES, HUGGINGFACE_FILES):
            if all((self.directory / name).is_file() for name in files):
                self.files = files
                break
        else:
            raise FileNotFoundError(
                f"no GPT-2 BPE vocabulary in {self.directory}: expected the files "
                f"{', '.join(FAIRSEQ_FILES)} (fairseq) or {', '.join(HUGGINGFACE_FILES)} "
                "(HuggingFace)"
            )

    def __getstate__(self) -> dict:
        # Input workers read the files themselves: cheaper than sending 50,000 byte strings.
        return {"directory": self.directory, "files": self.files}

    @property
    def num_text(self) -> int:
        """Number of text ids (50,260 for the released models)."""
        return self._bpe.num_text

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the text ids 4, 5, ... as the vocabulary files write them."""
        return self._tables[1]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, case kept, without BOS and EOS (SPEC 3.1)."""
        return self._bpe.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids below 4 + num_text; specials and unused rows stand for nothing."""
        return self._bpe.decode(ids)

    def word_starts(self) -> np.ndarray:
        """bool[4 + num_text]: which ids begin a word."""
        return self._bpe.word_starts()

    def save(self, directory: str | pathlib.Path) -> None:
        """Copies the vocabulary files to another directory."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name in self.files:
            target = directory / name
            if not (target.exists() and target.samefile(self.directory / name)):
                shutil.copyfile(self.directory / name, target)

    def huggingface_files(self) -> dict[str, str]:
        """Content of `vocab.json` and `merges.txt`, whatever layout the directory has."""
        vocabulary_file, merges_file = (self.directory / name for name in self.files[:2])
        vocabulary = vocabulary_file.read_text(encoding="utf-8")
        if self.files == FAIRSEQ_FILES:
            names = {str(number): token for token, number in _token_ids(vocabulary_file).items()}
            tokens = [names.get(symbol, symbol) for symbol in self.symbols]
            ids = {token: row for row, token in enumerate((*OFFICIAL_SPECIALS, *tokens, "<mask>"))}
            vocabulary = json.dumps(ids, ensure_ascii=False)
        # HuggingFace skips the first line and what follows the last line feed.
        merges = "".join(f"{merge}\n" for merge in ("#version: 0.2", *_merges(merges_file)))
        return dict(zip(HUGGINGFACE_FILES, (vocabulary, merges)))

    @property
    def _bpe(self) -> ByteBPE:
        return self._tables[0]

    @functools.cached_property
    def _tables(self) -> tuple[ByteBPE, tuple[str, ...]]:
        vocabulary = _token_ids(self.directory / self.files[0])
        ranked = _ranked_symbols(self.directory / self.files[1])
        if self.files == FAIRSEQ_FILES:
            symbols = read_dictionary(self.directory / "dict.txt")
            ofa_ids = {symbol: NUM_SPECIALS + row for row, symbol in enumerate(symbols)}
            ids_of = {
                token: ofa_ids.get(str(gpt2_id), UNK_ID) for token, gpt2_id in vocabulary.items()
            }
            num_text = len(symbols)
        else:
            ids_of = vocabulary
            num_text = self._huggingface_num_text(vocabulary)
            names = {token_id: token for token, token_id in vocabulary.items()}
            symbols = [names.get(NUM_SPECIALS + row, "") for row in range(num_text)]
        absent = [token for token in ranked if token not in ids_of]
        if absent:
            raise ValueError(
                f"{self.directory}: {self.files[1]} and {self.files[0]} do not belong together: "
                f"{len(absent)} tokens such as {absent[0]!r} have no id"
            )
        unranked = {}
        if ids_of.get(_END_OF_TEXT, UNK_ID) != UNK_ID:
            unranked[ids_of[_END_OF_TEXT]] = _END_OF_TEXT.encode()
        byte_of = {char: byte for byte, char in byte_alphabet().items()}
        engine = ByteBPE(
            "gpt2",
            [bytes(byte_of[char] for char in token) for token in ranked],
            [ids_of[token] for token in ranked],
            num_text,
            unranked,
        )
        return engine, tuple(symbols)

    def _huggingface_num_text(self, vocabulary: dict[str, int]) -> int:
        specials = [vocabulary.get(symbol) for symbol in OFFICIAL_SPECIALS]
        if specials != [0, 1, 2, 3]:
            raise ValueError(
                f"{self.directory / 'vocab.json'}: <s>, <pad>, </s>, <unk> must have the ids "
                f"0, 1, 2, 3 as in OFA and BART, found {specials} (plain GPT-2 files need the "
                "dict.txt of the fairseq layout)"
            )
        if "<mask>" in vocabulary:
            return vocabulary["<mask>"] - NUM_SPECIALS
        # Codes and bins may be listed too; they begin after <mask>, which then is only implied.
        added = [i for token, i in vocabulary.items() if token.startswith(("<code_", "<bin_"))]
        return (min(added) - 1 if added else max(vocabulary.values()) + 1) - NUM_SPECIALS


def _token_ids(path: pathlib.Path) -> dict[str, int]:
    listed = read_json(path, expected=dict)
    for token, number in listed.items():
        if type(number) is not int or not 0 <= number < _MOST_TOKENS:
            raise ValueError(
                f"{path}: {token!r} must have an id from 0 to {_MOST_TOKENS - 1:,}, "
                f"found {shown(number)}"
            )
    return listed


def _ranked_symbols(path: pathlib.Path) -> list[str]:
    """The 256 byte symbols, then the result of each merge of the file, in merge order."""
    return [*byte_alphabet().values(), *(merge.replace(" ", "") for merge in _merges(path))]


def _merges(path: pathlib.Path) -> list[str]:
    """The merges of a file, as "left right"."""
    merges = []
    # No merge contains a line separator, but some contain characters that splitlines cuts at.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        if len(line.split(" ")) != 2:
            raise ValueError(f"{path}, line {number}: expected two symbols, found {line!r}")
        merges.append(line)
    return merges
