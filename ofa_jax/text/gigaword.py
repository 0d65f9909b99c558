"""Decoded summaries in the notation of the Gigaword corpus, before ROUGE (SPEC 7.8).

The corpus keeps a tokenizer's notation: brackets as -lrb-, quotes as `` and '', contractions apart.
Models see and write words with split punctuation, so predictions are put back first.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable

_SYMBOLS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "[UNK]": "UNK",
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
}


def gigaword_prediction(text: str) -> str:
    """A decoded summary in the notation of the references.

    Args:
      text: the decoded summary.

    Returns:
      Lower case, retokenized, `<unk>` written " unk", and every digit one written "#".
    """
    return retokenize(text.lower().strip()).replace("<unk>", " unk").replace("1", "#")


def retokenize(text: str) -> str:
    """Restores the corpus' notation of brackets, quotes, contractions, ellipses, numbers, dashes.

    Initials ("u . n .") are not put together: the official rule asks for capitals, which a
    lower-cased prediction does not have.

    Args:
      text: words separated by white space, lower case.

    Returns:
      The words after all joins, separated by single spaces.
    """
    reader = _Reader()
    words = text.split()
    while words:
        reader.after_dash, reader.dash_opened = reader.dash_opened, False
        used = next(used for rule in _RULES if (used := rule(reader, words)))
        words = words[used:]
    return " ".join(reader.output)


@dataclasses.dataclass
class _Reader:
    """What has been read so far.

    Attributes:
      output: finished words.
      double_open: an opening double quote waits for its partner.
      single_open: likewise for single quotes.
      dash_opened: the rule just applied has left a word with a dash at its end.
      after_dash: the same of the rule before.
    """

    output: list[str] = dataclasses.field(default_factory=list)
    double_open: bool = False
    single_open: bool = False
    dash_opened: bool = False
    after_dash: bool = False

    @property
    def last(self) -> str:
        return self.output[-1] if self.output else ""

    def extend_last(self, text: str) -> None:
        self.output[-1] += text


def _symbol(reader: _Reader, words: list[str]) -> int:
    if words[0] not in _SYMBOLS:
        return 0
    reader.output.append(_SYMBOLS[words[0]])
    return 1


def _double_quote(reader: _Reader, words: list[str]) -> int:
    if words[0] != '"':
        return 0
    reader.output.append("''" if reader.double_open else "``")
    reader.double_open = not reader.double_open
    return 1


def _contraction(reader: _Reader, words: list[str]) -> int:
    if words[0] != "'" or len(words) < 2:
        return 0
    if words[1] == "t" and reader.last.endswith("n"):
        reader.output[-1:] = [reader.last[:-1], "n't"]
        return 2
    if words[1] in ("s", "d", "ll"):
        reader.output.append("'" + words[1])
        return 2
    return 0


def _single_quote(reader: _Reader, words: list[str]) -> int:
    if words[0] != "'":
        return 0
    reader.output.append("'" if reader.single_open else "`")
    reader.single_open = not reader.single_open
    return 1


def _ellipsis(reader: _Reader, words: list[str]) -> int:
    if words[:3] != [".", ".", "."]:
        return 0
    reader.output.append("...")
    return 3


def _number(reader: _Reader, words: list[str]) -> int:
    if len(words) < 2 or not reader.output:
        return 0
    both = (reader.last, words[1])
    thousands = words[0] == "," and all(part.replace(",", "0").isdigit() for part in both)
    decimals = words[0] == "." and all(part.isdigit() for part in both)
    if not (thousands or decimals):
        return 0
    reader.extend_last(words[0] + words[1])
    return 2


def _dash(reader: _Reader, words: list[str]) -> int:
    if words[0] != "-":
        return 0
    if words[1:2] == ["-"]:
        reader.output.append("--")
        return 2
    between_words = len(words) > 1 and bool(reader.output)
    if (
        between_words
        and reader.last not in string.punctuation
        and words[1][0] not in string.punctuation
    ):
        reader.extend_last("-")
        reader.dash_opened = True
    else:
        reader.output.append("-")
    return 1


def _word(reader: _Reader, words: list[str]) -> int:
    if reader.after_dash and words[0][0] not in string.punctuation:
        reader.extend_last(words[0])
    else:
        reader.output.append(words[0])
    return 1


# Tried in this order; each returns how many words it used, 0 if it does not apply.
_RULES: tuple[Callable[[_Reader, list[str]], int], ...] = (
    _symbol,
    _double_quote,
    _contraction,
    _single_quote,
    _ellipsis,
    _number,
    _dash,
    _word,
)
