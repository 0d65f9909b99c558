"""Preparation steps: what they set, what they leave alone, what they refuse."""

import json
import pickle

import numpy as np
import pytest

from ofa_jax.data.sources.example import InstructionError
from ofa_jax.data.steps import finetuning as finetuning_steps
from ofa_jax.data.steps import image as image_steps
from ofa_jax.data.steps import matching as matching_steps
from ofa_jax.data.steps import selection, text
from ofa_jax.data.steps.image import IMAGE_SIZE
from tests.data.sources.tsv_cells import PIXELS, picture

BOXES = np.array([[0, 0, 4, 4], [2, 1, 8, 5]], np.float32)
SCENE = {
    "image_id": "scene-1",
    "boxes": BOXES,
    "labels": ["dog", "cat"],
    "captions": ["a dog and a cat", "two animals"],
    "negatives": ["a dog and a bird"],
    "region_captions": ["a brown dog", "a gray cat"],
    "refexps": ["the dog", "the cat", "the one on the left"],
    "refexp_box_index": np.array([0, 1, 0], np.int32),
    "qa": [
        {"question": "how many?", "answer": "2", "kind": "count"},
        {"question": "what is left?", "answer": "dog", "kind": "object"},
        {"question": "what is right?", "answer": "cat", "kind": "object"},
    ],
    "region_qa": [
        {
            "question": "what is it?",
            "answer": "cat",
            "kind": "object",
            "box_index": 1,
            "candidates": ["dog", "cat"],
            "needs_region": True,
        }
    ],
}


def draws(step, example=SCENE, count=60):
    before = pickle.dumps(example)
    found = [step(example, np.random.default_rng(seed)) for seed in range(count)]
    assert pickle.dumps(example) == before, "a step does not write into its example"
    pickle.loads(pickle.dumps(step))
    return found


def shares(values):
    values = [str(value) for value in values]
    return {value: values.count(value) / len(values) for value in set(values)}


def test_choose_draws_uniformly():
    found = shares(example["caption"] for example in draws(selection.Choose("captions", "caption")))
    assert found.keys() == set(SCENE["captions"])
    assert min(found.values()) > 0.3


def test_referring_expression_and_box_belong_together():
    boxes = {"the dog": 0, "the cat": 1, "the one on the left": 0}
    found = draws(selection.ChooseReferring())
    assert {example["caption"] for example in found} == boxes.keys()
    for example in found:
        np.testing.assert_array_equal(example["region"], BOXES[boxes[example["caption"]]])
        assert example["region"].dtype == np.float32


def test_region_and_caption_belong_together():
    for example in draws(selection.ChooseRegion()):
        number = SCENE["region_captions"].index(example["caption"])
        np.testing.assert_array_equal(example["region"], BOXES[number])


def test_kinds_of_questions_are_equally_frequent():
    found = draws(selection.ChooseQuestion(), count=200)
    kinds = shares(example["question_kind"] for example in found)
    assert 0.35 < kinds["count"] < 0.65, "although there are more questions about objects"
    for example in found:
        entry = next(e for e in SCENE["qa"] if e["question"] == example["question"])
        assert (example["answer"], example["question_kind"]) == (entry["answer"], entry["kind"])


def test_region_question_brings_its_box():
    example = selection.ChooseRegionQuestion()(SCENE, np.random.default_rng(0))
    assert (example["question"], example["answer"]) == ("what is it?", "cat")
    assert example["candidates"] == ["dog", "cat"]
    assert example["needs_region"]
    np.testing.assert_array_equal(example["region"], BOXES[1])


def test_half_of_the_matches_are_false():
    found = draws(selection.ChooseMatch(), count=200)
    for example in found:
        true = example["caption"] in SCENE["captions"]
        assert example["answer"] == ("yes" if true else "no")
    assert 0.4 < shares(example["answer"] for example in found)["yes"] < 0.6


@pytest.mark.parametrize(
    ("step", "fields", "message"),
    [
        (selection.Choose("captions", "caption"), {"captions": []}, "'scene-1' has no captions"),
        (selection.ChooseReferring(), {"refexps": []}, "'scene-1' has no referring expression"),
        (selection.ChooseRegion(), {"boxes": BOXES[:0]}, "'scene-1' has no box"),
        (selection.ChooseQuestion(), {"qa": []}, "'scene-1' has no question"),
        (selection.ChooseRegionQuestion(), {"region_qa": []}, "has no question about a region"),
        (selection.ChooseMatch(), {"captions": [], "negatives": []}, "'scene-1' has no caption"),
        (text.clean_caption("text"), {"text": "... "}, "'text' of example 'scene-1' is empty"),
    ],
)
def test_examples_without_material_are_named(step, fields, message):
    with pytest.raises(InstructionError, match=message):
        step(SCENE | fields, np.random.default_rng(0))


def test_texts_are_cleaned_as_officially():
    rng = np.random.default_rng(0)
    caption = text.clean_caption(max_words=3)({"caption": "..A <person>-like/thing  here"}, rng)
    assert caption["caption"] == "a person like"
    question = text.clean_question()({"question": "#What is IT ?"}, rng)
    assert question["question"] == "what is it ?"
    assert text.LowerCase()({"text": "  A Dog. "}, rng)["text"] == "a dog."


