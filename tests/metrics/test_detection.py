"""Matching of labeled boxes, and the scores that count matches."""

import pytest

from ofa_jax.metrics.detection import detection_scores, match_objects


def _object(label, *box):
    return {"box": box, "label": label}


TRUE = [_object("cat", 0, 0, 10, 10), _object("dog", 20, 0, 30, 10)]


def test_each_truth_is_found_once():
    predicted = [_object("cat", 0, 0, 9, 10), _object("cat", 0, 0, 10, 10)]
    matches = match_objects(predicted, TRUE)
    assert [(p, t) for p, t, _ in matches] == [(1, 0)]
    scores = detection_scores([predicted], [TRUE])
    assert scores == {"recall": 0.5, "precision": 0.5, "f1": 0.5}


def test_order_of_predictions_does_not_matter():
    near = [_object("cat", 0, 0, 10, 8), _object("cat", 0, 1.5, 10, 11.5)]
    true = [_object("cat", 0, 0, 10, 10), _object("cat", 0, 2, 10, 12)]
    forward = {(p, t) for p, t, _ in match_objects(near, true)}
    backward = {(1 - p, t) for p, t, _ in match_objects(near[::-1], true)}
    assert forward == backward
    assert len(forward) == 2


def test_label_must_agree_unless_told_otherwise():
    swapped = [_object("dog", 0, 0, 10, 10), _object("cat", 20, 0, 30, 10)]
    assert match_objects(swapped, TRUE) == []
    assert len(match_objects(swapped, TRUE, use_labels=False)) == 2


def test_scores_are_pooled_over_images():
    predicted = [TRUE, [], [_object("cat", 50, 50, 60, 60)]]
    true = [TRUE, TRUE, []]
    scores = detection_scores(predicted, true)
    assert scores["recall"] == pytest.approx(2 / 4)
    assert scores["precision"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx(4 / 7)


def test_nothing_predicted_scores_zero():
    assert detection_scores([[]], [TRUE]) == {"recall": 0.0, "precision": 0.0, "f1": 0.0}


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="got 1 and 2"):
        detection_scores([TRUE], [TRUE, TRUE])
    with pytest.raises(ValueError, match=r'predicted object 0 .*"box" and "label"'):
        match_objects([{"label": "cat"}], TRUE)
