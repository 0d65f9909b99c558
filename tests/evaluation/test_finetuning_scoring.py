"""Scores of the fine-tuning tasks on answers that are right, wrong, and a mixture."""

import importlib.util
import math
import shutil

import numpy as np
import pytest

from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.evaluation import finetuning_scoring as scoring
from ofa_jax.evaluation import scorers
from ofa_jax.evaluation.scorers import SCORERS


def task_of(scorer):
    """A task that the scorer can belong to."""
    return OFATask("t", "t", (Instruction.parse(" a -> [TEXT:answer]"),), None, None, scorer=scorer)


CAPTIONS = [
    {"captions": ["A man riding a wave.", "a surfer on a big wave"]},
    {"captions": ["two dogs in the grass", "dogs playing outside"]},
    {"captions": ["a plate of food on the table"]},
]


def test_captions_are_compared_without_punctuation():
    right = [example["captions"][0].replace(".", "!") for example in CAPTIONS]
    result = scoring.coco_caption(right, CAPTIONS)
    assert result.primary == "cider_d"
    assert result.metrics["bleu_4"] > 0.99
    assert result.metrics["rouge_l"] > 0.99
    wrong = scoring.coco_caption(["it is blue"] * 3, CAPTIONS)
    assert wrong.metrics["cider_d"] < 0.1 < result.metrics["cider_d"]
    assert len(result.scores) == 3
    assert wrong.verdicts == ["", "", ""], "a caption of score 0 is not called wrong"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None or shutil.which("java") is None,
    reason="needs pycocoevalcap (extra 'eval') and Java",
)
def test_captions_are_scored_by_the_server_s_programs():
    right = [example["captions"][0] + " ." for example in CAPTIONS]
    result = SCORERS["server_caption"](right, CAPTIONS)
    assert result.primary == "cider_d"
    assert result.metrics["cider_d"] == pytest.approx(np.mean(result.scores))
    assert set(result.metrics) == {
        *(f"bleu_{n}" for n in range(1, 5)),
        "meteor",
        "rouge_l",
        "cider_d",
    }
    assert result.metrics["bleu_4"] > 0.99
    assert result.metrics["meteor"] > 0.9
    wrong = SCORERS["server_caption"](["it is blue", "", "a"], CAPTIONS)
    assert wrong.metrics["meteor"] < 0.2


def test_a_missing_java_is_named_before_anything_is_predicted(monkeypatch):
    pytest.importorskip("pycocoevalcap", reason="needs the extra 'eval'")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for scorer in ("server_caption", "server_caption_with_spice"):
        with pytest.raises(ValueError, match=r"caption server .*Java"):
            scorers.check(task_of(scorer))


def test_chinese_captions_are_compared_by_character():
    examples = [{"captions": ["红色的方块", "一个红方块"]}, {"captions": ["蓝色的圆形物体"]}]
    result = scoring.chinese_caption(["红色 的方块", "蓝色的圆形物体"], examples)
    assert result.metrics["bleu_4"] > 0.99
    assert scoring.chinese_caption(["绿", "绿"], examples).metrics["cider_d"] == 0.0


def test_answers_by_confidence():
    examples = [
        {"answers": ["two", "3"], "answer_conf": [1.0, 0.3]},
        {"answers": ["yes"], "answer_conf": [0.9]},
        {"answers": ["the red", "red"], "answer_conf": [0.6, 0.6]},
    ]
    result = scoring.vqa_answer(["3", "yes", "red"], examples)
    assert result.scores == [0.3, 0.9, 0.6]
    judged = scoring.vqa_answer(["two", "no", "red"], examples).verdicts
    assert judged == ["right", "wrong", "partly"]
    assert result.metrics["vqa_score"] == pytest.approx(0.6)
    # "the red" and "red" are one answer in normal form, worth at most 1.
    assert result.metrics["vqa_score_normalized"] == pytest.approx((0.3 + 0.9 + 1.0) / 3)
    assert scoring.vqa_answer(["2", "no", "a"], examples).metrics["vqa_score_normalized"] > 0.3
    assert result.baseline == pytest.approx(1.0 / 3)


def test_correlation_and_f1():
    examples = [{"answer": word} for word in ("yes", "yes", "no", "no", "yes")]
    guesses = ["yes", "no", "no", "no", "yes"]
    result = scoring.correlated_answer(guesses, examples)
    # TP 2, TN 2, FP 0, FN 1
    assert result.metrics["matthews_correlation"] == pytest.approx(4 / math.sqrt(2 * 3 * 2 * 3))
    assert result.primary == "matthews_correlation"
    other = scoring.yes_or_no(guesses, examples)
    assert other.metrics == {"accuracy": 0.8, "f1": pytest.approx(4 / 5)}
    assert other.primary == "accuracy"


@pytest.mark.skipif(
    importlib.util.find_spec("rouge_score") is None, reason="needs the extra 'eval'"
)
def test_summaries():
    examples = [{"reference": "stocks rise on hopes", "text": "the stocks of asia rise today on"}]
    result = scoring.summary(["stocks rise on hopes"], examples)
    assert result.metrics == {"rouge_1": 1.0, "rouge_2": 1.0, "rouge_l": 1.0}
    assert 0 < result.baseline < 1


def test_written_text_ignores_spaces():
    examples = [{"text": "出 口"}, {"text": "入口处"}]
    result = scoring.written_text(["出口", "入口"], examples)
    assert result.metrics["exact_match"] == 0.5
    assert result.verdicts == ["right", "partly"]
    assert result.metrics["edit_similarity"] == pytest.approx((1 + 2 / 3) / 2)


def test_generated_codes():
    examples = [{"image_codes": [1, 2, 3, 4]}, {"image_codes": [5, 5, 5, 5]}]
    result = scoring.generated_codes([np.array([1, 2, 0, 4]), np.array([5, 5])], examples)
    assert result.verdicts == ["", ""]
    assert result.scores == [0.75, 0.5]
    assert result.metrics["complete_pictures"] == 0.5


@pytest.mark.parametrize(
    ("scorer", "with_truth", "without"),
    [
        ("coco_caption", {"captions": ["a"]}, {"captions": []}),
        ("vqa_answer", {"answers": ["a"]}, {}),
        ("answer", {"answer": "yes"}, {"answer": ""}),
        ("region", {"region": [0, 0, 4, 4]}, {"region": [0, 0, 0, 0]}),
        ("generated_codes", {"image_codes": np.arange(3)}, {"image_codes": np.zeros(0)}),
        ("summary", {"reference": "a"}, {"reference": ""}),
    ],
)
def test_what_can_be_scored(scorer, with_truth, without):
    assert scorers.has_truth(task_of(scorer), with_truth)
    assert not scorers.has_truth(task_of(scorer), without)
