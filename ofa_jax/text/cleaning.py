"""Clean-up of captions, questions and answers, before encoding and after decoding.

The rules are those of the official data files and metrics (SPEC 3.3, 7.7); models that were
trained with them lose points without them. Summaries of Gigaword have their own module, `gigaword`.
"""

from __future__ import annotations

import re
import string

__all__ = [
    "ask",
    "caption_prediction",
    "caption_target",
    "first_words",
    "pre_caption",
    "pre_chinese",
    "pre_question",
    "remove_punctuation",
    "without_spaces",
]

_LEADING = ",.!?*#:;~"
_WHITE_SPACE = re.compile(r"\s{2,}")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def first_words(text: str, max_words: int | None, separator: str | None = " ") -> str:
    """The first words of a text.

    Args:
      text: any string.
      max_words: number of words kept; None keeps the text as it is.
      separator: what words are split at; None splits at any white space.

    Returns:
      The words joined by single spaces.
    """
    if max_words is None:
        return text
    words = text.split(separator)
    return text if len(words) <= max_words else " ".join(words[:max_words])


def pre_question(text: str, max_words: int | None = None) -> str:
    """Cleans a question (SPEC 3.3).

    Args:
      max_words: at most this many words are kept.

    Returns:
      Lower case, leading punctuation gone, "-" and "/" turned into spaces, runs of white space into
      one. No question mark is added.
    """
    return first_words(_clean_english(text), max_words)


def pre_caption(text: str, max_words: int | None = None) -> str:
    """Cleans a caption or a phrase: as `pre_question`, and `<person>` becomes "person"."""
    return first_words(_clean_english(text, person=True), max_words)


def pre_chinese(text: str, max_characters: int | None = None) -> str:
    """Cleans Chinese text (SPEC 3.3).

    Args:
      max_characters: at most this many characters are kept.

    Returns:
      Lower case, runs of white space collapsed. Punctuation stays, as in the official code.
    """
    text = _WHITE_SPACE.sub(" ", text.lower()).rstrip("\n").strip(" ")
    return text if max_characters is None else text[:max_characters]


def ask(question: str) -> str:
    """Adds the question mark that fine-tuning on VQA expects, unless it is there (SPEC 8.3)."""
    return question if question.endswith("?") else question + "?"


def remove_punctuation(text: str) -> str:
    """Removes ASCII punctuation, hyphens and apostrophes included; nothing takes its place."""
    return text.translate(_PUNCTUATION)


def caption_target(text: str, max_words: int | None = 20) -> str:
    """Target of COCO captioning: punctuation removed, case kept, first words (SPEC 3.3)."""
    return " ".join(remove_punctuation(text).split()[:max_words])


def caption_prediction(text: str) -> str:
    """A decoded caption as the caption metrics expect it (SPEC 7.7)."""
    return remove_punctuation(text).strip()


def without_spaces(text: str) -> str:
    """Removes white space: Chinese captions and read text are compared so (SPEC 7.7)."""
    return "".join(text.split())


def _clean_english(text: str, *, person: bool = False) -> str:
    text = text.lower().lstrip(_LEADING).replace("-", " ").replace("/", " ")
    if person:
        text = text.replace("<person>", "person")
    return _WHITE_SPACE.sub(" ", text).rstrip("\n").strip(" ")
