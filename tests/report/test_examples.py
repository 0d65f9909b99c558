"""Families of tasks, verdicts as the page says them, and the choice of examples."""

import pytest

from ofa_jax.metrics.verdict import Verdict
from ofa_jax.report.collect import collect
from ofa_jax.report.examples import Family, Judgement, choose, choose_rows, judge, task_family


def test_kinds_are_read_from_the_fields(run_dir):
    record = collect(run_dir)
    kinds = {name: task_family(name, rows) for name, rows in record.predictions.items()}
    assert kinds == {
        "scenes_visual_grounding": Family.GROUNDING,
        "scenes_grounded_captioning": Family.REGION,
        "scenes_vqa": Family.ANSWER,
        "scenes_image_text_matching": Family.ANSWER,
        "scenes_captioning": Family.CAPTIONING,
        "scenes_detection": Family.DETECTION,
        "scenes_image_infilling": Family.IMAGE_INFILLING,
        "scenes_text_infilling": Family.TEXT_INFILLING,
        "scenes_grounded_vqa": Family.REGION,
        "scenes_caption_coco": Family.CAPTIONING,
    }


def test_grounding_without_any_box_is_still_grounding():
    rows = [{"predicted_box": None, "true_box": [0, 0, 1, 1]}]
    assert task_family("refcoco", rows) is Family.GROUNDING


def test_region_tasks_never_name_a_predicted_box():
    assert task_family("colours", [{"true_box": [0, 0, 1, 1]}]) is Family.REGION
    filled_in = [{"true_box": [0, 0, 1, 1], "predicted_box": None}]
    assert task_family("grounded_vqa", filled_in) is Family.REGION


def test_the_report_reads_verdicts_and_decides_none():
    """Rows whose boxes, texts and scores say otherwise: what the scorer decided counts."""
    far = {"predicted_box": [50, 0, 60, 10], "true_box": [0, 0, 10, 10], "score": 0.0}
    assert judge(Family.GROUNDING, {**far, "verdict": "right"}).word == "Correct"
    near = {**far, "predicted_box": [0, 0, 10, 10], "score": 1.0, "verdict": "wrong"}
    assert judge(Family.GROUNDING, near) == Judgement(Verdict.WRONG, "Wrong", "IoU 1.00")
    objects = [{"box": [0, 0, 9, 9], "label": "cat"}]
    seen = {"predicted_objects": objects, "true_objects": objects, "found": [], "verdict": "wrong"}
    assert judge(Family.DETECTION, seen) == Judgement(Verdict.WRONG, "Wrong", "0/1 found · 1 extra")
    assert judge(Family.ANSWER, {"score": 0.9, "verdict": "right"}).verdict is Verdict.RIGHT
    assert judge(Family.ANSWER, {"score": 0.9, "verdict": "partly"}).measure == "score 0.90"


@pytest.mark.parametrize("kind", list(Family))
def test_rows_without_a_verdict_are_not_judged(kind):
    """Older files, and metrics that only measure: a score of 0 is no "false of the image"."""
    for row in ({"score": 0.0}, {"score": 1.0, "correct": False}, {"score": 0.0, "verdict": ""}):
        found = judge(kind, {**row, "predicted_box": None, "true_box": [0, 0, 1, 1]})
        assert (found.verdict, found.word) == (Verdict.NONE, "")
    assert judge(kind, {}) == Judgement(Verdict.NONE, "", "")


def test_words_of_verdicts():
    caption = [
        judge(Family.CAPTIONING, {"verdict": v, "score": 0.0}).word for v in ("right", "wrong")
    ]
    assert caption == ["True of the image", "False of the image"]
    no_box = {"predicted_box": None, "true_box": [0, 0, 1, 1], "score": 0.0, "verdict": "wrong"}
    assert judge(Family.GROUNDING, no_box).word == "No box"
    true = [{"box": [0, 0, 9, 9], "label": "cat"}, {"box": [20, 0, 29, 9], "label": "dog"}]
    extra = {"box": [40, 0, 49, 9], "label": "cow"}
    row = {"predicted_objects": [true[0], extra], "true_objects": true}
    row |= {"score": 0.5, "verdict": "partly", "found": [0]}
    assert judge(Family.DETECTION, row).measure == "1/2 found · 1 extra"
    assert judge(Family.IMAGE_INFILLING, {"score": 0.5}).measure == "50% of codes equal"
    assert judge(Family.IMAGE_GENERATION, {"score": 0.5}).measure == "50% of codes equal"
    read = {"score": 0.0, "verdict": "wrong", "prediction_text": "red circle on gray"}
    found = judge(Family.IMAGE_GENERATION, read)
    assert (found.word, found.measure) == (
        "The caption is false of it",
        "read as red circle on gray",
    )


def _verdicts(text):
    return [
        {"r": Verdict.RIGHT, "w": Verdict.WRONG, "p": Verdict.PARTLY, "n": Verdict.NONE}[c]
        for c in text
    ]


def _choice(text, limit):
    return choose(_verdicts(text), [float(i) for i in range(len(text))], limit)


def test_choice_mixes_right_and_wrong():
    assert _choice("rrrrrrww", 4) == [0, 6, 1, 7]
    assert _choice("rrrrrrrw", 4) == [0, 7, 1, 2]
    assert _choice("wwwwwwww", 3) == [0, 1, 2]
    assert _choice("rw", 24) == [0, 1]
    assert _choice("rrrppppw", 6) == [0, 7, 3, 1, 4, 2], "wrong ones before partly right ones"


def test_choice_without_verdicts_goes_from_best_to_worst():
    assert _choice("n" * 9, 3) == [8, 4, 0]
    assert _choice("nnwnr", 4) == [4, 2, 3, 0], "what is not judged fills the rest"
    assert choose(_verdicts("nnn"), [float("nan"), 2.0, -1.0], 3) == [1, 0, 2]
    assert choose([], [], 3) == []


def test_choice_prefers_rows_with_images():
    def rows(verdicts, pictured):
        return [
            {"verdict": v, "image": "x.png" if i in pictured else None}
            for i, v in enumerate(verdicts)
        ]

    right, wrong, none = Verdict.RIGHT, Verdict.WRONG, Verdict.NONE
    assert choose_rows(rows([right] * 3, {1}), 2) == [1, 0]
    # No image of a wrong answer was kept: they are shown without one.
    assert choose_rows(rows([right, right, wrong, right, wrong], {0, 1, 3}), 4) == [0, 2, 1, 4]
    assert choose_rows(rows([none] * 3, {1}), 2) == [1]
    assert choose_rows(rows([none] * 3, ()), 2) == [0, 2]
