"""Scorers on predictions made by hand, with scores and baselines worked out by hand."""

import numpy as np
import pytest

from ofa_jax.evaluation import scoring
from ofa_jax.evaluation.scorers import SCORERS
from ofa_jax.metrics.verdict import Verdict
from ofa_jax.scenes.source import ScenesSource

SQUARE = [0.0, 0.0, 10.0, 10.0]
RIGHT_HALF = [5.0, 0.0, 10.0, 10.0]
ELSEWHERE = [20.0, 20.0, 30.0, 30.0]


def test_result_entry_is_the_row_of_metrics_json():
    verdicts = [Verdict.RIGHT, Verdict.WRONG]
    metrics = {"accuracy": 0.5, "other": 1.0}
    result = scoring.Result("accuracy", metrics, 0.25, [1.0, 0.0], verdicts)
    assert result.judgement(1) == {"score": 0.0, "verdict": "wrong"}
    with pytest.raises(ValueError, match=r"1 verdicts .*2"):
        scoring.Result("accuracy", metrics, 0.25, [1.0, 0.0], verdicts[:1])
    assert result.entry() == {
        "accuracy": 0.5,
        "other": 1.0,
        "primary": "accuracy",
        "baseline": 0.25,
        "n": 2,
    }


def test_region():
    examples = [{"region": np.array(box)} for box in (SQUARE, SQUARE, ELSEWHERE, RIGHT_HALF)]
    # IoU 1, 1/2, 0; no box.
    result = SCORERS["region"]([SQUARE, RIGHT_HALF, SQUARE, None], examples)
    assert result.primary == "accuracy_at_0.5"
    np.testing.assert_allclose(result.scores, [1.0, 0.5, 0.0, 0.0], atol=1e-6)
    assert result.metrics["mean_iou"] == pytest.approx(1.5 / 4, abs=1e-6)
    assert result.metrics["valid_boxes"] == 0.75
    # 50 / (100 + 1e-6) is just below the threshold.
    assert result.metrics["accuracy_at_0.5"] == 0.25
    assert result.verdicts == ["right", "wrong", "wrong", "wrong"]
    # The best constant is SQUARE: it is right twice.
    assert result.baseline == 0.5


def test_answer():
    examples = [{"answer": word} for word in ("yes", "yes", "no", "two dogs")]
    result = SCORERS["answer"](["yes", "no", "no", "two dogs "], examples)
    assert result.metrics == {"accuracy": 0.5}
    assert result.scores == [1.0, 0.0, 1.0, 0.0]
    assert result.verdicts == ["right", "wrong", "right", "wrong"]
    assert result.baseline == 0.5


def test_answer_by_kind():
    examples = [
        {"answer": "red", "question_kind": "color"},
        {"answer": "red", "question_kind": "color"},
        {"answer": "blue", "question_kind": "color"},
        {"answer": "2", "question_kind": "count"},
    ]
    result = SCORERS["answer_by_kind"](["red", "blue", "blue", "1"], examples)
    assert result.metrics["accuracy"] == 0.5
    assert result.metrics["accuracy_color"] == pytest.approx(2 / 3)
    assert result.metrics["accuracy_count"] == 0.0
    # Two of three colours, and the only count.
    assert result.baseline == 0.75


def test_region_answer():
    examples = [
        {"answer": "red", "candidates": ["red", "blue"], "needs_region": True},
        {"answer": "2", "candidates": ["1", "2", "3", "4"], "needs_region": False},
    ]
    result = SCORERS["region_answer"](["blue", "2"], examples)
    assert result.metrics == {
        "accuracy": 0.5,
        "possible_answers": 1.0,
        "accuracy_needs_region": 0.0,
    }
    assert result.baseline == pytest.approx((1 / 2 + 1 / 4) / 2)
    nonsense = SCORERS["region_answer"](["", "dog"], examples)
    assert nonsense.metrics["possible_answers"] == 0.0


def test_region_answers_of_scenes_have_baselines_where_the_region_matters():
    both = {"objects": [{"color": "red", "shape": "circle"}, {"color": "blue", "shape": "circle"}]}
    colors, shapes = ("red", "blue", "green"), ("circle", "cross")
    examples = [
        {"answer": "red", "question_kind": "color", "candidates": colors, "needs_region": True},
        {"answer": "blue", "question_kind": "color", "candidates": colors, "needs_region": True},
        {"answer": "circle", "question_kind": "shape", "candidates": shapes, "needs_region": False},
    ]
    examples = [example | {"scene": both} for example in examples]
    result = SCORERS["region_answer"](["red", "red", "circle"], examples)
    assert result.metrics == pytest.approx(
        {
            "accuracy": 2 / 3,
            "accuracy_color": 0.5,
            "accuracy_shape": 1.0,
            "possible_answers": 1.0,
            "any_object": 2 / 3,
            "most_frequent_answer": 2 / 3,
            "accuracy_needs_region": 0.5,
            "any_object_needs_region": 0.5,
        }
    )
    assert result.baseline == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 3)


