"""Clean-up of captions, questions, summaries."""

import json

import pytest

from ofa_jax.text.cleaning import (
    ask,
    caption_prediction,
    caption_target,
    first_words,
    pre_caption,
    pre_chinese,
    pre_question,
)
from ofa_jax.text.gigaword import gigaword_prediction, retokenize
from tests.shared import fixtures_dir


def test_captions_and_questions_equal_the_official_ones():
    cases = json.loads((fixtures_dir() / "bpe_cases.json").read_text())["preprocess"]
    assert len(cases) >= 9
    for case in cases:
        for suffix, limit in (("", None), ("_max5", 5)):
            assert pre_caption(case["text"], limit) == case["pre_caption" + suffix]
            assert pre_question(case["text"], limit) == case["pre_question" + suffix]


def test_only_captions_rename_the_person():
    assert pre_caption("<person> WALKS") == "person walks"
    assert pre_question("<person> WALKS") == "<person> walks"


def test_chinese_is_cut_by_characters():
    assert pre_chinese("  图片 \n 描述了什么内容？ABC ") == "图片 描述了什么内容？abc"
    assert pre_chinese("图片描述了什么", 4) == "图片描述"


def test_question_mark_is_added_once():
    assert ask("is it red") == "is it red?"
    assert ask("is it red?") == "is it red?"


def test_first_words():
    assert first_words("a b c", 2) == "a b"
    assert first_words("a  b", 2) == "a "  # split at single spaces, as the official code does
    assert first_words("a  b", None) == "a  b"


def test_caption_targets_lose_punctuation_and_keep_case():
    assert caption_target("Don't stop, it's a T-shirt!") == "Dont stop its a Tshirt"
    assert caption_target("word " * 40).split() == ["word"] * 20
    assert caption_target("word " * 40, None).split() == ["word"] * 40
    assert caption_prediction(" a man, riding a wave. ") == "a man riding a wave"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('he said " yes " ( twice )', "he said `` yes '' -lrb- twice -rrb-"),
        ("they don ' t and won ' t", "they do n't and wo n't"),
        ("it ' s john ' s , he ' ll", "it 's john 's , he 'll"),
        ("a ' quoted ' word", "a ` quoted ' word"),
        ("well . . . no", "well ... no"),
        ("$ 3 , 000 , 000 or 3 . 03", "$ 3,000,000 or 3.03"),
        ("one , two . three", "one , two . three"),
        ("a - b - c", "a-b-c"),
        ("- a -- b - - c -", "- a -- b -- c -"),
        ("( - a ) - b", "-lrb--a -rrb--b"),
        (". - a", ". - a"),
        ("s & p < 5", "s &amp; p &lt; 5"),
        ("", ""),
    ],
)
def test_gigaword_notation(text, expected):
    assert retokenize(text) == expected


def test_gigaword_prediction():
    assert gigaword_prediction(" The <unk> won 11 - 1 ") == "the  unk won ##-#"
