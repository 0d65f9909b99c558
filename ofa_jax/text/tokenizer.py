"""The one tokenizer of a run: text, `<mask>`, image codes and box bins to ids and back.

Wraps a text vocabulary (`gpt2_bpe`, `bert_wordpiece`, `trained_bpe`) together with the layout of
the ids. Image codes and bins never enter the BPE: one regular expression finds them, arithmetic
gives their ids.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ofa_jax.text.bert_wordpiece import VOCABULARY_FILE as BERT_FILE
from ofa_jax.text.bert_wordpiece import BertWordpiece
from ofa_jax.text.gpt2_bpe import FAIRSEQ_FILES, GPT2BPE, HUGGINGFACE_FILES
from ofa_jax.text.layouts import stated_layout, write_layout
from ofa_jax.text.trained_bpe import FILE_NAME as TRAINED_FILE
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import EOS_ID, NUM_SPECIALS, SPECIAL_SYMBOLS, UNK_ID, VocabLayout

__all__ = ["TextTokenizer", "Tokenizer", "load_tokenizer"]

# White space in front of a whole token belongs to it, as for the mask of BART; white space behind
# it belongs to the text that follows, which then starts with a " word" token.
_WHOLE_TOKEN = re.compile(r"\s*<(?:(bin|code)_([0-9]{1,9})|mask)>")


@runtime_checkable
class TextTokenizer(Protocol):
    """What a text vocabulary must offer.

    Attributes:
      num_text: number of text ids, which are 4 .. 3 + num_text.
      symbols: their names in the vocabulary files.
    """

    @property
    def num_text(self) -> int: ...

    @property
    def symbols(self) -> Sequence[str]: ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without BOS and EOS."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids below 4 + num_text; specials stand for nothing."""
        ...

    def word_starts(self) -> np.ndarray:
        """bool[4 + num_text]: which ids begin a word."""
        ...

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes the vocabulary files to a directory."""
        ...

    def huggingface_files(self) -> dict[str, str]:
        """Content of the files of HuggingFace's layout by name; {} where it has none."""
        ...