def test_description():
    examples = [
        {"caption": "a red circle"},
        {"caption": "a blue star"},
        {"caption": "a red circle"},
    ]
    result = SCORERS["description"](["a red circle", "a red circle", "a circle"], examples)
    assert result.metrics == {"exact_match": pytest.approx(1 / 3)}
    assert result.scores == [1.0, 0.0, 0.0]
    assert result.baseline == pytest.approx(2 / 3)


def test_true_caption():
    examples = [ScenesSource("tiny", "validation")[index] for index in range(8)]
    captions = [example["captions"][-1] for example in examples]
    captions[0] = examples[0]["negatives"][0]
    captions[1] = "colourless green ideas"
    captions[2] = ""
    result = SCORERS["true_caption"](captions, examples)
    assert result.primary == "true"
    assert result.scores == [0.0] * 3 + [1.0] * 5
    assert result.verdicts == ["wrong"] * 3 + ["right"] * 5
    assert result.metrics["true"] == 5 / 8
    assert result.metrics["distinct"] == len(set(captions)) / 8
    assert 0 < result.baseline < 1
    same = SCORERS["true_caption"](["a circle"] * 8, examples)
    assert same.metrics["distinct"] == 1 / 8


def test_reference_caption():
    examples = [
        {"captions": ["a dog on the grass", "a brown dog on grass"]},
        {"captions": ["two birds over the sea", "birds flying over the sea"]},
        {"caption": "a cup of coffee on a table"},
    ]
    perfect = [(example.get("captions") or [example["caption"]])[0] for example in examples]
    best = SCORERS["reference_caption"](perfect, examples)
    assert best.primary == "cider_d"
    assert best.metrics["bleu_4"] == pytest.approx(1.0)
    assert best.metrics["rouge_l"] == pytest.approx(1.0)
    assert best.metrics["cider_d"] == pytest.approx(np.mean(best.scores))
    shuffled = SCORERS["reference_caption"](perfect[1:] + perfect[:1], examples)
    assert shuffled.metrics["cider_d"] < 0.1 * best.metrics["cider_d"]
    assert set(best.verdicts + shuffled.verdicts) == {Verdict.NONE}
    # The baseline says "a dog on the grass" three times; it is right once.
    assert best.baseline == pytest.approx(best.scores[0] / 3, rel=0.2)


def test_objects():
    def example(boxes, labels):
        return {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "labels": labels}

    examples = [
        example([SQUARE, ELSEWHERE], ["dog", "cat"]),
        example([SQUARE], ["dog"]),
        example([], []),
    ]
    predictions = [
        [(SQUARE, "dog"), (ELSEWHERE, "dog")],  # one right, one with a wrong label
        [(SQUARE, "dog"), (SQUARE, "dog")],  # one right, one too many
        [],
    ]
    result = SCORERS["objects"](predictions, examples)
    assert result.primary == "recall_at_0.5"
    assert result.metrics == {
        "recall_at_0.5": pytest.approx(2 / 3),
        "precision_at_0.5": 0.5,
        "f1_at_0.5": pytest.approx(4 / 7),
    }
    assert result.scores == [0.5, pytest.approx(2 / 3), 1.0]
    assert result.verdicts == ["partly", "partly", "right"]
    assert result.judgement(0) == {"score": 0.5, "verdict": "partly", "found": [0]}
    [missed] = SCORERS["objects"]([[(ELSEWHERE, "dog")]], examples[1:2]).verdicts
    assert missed is Verdict.WRONG
    # "dog" in SQUARE, everywhere.
    assert result.baseline == pytest.approx(2 / 3)
    nothing = SCORERS["objects"]([[], []], [example([], [])] * 2)
    assert nothing.baseline == 0.0
    assert nothing.scores == [1.0, 1.0]


def test_codes():
    examples = [{"image_codes": np.array([1, 2, 3, 4])}, {"image_codes": np.array([1, 2, 0, 0])}]
    result = SCORERS["codes"]([np.array([1, 2, 3, 4]), np.array([1, 0])], examples)
    assert result.primary == "code_accuracy"
    assert result.metrics == {"code_accuracy": 5 / 8, "all_codes_equal": 0.5}
    assert result.scores == [1.0, 0.25]
    assert result.verdicts == [Verdict.NONE] * 2
    assert result.baseline == (1 + 1 + 0.5 + 0.5) / 4
    longer = SCORERS["codes"]([np.array([1, 2, 3, 4, 9, 9]), np.array([-1, 2, 0, 0])], examples)
    assert longer.scores == [1.0, 0.75]
    assert scoring.fit_codes(np.array([5]), 3).tolist() == [5, -1, -1]


def test_filled_text():
    examples = [{"text": " a dog on grass "}, {"text": "a cat"}, {"text": "a cat"}]
    result = SCORERS["filled_text"](["a dog on grass", "a dog", ""], examples)
    assert result.primary == "exact_match"
    assert result.verdicts == ["right", "wrong", "wrong"]
    assert result.metrics == {
        "exact_match": pytest.approx(1 / 3),
        "word_similarity": pytest.approx((1 + 0.5 + 0) / 3),
    }
    assert result.baseline == pytest.approx(2 / 3)