# Photographs.


def test_decoding_and_stretching_scale_the_boxes():
    example = {"image": picture(), "boxes": [[0, 0, 9, 6], [3, 2, 6, 4]], IMAGE_SIZE: 18}
    rng = np.random.default_rng(0)
    decoded = image_steps.DecodeImage()(example, rng)
    np.testing.assert_array_equal(decoded["image"], PIXELS)
    square = image_steps.StretchToSquare()(decoded, rng)
    assert square["image"].shape == (18, 18, 3)
    np.testing.assert_allclose(square["boxes"], [[0, 0, 18, 18], [6, 6, 12, 12]])
    without = image_steps.StretchToSquare()({"image": PIXELS, IMAGE_SIZE: 18}, rng)
    assert len(without["boxes"]) == 0


@pytest.mark.parametrize(
    "step",
    [image_steps.AugmentForText(), image_steps.CropAroundObject(), image_steps.JitterScene()],
)
@pytest.mark.parametrize("shape", [(40, 60, 3), (70, 30, 3), (10, 12, 3)])
def test_augmentations_give_the_size_of_the_model_and_keep_boxes_inside(step, shape):
    height, width = shape[:2]
    example = {
        "image": np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8),
        "boxes": np.array([[1, 1, width - 2, height - 2], [2, 2, 6, 6]], np.float32),
        "labels": ["all", "part"],
        IMAGE_SIZE: 32,
    }
    for found in draws(step, example, count=10):
        assert found["image"].shape == (32, 32, 3)
        assert found["image"].dtype == np.uint8
        if not isinstance(step, image_steps.AugmentForText):
            boxes = np.asarray(found["boxes"])
            assert ((boxes >= 0) & (boxes <= 32)).all()
        if isinstance(step, image_steps.JitterScene):
            assert len(found["labels"]) == len(found["boxes"])


def test_boxes_that_are_none_are_refused():
    check, rng = image_steps.CheckBoxes(), np.random.default_rng(0)
    example = {"image": PIXELS, "image_id": "photo"}
    for box in ([0, 0, 9, 6], [-1, 0, 10, 7], [3, 3, 4, 4]):
        assert check(example | {"boxes": [box]}, rng)["boxes"] == [box]
    for box in ([5, 0, 5, 6], [4, 0, 2, 6], [0, 0, 30, 6], [0, 0, 9, np.nan], [-5, 0, 9, 6]):
        with pytest.raises(InstructionError, match=r"'photo' .*not a box .*9x6"):
            check(example | {"boxes": [box]}, rng)
    for box in ([0.1, 0.2, 0.6, 0.6], [0, 0, 1, 1], [-0.1, 0.2, 0.9, 1]):
        with pytest.raises(InstructionError, match=r"'photo' .*first pixel"):
            check(example | {"boxes": [box]}, rng)
    assert check(example | {"boxes": [[0, 0, 1, 1], [2, 2, 4, 4]]}, rng)


# Right and wrong pairs of official files.


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "all_captions.txt").write_text("a train\na boat\n\na bridge\n")
    (tmp_path / "object.txt").write_text("dog\nbird\ncar\n")
    by_type = {"how many": ["1", "2", "3"], "color": ["red", "blue", "green"], "other": ["x", "y"]}
    (tmp_path / "type2ans.json").write_text(json.dumps(by_type))
    return str(tmp_path)


def test_captions_are_replaced_half_of_the_time(directory):
    example = {"caption": "a dog on grass", "objects": ["dog"]}
    found = draws(matching_steps.MatchCaption(directory), example, count=200)
    for one in found:
        assert one["answer"] == ("yes" if one["caption"] == "a dog on grass" else "no")
    wrong = {one["caption"] for one in found} - {"a dog on grass"}
    assert wrong == {"a train", "a boat", "a bird on grass", "a car on grass"} or wrong >= {
        "a train",
        "a bird on grass",
    }
    assert 0.4 < shares(one["answer"] for one in found)["yes"] < 0.6


def test_answers_are_replaced_half_of_the_time(directory):
    example = {"question": "what color?", "answers": ["blue", "red"], "answer_conf": [0.3, 0.7]}
    best = finetuning_steps.LikeliestAnswer()(example, np.random.default_rng(0))
    assert (best["answer"], best["confidence"]) == ("red", 0.7)
    found = draws(matching_steps.MatchAnswer(directory), best, count=200)
    for one in found:
        assert one["answer"] == ("yes" if one["candidate"] == "red" else "no")
        assert one["confidence"] == 0.7
    assert {one["candidate"] for one in found} >= {"red", "blue", "x"}


def test_missing_negatives_are_named(tmp_path):
    step = matching_steps.MatchCaption(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"nowhere/all_captions\.txt .*not exist"):
        draws(step, {"caption": "a dog", "objects": []}, count=8)


def test_noisy_starts_are_skipped_in_one_data_set():
    step, rng = matching_steps.SkipNoisyStart(), np.random.default_rng(0)
    assert step({"dataset": "cc12m"}, rng)["loss_skip_prefix"] == 2
    assert "loss_skip_prefix" not in step({"dataset": "coco"}, rng)
    assert "loss_skip_prefix" not in step({}, rng)