class Tokenizer:
    """Ids of everything that a sequence may contain. All ids are internal (pad 0, bos 1).

    Attributes:
      text_tokenizer: the text vocabulary.
      layout: where text, codes and bins live.
    """

    def __init__(self, text_tokenizer: TextTokenizer, layout: VocabLayout | None = None) -> None:
        """Puts a text vocabulary and a layout together.

        Args:
          text_tokenizer: the text vocabulary.
          layout: the layout; by default OFA's 8,192 codes and 1,000 bins after the text.

        Raises:
          ValueError: text vocabulary and layout disagree about the number of text tokens.
        """
        layout = layout or VocabLayout(num_text=text_tokenizer.num_text)
        if layout.num_text != text_tokenizer.num_text:
            raise ValueError(
                f"the layout has {layout.num_text} text tokens but the text vocabulary has "
                f"{text_tokenizer.num_text}"
            )
        self.text_tokenizer = text_tokenizer
        self.layout = layout

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which `<bin_i>`, `<code_i>` and `<mask>` are whole tokens.

        White space before such a token, and after the last one of the text, is dropped. For text
        from data files that must not be able to spell such tokens use `encode_text`.

        Args:
          text: any string.

        Returns:
          ids without BOS and EOS.

        Raises:
          ValueError: a code or bin does not exist in the layout.
        """
        if "<" not in text:
            return self.text_tokenizer.encode(text)
        ids: list[int] = []
        position = 0
        for match in _WHOLE_TOKEN.finditer(text):
            if match.start() > position:
                ids.extend(self.text_tokenizer.encode(text[position : match.start()]))
            ids.append(self._whole_token_id(match))
            position = match.end()
        rest = text[position:]
        if rest and not (position and rest.isspace()):
            ids.extend(self.text_tokenizer.encode(rest))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text: `<bin_3>` in it is spelt out like any other text (SPEC 3.1)."""
        return self.text_tokenizer.encode(text)

    def symbol(self, token_id: int) -> str:
        """Name of an id: `<pad>`, a row of the dictionary, `<mask>`, `<code_i>` or `<bin_i>`.

        Raises:
          ValueError: the id is not in 0 .. layout.size - 1.
        """
        layout = self.layout
        token_id = int(token_id)
        if not 0 <= token_id < layout.size:
            raise ValueError(f"id {token_id} is outside of the vocabulary of {layout.size} ids")
        if token_id < NUM_SPECIALS:
            return SPECIAL_SYMBOLS[token_id]
        if token_id < layout.mask_id:
            return self.text_tokenizer.symbols[token_id - NUM_SPECIALS]
        if token_id == layout.mask_id:
            return "<mask>"
        if token_id < layout.bin_start:
            return f"<code_{token_id - layout.code_start}>"
        return f"<bin_{token_id - layout.bin_start}>"

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; pad, bos and eos are dropped, whole tokens written out.

        A space is put in front of each whole token, so `encode(decode(ids))` gives ids back.

        Args:
          ids: int[t] internal ids.

        Returns:
          The text.

        Raises:
          ValueError: an id is outside of the vocabulary.
        """
        ids = [i for i in np.asarray(list(ids), np.int64).tolist() if i > EOS_ID]
        mask_id = self.layout.mask_id
        if UNK_ID not in ids and max(ids, default=0) < mask_id:
            return self.text_tokenizer.decode(ids)
        parts: list[str] = []
        run: list[int] = []
        for token_id in ids:
            if UNK_ID < token_id < mask_id:
                run.append(token_id)
                continue
            if run:
                parts.append(self._run_text(run, parts))
                run = []
            parts.append((" " if parts else "") + self.symbol(token_id))
        if run:
            parts.append(self._run_text(run, parts))
        return "".join(parts)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what decides every id, equal for equal vocabularies wherever they lie."""
        merges = self.text_tokenizer.huggingface_files().get("merges.txt", "")
        algorithm = type(self.text_tokenizer).__name__
        content = [algorithm, dataclasses.astuple(self.layout), self.text_tokenizer.symbols, merges]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def word_starts(self) -> np.ndarray:
        """bool[4 + num_text]: which ids begin a word (SPEC 4.3.8)."""
        return self.text_tokenizer.word_starts()

    def encode_box(self, box: Sequence[float] | np.ndarray) -> list[int]:
        """Four bins of a box (SPEC 4.5).

        Args:
          box: float[4] x0, y0, x1, y1 in pixels of the model input.

        Returns:
          The ids of the four bins.
        """
        box = np.asarray(box, np.float32)
        if box.shape != (4,):
            raise ValueError(f"a box is x0, y0, x1, y1; got an array of shape {box.shape}")
        return (self.layout.coordinates_to_bins(box) + self.layout.bin_start).tolist()

    def decode_box(self, ids: Iterable[int]) -> np.ndarray | None:
        """The first four consecutive bins as a box.

        Args:
          ids: int[t] internal ids, specials allowed in front and behind.

        Returns:
          float32[4] x0, y0, x1, y1 in pixels of the model input, or None without four bins in a
          row.
        """
        ids = np.asarray(list(ids), np.int64)
        place = self._first_box(ids)
        return None if place is None else self._box(ids[place])

    def box_probability(
        self, ids: Iterable[int], log_probabilities: Iterable[float]
    ) -> float | None:
        """How likely the model finds the box of `decode_box`: the product of its four bins.

        To compare with a threshold below which a box counts as not found. It is the probability of
        these very bins, which neighboring boxes share: good boxes may have a few percent.

        Args:
          ids: int[t] internal ids.
          log_probabilities: float[t] of each, `Hypotheses.positional_scores`.

        Returns:
          0 .. 1, or None without four bins in a row.
        """
        place = self._first_box(np.asarray(list(ids), np.int64))
        if place is None:
            return None
        return float(np.exp(np.sum(np.asarray(list(log_probabilities), np.float64)[place])))

    def encode_boxes(self, boxes: np.ndarray, labels: Sequence[str]) -> list[int]:
        """Target of detection: for each object four bins, then its label (SPEC 4.3.6).

        Args:
          boxes: float[n, 4] pixels of the model input.
          labels: n names; a space is put in front of each.

        Returns:
          ids, objects in the order given, nothing between them.

        Raises:
          ValueError: the numbers of boxes and labels differ.
        """
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        if len(boxes) != len(labels):
            raise ValueError(f"{len(boxes)} boxes but {len(labels)} labels")
        ids: list[int] = []
        for box, label in zip(boxes, labels):
            ids.extend(self.encode_box(box))
            ids.extend(self.encode_text(" " + label))
        return ids

    def decode_objects(self, ids: Iterable[int]) -> list[tuple[np.ndarray, str]]:
        """Inverse of `encode_boxes`; objects without four bins are left out.

        Args:
          ids: int[t] internal ids.

        Returns:
          For each object the box, float32[4] pixels of the model input, and the label. Of a run of
          more than four bins the last four count.
        """
        ids = np.asarray(list(ids), np.int64)
        return [
            (self._box(ids[places]), self.text_tokenizer.decode(words).strip())
            for places, words in self._objects(ids)
        ]

    def object_probabilities(
        self, ids: Iterable[int], log_probabilities: Iterable[float]
    ) -> list[float]:
        """How likely the model finds the box of each object of `decode_objects`.

        Args:
          ids: int[t] internal ids.
          log_probabilities: float[t] of each.

        Returns:
          As `box_probability`, one number for each object.
        """
        gains = np.asarray(list(log_probabilities), np.float64)
        found = self._objects(np.asarray(list(ids), np.int64))
        return [float(np.exp(gains[places].sum())) for places, _ in found]

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes the vocabulary files and the layout to a directory for `load_tokenizer`."""
        directory = pathlib.Path(directory)
        self.text_tokenizer.save(directory)
        write_layout(directory, self.layout)

    def huggingface_files(self, max_positions: int) -> dict[str, str]:
        """The files that HuggingFace's tokenizer of OFA opens, with official ids.

        Args:
          max_positions: longest text of the model.

        Returns:
          File name -> content: `vocab.json` and `merges.txt` in English, `vocab.txt` and
          `added_tokens.json` in Chinese, and `tokenizer_config.json`; {} for `TrainedBPE`.
        """
        files = self.text_tokenizer.huggingface_files()
        if not files:
            return {}
        settings: dict[str, object] = {"tokenizer_class": "OFATokenizer"}
        if isinstance(self.text_tokenizer, BertWordpiece):
            # English: `OFATokenizer` itself adds the official codes and bins behind vocab.json.
            added = {self.symbol(i): i for i in range(self.layout.mask_id, self.layout.size)}
            files["added_tokens.json"] = json.dumps(added)
            settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
        unknown = "[UNK]" if "added_tokens.json" in files else "<unk>"
        settings |= {"model_max_length": max_positions, "unk_token": unknown, "pad_token": "<pad>"}
        settings |= dict.fromkeys(("bos_token", "cls_token"), "<s>")
        settings |= dict.fromkeys(("eos_token", "sep_token"), "</s>") | {"mask_token": "<mask>"}
        return {**files, "tokenizer_config.json": json.dumps(settings, indent=1)}

    def _run_text(self, run: list[int], before: list[str]) -> str:
        """Text between whole tokens; vocabularies that trim spaces get one back."""
        text = self.text_tokenizer.decode(run)
        if before and isinstance(self.text_tokenizer, BertWordpiece):
            return " " + text
        return text

    def _first_box(self, ids: np.ndarray) -> slice | None:
        """Where the first four bins in a row of int[t] stand."""
        is_bin = self.layout.is_bin(ids)
        starts = (start for start in range(len(ids) - 3) if is_bin[start : start + 4].all())
        start = next(starts, None)
        return None if start is None else slice(start, start + 4)

    def _objects(self, ids: np.ndarray) -> list[tuple[list[int], list[int]]]:
        """Of each object in int[t] the places of its four bins and the ids of its label."""
        objects: list[tuple[list[int], list[int]]] = []
        bins: list[int] = []
        words: list[int] = []
        is_bin = self.layout.is_bin(ids)
        for place, token_id in enumerate(ids.tolist()):
            if is_bin[place]:
                if words:
                    objects.append((bins, words))
                    bins, words = [], []
                bins.append(place)
            elif UNK_ID < token_id < self.layout.mask_id:
                words.append(token_id)
        return [(bins[-4:], words) for bins, words in [*objects, (bins, words)] if len(bins) >= 4]

    def _box(self, bin_ids: np.ndarray) -> np.ndarray:
        return self.layout.bins_to_coordinates(bin_ids - self.layout.bin_start)

    def _whole_token_id(self, match: re.Match[str]) -> int:
        family, number = match.groups()
        if family is None:
            return self.layout.mask_id
        if family == "bin":
            start, count = self.layout.bin_start, self.layout.num_bins
        else:
            start, count = self.layout.code_start, self.layout.num_codes
        if int(number) >= count:
            raise ValueError(
                f"{match.group().strip()} does not exist: the vocabulary has {count} {family}s"
                + (f", <{family}_0> to <{family}_{count - 1}>" if count else "")
            )
        return start + int(number)


def load_tokenizer(
    directory: str | pathlib.Path, *, layout: VocabLayout | None = None
) -> Tokenizer:
    """Opens a directory of vocabulary files, whatever kind it is.

    Args:
      directory: with a saved `TrainedBPE`, with GPT-2 BPE files (fairseq or HuggingFace
        layout) or with `vocab.txt` of Chinese BERT.
      layout: the layout; by default the one that the directory states (`stated_layout`), else OFA's
        8,192 codes and 1,000 bins.

    Returns:
      The tokenizer.

    Raises:
      FileNotFoundError: no such directory, or it has none of the known sets of files.
      ValueError: the layout does not fit the vocabulary.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory of vocabulary files")

    def has(names: Sequence[str]) -> bool:
        return all((directory / name).is_file() for name in names)

    text_tokenizer: TextTokenizer
    if has([TRAINED_FILE]):
        content = (directory / TRAINED_FILE).read_text(encoding="utf-8")
        text_tokenizer = TrainedBPE.from_json(content)
    elif has(FAIRSEQ_FILES) or has(HUGGINGFACE_FILES):
        text_tokenizer = GPT2BPE(directory)
    elif has([BERT_FILE]):
        text_tokenizer = BertWordpiece(directory)
    else:
        known = (FAIRSEQ_FILES, HUGGINGFACE_FILES, (BERT_FILE,), (TRAINED_FILE,))
        choices = "; or ".join(", ".join(names) for names in known)
        raise FileNotFoundError(f"no vocabulary in {directory}: expected {choices}")
    if layout is None:
        layout = stated_layout(directory, text_tokenizer.num_text)
    return Tokenizer(text_tokenizer, layout)
