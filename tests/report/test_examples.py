"""Kinds of tasks, verdicts, and the choice of examples."""

import pytest

from ofa_jax.report.collect import collect
from ofa_jax.report.examples import Judgement, Kind, Verdict, choose, judge, judge_all, task_kind


def test_kinds_are_read_from_the_fields(run_dir):
    record = collect(run_dir)
    kinds = {name: task_kind(name, rows) for name, rows in record.predictions.items()}
    assert kinds == {
        "scenes_visual_grounding": Kind.GROUNDING,
        "scenes_grounded_captioning": Kind.REGION,
        "scenes_vqa": Kind.ANSWER,
        "scenes_image_text_matching": Kind.ANSWER,
        "scenes_captioning": Kind.CAPTIONING,
        "scenes_detection": Kind.DETECTION,
        "scenes_image_infilling": Kind.IMAGE_INFILLING,
        "scenes_text_infilling": Kind.TEXT_INFILLING,
        "scenes_grounded_vqa": Kind.REGION,
        "scenes_caption_coco": Kind.CAPTIONING,
    }


def test_grounding_without_any_box_is_still_grounding():
    rows = [{"predicted_box": None, "true_box": [0, 0, 1, 1]}]
    assert task_kind("refcoco", rows) is Kind.GROUNDING
    assert judge(Kind.GROUNDING, rows[0], binary=True).word == "No box"


def test_region_tasks_never_name_a_predicted_box():
    assert task_kind("colours", [{"true_box": [0, 0, 1, 1]}]) is Kind.REGION
    filled_in = [{"true_box": [0, 0, 1, 1], "predicted_box": None}]
    assert task_kind("grounded_vqa", filled_in) is Kind.REGION


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0, Verdict.RIGHT), (3, Verdict.RIGHT), (4, Verdict.WRONG)]
)
def test_boxes_are_judged_by_iou(shift, verdict):
    # Shifting by 3 of 10 pixels gives 7/13, by 4 gives 6/14.
    row = {"predicted_box": [shift, 0, 10 + shift, 10], "true_box": [0, 0, 10, 10]}
    assert judge(Kind.GROUNDING, row, binary=True).verdict is verdict


def test_detection_counts_found_and_extra_objects():
    true = [{"box": [0, 0, 9, 9], "label": "cat"}, {"box": [20, 0, 29, 9], "label": "dog"}]
    extra = {"box": [40, 0, 49, 9], "label": "cow"}
    row = {"predicted_objects": [true[0], extra], "true_objects": true}
    found = judge(Kind.DETECTION, row, binary=False)
    assert (found.verdict, found.measure) == (Verdict.PARTLY, "1/2 found · 1 extra")
    both = judge(Kind.DETECTION, {**row, "predicted_objects": true}, binary=False)
    assert both.verdict is Verdict.RIGHT
    none = judge(Kind.DETECTION, {**row, "predicted_objects": []}, binary=False)
    assert none.verdict is Verdict.WRONG


def test_captions_get_a_verdict_only_from_a_verdict():
    graded = judge_all(Kind.CAPTIONING, [{"score": 1.0}, {"score": 0.0}])
    assert [j.verdict for j in graded] == [Verdict.RIGHT, Verdict.WRONG]
    measured = judge_all(Kind.CAPTIONING, [{"score": 1.0}, {"score": 0.4}])
    assert [j.verdict for j in measured] == [Verdict.NONE, Verdict.NONE]
    explicit = judge_all(Kind.CAPTIONING, [{"score": 1.3, "correct": False}])
    assert explicit[0].word == "False of the image"


def test_soft_answers_are_partly_right():
    judgements = judge_all(Kind.ANSWER, [{"score": s} for s in (1.0, 0.3, 0.0, None)])
    expected = [Verdict.RIGHT, Verdict.PARTLY, Verdict.WRONG, Verdict.NONE]
    assert [j.verdict for j in judgements] == expected


def _judgements(text):
    verdicts = {"r": Verdict.RIGHT, "w": Verdict.WRONG, "n": Verdict.NONE}
    return [Judgement(verdicts[c], "", "", float(i)) for i, c in enumerate(text)]


def test_choice_mixes_right_and_wrong():
    rows = [{"image": "x.png"}] * 8
    assert choose(rows, _judgements("rrrrrrww"), 4) == [0, 6, 1, 7]
    assert choose(rows, _judgements("rrrrrrrw"), 4) == [0, 7, 1, 2]
    assert choose(rows, _judgements("wwwwwwww"), 3) == [0, 1, 2]
    assert choose(rows[:2], _judgements("rw"), 24) == [0, 1]


def test_choice_prefers_rows_with_pictures():
    rows = [{"image": None}, {"image": "x.png"}, {"image": None}]
    assert choose(rows, _judgements("rrr"), 2) == [1]


def test_choice_without_verdicts_goes_from_best_to_worst():
    rows = [{"image": "x.png"}] * 9
    assert choose(rows, _judgements("n" * 9), 3) == [8, 4, 0]
