"""How well sentences of `scenes` are filled in: by gap, and beside a table of all training texts.

What a gap hides is often free ("a green circle and a red <mask>"), so no answer can be exact every
time. The table says how far knowing the texts goes: of all sentences of the training split that
fit the visible words it answers with the most frequent one.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ofa_jax.data.sources.example import Example
from ofa_jax.metrics.text import edit_distance
from ofa_jax.scenes.presets import ScenesConfig, preset
from ofa_jax.scenes.source import sentence
from ofa_jax.scenes.truth import GrammarError, parse

MASK = "<mask>"


@functools.lru_cache(maxsize=4)
def training_texts(config: ScenesConfig, seed: int = 0) -> dict[str, int]:
    """Every sentence for text infilling of the training split, and how often it occurs."""
    texts = (sentence(config, "train", seed, index) for index in range(config.split_size("train")))
    return dict(collections.Counter(texts).most_common())


def _spaced(text: str) -> str:
    """Words and commas, each with one space behind it."""
    for mark in (",", MASK):
        text = text.replace(mark, f" {mark} ")
    return "".join(f"{word} " for word in text.split())


@functools.lru_cache(maxsize=4096)
def _fitting(masked: str) -> re.Pattern[str]:
    """What fits a spaced text; one group for each gap, of no or more words."""
    return re.compile(re.escape(masked).replace(re.escape(f"{MASK} "), r"((?:\S+ )*?)"))


def gaps(masked: str, text: str) -> tuple[str, ...] | None:
    """What a text has in the place of each gap.

    Args:
      masked: a text in which `<mask>` stands for each gap.
      text: the text in full.

    Returns:
      The words of each gap, "" where there are none; where several divisions fit, that with the
      shortest first gaps. None where the text has not the visible words in order.
    """
    found = _fitting(_spaced(masked)).fullmatch(_spaced(text))
    return None if found is None else tuple(group.strip() for group in found.groups())


def likeliest(masked: str, texts: dict[str, int]) -> str:
    """The most frequent text that fits the visible words; the first of all where none does."""
    masked = _spaced(masked)
    visible = {word for word in masked.split() if word != MASK}
    pattern = _fitting(masked)
    for text in texts:
        if all(word in text for word in visible) and pattern.fullmatch(_spaced(text)):
            return text
    return next(iter(texts))


def _is_sentence(text: str) -> bool:
    try:
        parse(text)
    except GrammarError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class FilledSentences:
    """Scores filled sentences of one world; a metric function of `ofa_jax.data.tasks`.

    Attributes:
      preset: name in `presets.PRESETS`.
    """

    preset: str

    def __call__(
        self, targets: Sequence[str], predictions: Sequence[str], examples: Sequence[Example]
    ) -> dict[str, Any]:
        """Scores by example, or over all of them.

        Args:
          targets: the true sentences.
          predictions: the answers.
          examples: with `masked_text`, what the model read; without it, as under seqio's own
            evaluation, gaps are not looked at.

        Returns:
          exact_match float64[n]; gaps_filled: share of all gaps that hold the very words, which
          asks for the visible ones as well; fitting: share of answers that keep the visible words
          and are sentences of the grammar; word_similarity; and table_exact_match and
          table_gaps_filled of the table of training texts.
        """
        truth = [" ".join(target.split()) for target in targets]
        said = [" ".join(prediction.split()) for prediction in predictions]
        similarity = [
            1 - edit_distance(a.split(), b.split()) / max(1, len(a.split()), len(b.split()))
            for a, b in zip(said, truth)
        ]
        found = {
            "exact_match": np.array([a == b for a, b in zip(said, truth)], float),
            "word_similarity": float(np.mean(similarity)),
        }
        if not all("masked_text" in example for example in examples):
            return found
        texts = training_texts(preset(self.preset))
        masked = [str(example["masked_text"]) for example in examples]
        table = [likeliest(one, texts) for one in masked]
        fits = [gaps(m, s) is not None and _is_sentence(s) for m, s in zip(masked, said)]
        return found | {
            "gaps_filled": filled_share(masked, said, truth),
            "fitting": float(np.mean(fits)),
            "table_exact_match": float(np.mean([a == b for a, b in zip(table, truth)])),
            "table_gaps_filled": filled_share(masked, table, truth),
        }


def filled_share(masked: Sequence[str], said: Sequence[str], truth: Sequence[str]) -> float:
    """Of all gaps the share that holds the very words of the truth.

    Returns:
      A number in 0..1; 1 where there are no gaps at all.
    """
    right = total = 0
    for text, guess, wanted in zip(masked, said, truth):
        expected = gaps(text, wanted) or ()
        filled = gaps(text, guess) or ("\0",) * len(expected)
        right += sum(a == b for a, b in zip(filled, expected))
        total += len(expected)
    return right / total if total else 1.0
