"""The normalizer and the two VQA scores."""

import pytest

from ofa_jax.metrics import vqa


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Dog.", "dog"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("yall'dve", "yall'dve"),
        ("y'alld've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("Im here", "im here"),
        ("black-white", "black white"),
        ("black - white", "black white"),
        ("black -white", "black white"),
        ("1,000", "1000"),
        ("1,000 yes/no", "1000 yesno"),
        ("2.5 m.", "2.5 m"),
        (".5", ".5"),
        (" a\nred\tcar ", "red car"),
        ("o'clock?!", "o'clock"),
    ],
)
def test_normalizer(answer, normal):
    assert vqa.normalize_answer(answer) == normal


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0)])
def test_votes_of_ten_annotators(agreeing, score):
    annotations = ["yes"] * agreeing + ["no"] * (10 - agreeing)
    assert vqa.answer_accuracy("yes", annotations) == pytest.approx(score)


def test_raw_comparison_where_annotators_agree():
    # The benchmark normalizes only where the annotators differ.
    assert vqa.answer_accuracy("the dog", ["dog"] * 10) == 0
    assert vqa.answer_accuracy("the dog", ["dog"] * 9 + ["cat"]) == pytest.approx(1.0)


def test_soft_score_takes_answers_as_they_are():
    tables = [{"yes": 1.0, "no": 0.3}, {"two": 0.6}, {"cat": 1.0}]
    assert vqa.soft_score(["no", "2", "Cat"], tables) == pytest.approx(0.1)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="annotator"):
        vqa.answer_accuracy("yes", [])
