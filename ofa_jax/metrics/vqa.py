"""Answers against annotators' answers: visual question answering.

Two scores. The official one (vqaEval of the VQA challenge) normalizes the answers and votes
among ten annotators. The one that OFA reports while it trains looks the raw answer up in a table
of confidences. They agree where answers are already in normal form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ofa_jax.metrics.pairing import check_pairs

__all__ = ["answer_accuracy", "normalize_answer", "soft_score"]

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
# The benchmark means to keep the point of "2.5"; its look-behind is misspelt and never fails, so
# that what counts is only whether a digit follows.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the benchmark passes a flag (value 32) where `re.sub` expects a count

# Words whose apostrophes the normalizer restores. Of a word with one apostrophe the spelling
# without it is known; of a word with several, each spelling that lacks exactly one. The
# benchmark's entries for "I'm", "I've" and "I'd've" can never match lower-cased text.
_CONTRACTED = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
something'd something'll that's there'd there're there's they'd they'll they're they've 'twas
wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've
someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've
you'd've
""".split()  # noqa: SIM905


def _spellings() -> dict[str, str]:
    """Misspelt contraction -> the spelling that the benchmark counts."""
    table: dict[str, str] = {
        word[:i] + word[i + 1 :]: word
        for word in _CONTRACTED
        for i, letter in enumerate(word)
        if letter == "'"
    }
    # The benchmark has this one the wrong way round; equality with its scores needs it.
    table["somebody'd"] = "somebodyd"
    return table


_CONTRACTIONS = _spellings()


def normalize_answer(answer: str) -> str:
    """Normal form of an answer: punctuation, case, number words, articles, contractions.

    Rules of the VQA challenge's vqaEval. A punctuation mark is deleted where it touches a blank
    somewhere in the answer, or where the answer has a comma between digits; otherwise it turns
    into a blank. Points not followed by a digit go. Number words up to ten become digits.

    Args:
      answer: any text.

    Returns:
      Lower-case words with single blanks.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    has_digit_comma = _DIGIT_COMMA.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        deleted = has_digit_comma or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if deleted else " ")
    result = _PERIOD.sub("", result, count=_MAX_PERIODS)
    words = [_NUMBERS.get(word, word) for word in result.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def answer_accuracy(answer: str, annotations: Sequence[str]) -> float:
    """Official accuracy of one answer: mean over annotators of min(1, agreeing others / 3).

    With ten annotators, k equal answers give 0, .3, .6, .9, 1, ... for k = 0, 1, 2, 3, 4, ...
    As in the benchmark, nothing is normalized where all annotators wrote the same.

    Args:
      annotations: the annotators' answers, usually 10.

    Returns:
      Share in [0, 1].

    Raises:
      ValueError: where there are no annotations.
    """
    if len(annotations) == 0:
        raise ValueError("a question needs at least one annotator's answer")

    def strip(text: str) -> str:
        return text.replace("\n", " ").replace("\t", " ").strip()

    prediction, truths = strip(answer), [strip(text) for text in annotations]
    if len(set(truths)) > 1:
        prediction, truths = normalize_answer(answer), [normalize_answer(a) for a in annotations]
    equal = [truth == prediction for truth in truths]
    total = sum(equal)
    return sum(min(1.0, (total - e) / 3) for e in equal) / len(truths)


def soft_score(predicted: Sequence[str], confidences: Sequence[Mapping[str, float]]) -> float:
    """OFA's score while training: mean confidence of the raw answer, 0 where it is not listed.

    SPEC 7.3. There is no normalizer: "Yes" and "yes" are two answers.

    Args:
      predicted: n answers.
      confidences: n tables answer -> confidence (min(1, 0.3 times the number of annotators) in
        the official files).

    Returns:
      Mean in [0, 1].

    Raises:
      ValueError: where the lengths differ or are zero.
    """
    n = check_pairs(predicted, confidences, names="predicted answers and confidence tables")
    return sum(float(table.get(p, 0.0)) for p, table in zip(predicted, confidences)) / n
