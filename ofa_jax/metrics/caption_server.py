"""The caption server's scores that are Java programs: PTB tokenizer, METEOR, SPICE.

Through the package pycocoevalcap. The published captioning tables (SPEC 8.1) are computed on
PTB-tokenized text; CIDEr-D, BLEU and ROUGE-L themselves are in `caption`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_jax.metrics.caption import bleu, cider_d, rouge_l
from ofa_jax.metrics.dependency import require_java, require_package
from ofa_jax.metrics.pairing import check_pairs


def ptb_tokenize(texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Tokenizes captions as the server does: lower case, Penn Treebank words, no punctuation.

    Args:
      texts: groups of captions.

    Returns:
      The same groups, words separated by single spaces.

    Raises:
      MissingDependencyError: without pycocoevalcap or Java.
    """
    module = _server("pycocoevalcap.tokenizer.ptbtokenizer", "the PTB tokenizer")
    # The tokenizer works on lines and would lose the place of an empty one.
    table = {
        number: [{"caption": " ".join(text.split()) or "."} for text in group]
        for number, group in enumerate(texts)
    }
    found = module.PTBTokenizer().tokenize(table)
    return [list(found[number]) for number in range(len(texts))]


def meteor(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of tokenized captions, in [0, 1].

    Args:
      predicted: n captions.
      references: n lists of captions.

    Raises:
      ValueError: where the lengths differ or are zero.
      MissingDependencyError: without pycocoevalcap or Java.
    """
    module = _server("pycocoevalcap.meteor.meteor", "METEOR")
    truth, guesses = _tables(predicted, references)
    return float(module.Meteor().compute_score(truth, guesses)[0])


def spice(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """SPICE of captions, in [0, 1]. Downloads its parser on first use.

    Args:
      predicted: n captions.
      references: n lists of captions.

    Raises:
      ValueError: where the lengths differ or are zero.
      MissingDependencyError: without pycocoevalcap or Java.
    """
    module = _server("pycocoevalcap.spice.spice", "SPICE")
    truth, guesses = _tables(predicted, references)
    return float(module.Spice().compute_score(truth, guesses)[0])


def server_scores(
    predicted: Sequence[str], references: Sequence[Sequence[str]], *, with_spice: bool = False
) -> dict[str, float]:
    """All scores of the caption server, on PTB-tokenized text.

    Args:
      predicted: n captions.
      references: n lists of captions.
      with_spice: SPICE needs a download and minutes.

    Returns:
      "bleu_1" to "bleu_4", "meteor", "rouge_l", "cider", and with it "spice"; "cider" is CIDEr-D
      in 0 .. 10, the others shares. Published tables show them times 100.

    Raises:
      ValueError: where the lengths differ or are zero.
      MissingDependencyError: without pycocoevalcap or Java.
    """
    guesses, truth = tokenized_pairs(predicted, references)
    scores = {f"bleu_{n}": value for n, value in enumerate(bleu(guesses, truth), start=1)}
    scores["meteor"] = meteor(guesses, truth)
    scores["rouge_l"] = rouge_l(guesses, truth)
    scores["cider"] = float(np.mean(cider_d(guesses, truth)))
    if with_spice:
        scores["spice"] = spice(guesses, truth)
    return scores


def tokenized_pairs(
    predicted: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Both sides as `ptb_tokenize` makes them.

    Raises:
      ValueError: where the lengths differ or are zero.
      MissingDependencyError: without pycocoevalcap or Java.
    """
    check_pairs(predicted, references, names="predicted captions and reference lists")
    guesses = ptb_tokenize([[text] for text in predicted])
    return [group[0] for group in guesses], ptb_tokenize(references)


def check_installed() -> None:
    """Fails early where the server's programs cannot run.

    Raises:
      MissingDependencyError: without pycocoevalcap or Java.
    """
    _server("pycocoevalcap.tokenizer.ptbtokenizer", "the caption server")


def _server(name: str, score: str):
    module = require_package(name, score=score)
    require_java(score=score)
    return module


def _tables(predicted: Sequence[str], references: Sequence[Sequence[str]]):
    check_pairs(predicted, references, names="predicted captions and reference lists")
    truth = {number: list(group) for number, group in enumerate(references)}
    return truth, {number: [text] for number, text in enumerate(predicted)}
