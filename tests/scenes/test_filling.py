"""Filled sentences: gap by gap, and beside the table of training texts."""

import dataclasses

import numpy as np
import pytest

from ofa_jax.scenes import filling
from ofa_jax.scenes.presets import SPLITS, preset
from ofa_jax.scenes.source import ScenesSource

TEXTS = {"a red circle": 5, "a red square": 3, "a red circle and a blue square": 2}


@pytest.mark.parametrize(
    ("masked", "text", "expected"),
    [
        ("a <mask> circle", "a red circle", ("red",)),
        ("a red <mask>", "a red circle and a blue square", ("circle and a blue square",)),
        ("<mask> a red <mask>", "a red circle", ("", "circle")),
        ("a red <mask>circle", "a red circle", ("",)),
        ("a <mask>, a cross and a star", "a red circle, a cross and a star", ("red circle",)),
        ("a red circle", "a red circle", ()),
        ("a red <mask>", "a blue circle", None),
        ("the circle is <mask> the square", "the circle is red", None),
        ("a red <mask>", "a redcircle", None),
    ],
)
def test_gaps(masked, text, expected):
    assert filling.gaps(masked, text) == expected


def test_the_table_takes_the_most_frequent_text_that_fits():
    assert filling.likeliest("a red <mask>", TEXTS) == "a red circle"
    assert filling.likeliest("a <mask> square", TEXTS) == "a red square"
    assert filling.likeliest("a <mask> blue square", TEXTS) == "a red circle and a blue square"
    assert filling.likeliest("a purple <mask>", TEXTS) == "a red circle"


def test_gaps_count_one_by_one():
    masked = ["a <mask> circle and a <mask> square", "a <mask> cross"]
    truth = ["a red circle and a blue square", "a green cross"]
    said = ["a red circle and a green square", "the green cross"]
    assert filling.filled_share(masked, said, truth) == pytest.approx(1 / 3)
    assert filling.filled_share(masked, truth, truth) == 1


def test_scores(monkeypatch):
    monkeypatch.setattr(filling, "training_texts", lambda config: TEXTS)
    examples = [{"masked_text": "a red <mask>"}, {"masked_text": "a <mask> square"}]
    truth = ["a red circle", "a blue square"]
    said = ["a red circle", "a blue red square"]
    scores = filling.FilledSentences("tiny")(truth, said, examples)
    np.testing.assert_array_equal(scores["exact_match"], [1, 0])
    assert scores["gaps_filled"] == 0.5
    assert scores["fitting"] == 0.5, "two colors are no noun"
    assert scores["table_exact_match"] == 0.5
    without = filling.FilledSentences("tiny")(truth, said, [{}, {}])
    assert set(without) == {"exact_match", "word_similarity"}
    assert scores["word_similarity"] == pytest.approx((1 + 0.75) / 2)


def test_texts_are_those_of_the_source():
    sizes = tuple((split, 60) for split in SPLITS)
    source = ScenesSource(dataclasses.replace(preset("tiny"), split_sizes=sizes), "train")
    texts = filling.training_texts(source.config)
    assert sum(texts.values()) == len(source)
    assert all(source[index]["text"] in texts for index in (0, 17, len(source) - 1))
    counts = list(texts.values())
    assert counts == sorted(counts, reverse=True)
