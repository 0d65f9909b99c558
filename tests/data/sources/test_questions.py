"""VQAv2, GQA and Visual Genome: questions, regions and objects."""

import json

import numpy as np
import pytest

from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.questions import Gqa, VqaV2, answer_confidences
from ofa_jax.data.sources.visual_genome import (
    VisualGenomeObjects,
    VisualGenomeQuestions,
    VisualGenomeRegions,
)
from ofa_jax.metrics.vqa import answer_accuracy
from tests.data.sources.checks import examples_of, same
from tests.data.sources.photographs import annotated, write_pictures


def dump(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def question(one, **more):
    return {
        "image": one.image,
        "image_id": str(one.number),
        "question": f"Is there a {one.label}?",
        "type": "qa",
    } | more


def test_confidence_is_the_official_accuracy():
    given = ["blue"] * 2 + ["red"] * 4 + ["green"] + ["black"] * 3
    answers, confidences = answer_confidences(given)
    assert answers == ["red", "black", "blue", "green"]
    assert confidences == [1.0, 0.9, 0.6, 0.3]
    assert confidences == [round(answer_accuracy(answer, given), 6) for answer in answers]
    assert answer_confidences(["yes"]) == (["yes"], [1.0])
    assert answer_confidences([]) == ([], [])


def vqa_files(tmp_path, subset="train2014"):
    questions, answers = [], []
    for one in annotated():
        identifier = one.number * 1000 + 3
        entry = {"image_id": one.number, "question_id": identifier}
        questions.append(entry | {"question": f"Is there a {one.label}?"})
        given = [{"answer": "yes"}] * 8 + [{"answer": "no"}] * 2
        answers.append(entry | {"answers": given, "multiple_choice_answer": "yes"})
    return (
        dump(tmp_path / "questions.json", {"data_subtype": subset, "questions": questions}),
        dump(tmp_path / "annotations.json", {"annotations": answers[::-1]}),
    )


def test_vqa(tmp_path):
    questions, annotations = vqa_files(tmp_path)
    images = write_pictures(tmp_path / "i", lambda one: f"COCO_train2014_{one.number:012d}.jpg")
    source = VqaV2(questions=questions, annotations=annotations, images=images)
    for found, one in zip(examples_of(source), annotated(), strict=True):
        answers = {"answers": ["yes", "no"], "answer_conf": [1.0, 0.6]}
        same(found, question(one, example_id=f"{one.number}003", **answers))


def test_vqa_tests_have_no_answers_and_share_images(tmp_path):
    questions, _ = vqa_files(tmp_path, "test-dev2015")
    images = write_pictures(tmp_path / "i", lambda one: f"COCO_test2015_{one.number:012d}.jpg")
    examples = examples_of(VqaV2(questions=questions, images=images), "test-dev")
    for found, one in zip(examples, annotated(), strict=True):
        same(found, question(one, example_id=f"{one.number}003"))
    named = write_pictures(tmp_path / "n", lambda one: f"{one.number}-test.jpg")
    source = VqaV2(questions=questions, images=named, image_name="{image_id}-test.jpg")
    assert len(examples_of(source)) == 4


def test_questions_without_answers_are_named(tmp_path):
    questions, _ = vqa_files(tmp_path)
    empty = dump(tmp_path / "other.json", {"annotations": [{"question_id": 1, "answers": []}]})
    source = VqaV2(questions=questions, annotations=empty, images=str(tmp_path))
    message = r"no examples .*no_answer 4 \(such as .*questions\.json, question 101003: there is no"
    with pytest.raises(SourceError, match=message):
        source.open("train")


def test_gqa(tmp_path):
    images = write_pictures(tmp_path / "images")
    entries = {
        f"q{one.number}": {
            "imageId": str(one.number),
            "question": f"Is there a {one.label}?",
            "answer": "yes",
            "fullAnswer": f"Yes, there is a {one.label}.",
            "isBalanced": one.number % 2 == 0,
        }
        for one in annotated()
    }
    path = dump(tmp_path / "train_questions.json", entries)
    for found, one in zip(
        examples_of(Gqa(questions=path, images=images)), annotated(), strict=True
    ):
        answers = {"answers": ["yes"], "answer_conf": [1.0]}
        same(found, question(one, example_id=f"q{one.number}", **answers))
    source = Gqa(questions=path, images=images, full_answers=True, balanced_only=True)
    found = examples_of(source)
    assert [one["example_id"] for one in found] == ["q102", "q104"]
    assert found[0]["answers"] == [entries["q102"]["fullAnswer"]]
    del entries["q103"]["question"]
    path = dump(tmp_path / "train_questions.json", entries)
    records = Gqa(questions=path, images=images, dataset="again").open("train")
    assert len(records) == 3
    assert records.left_out.named == {
        "bad_fields": [f"{path}, entry 'q103': it lacks 'question'"],
    }


@pytest.fixture
def directories(tmp_path):
    write_pictures(tmp_path / "VG_100K")
    (tmp_path / "VG_100K_2").mkdir()
    moved = f"{annotated()[1].number}.jpg"
    (tmp_path / "VG_100K" / moved).rename(tmp_path / "VG_100K_2" / moved)
    return f"{tmp_path / 'VG_100K'}, {tmp_path / 'VG_100K_2'}"


def test_visual_genome_regions(tmp_path, directories):
    entries = []
    for one in annotated():
        left, top, width, height = one.left_top_size
        box = {"x": left, "y": top, "width": width, "height": height}
        regions = [
            box | {"phrase": f" the {one.label} ", "region_id": 1},
            box | {"phrase": " "},
            {"x": 0, "y": 0, "width": one.width // 2, "height": one.height // 2, "phrase": "sky"},
        ]
        entries.append({"id": one.number, "regions": regions})
    entries.append({"id": 7, "regions": []})
    path = dump(tmp_path / "region_descriptions.json", entries)
    examples = examples_of(VisualGenomeRegions(annotations=path, images=directories))
    for found, one in zip(examples, annotated(), strict=True):
        phrases = [f"the {one.label}", "sky"]
        expected = {
            "image": one.image,
            "image_id": str(one.number),
            "boxes": np.array([one.box, one.second_box], np.float32),
            "region_captions": phrases,
            "refexps": phrases,
            "refexp_box_index": [0, 1],
            "type": "visual_grounding",
        }
        same(found, expected)


def test_visual_genome_questions_and_objects(tmp_path, directories):
    questions, objects = [], []
    for one in annotated():
        pair = {"question": f"Is there a {one.label}?", "answer": "Yes.", "qa_id": one.number + 1}
        questions.append({"id": one.number, "qas": [pair]})
        left, top, width, height = one.left_top_size
        box = {"x": left, "y": top, "w": width, "h": height}
        things = [box | {"names": [one.label, "entity"]}, box | {"names": []}]
        objects.append({"image_id": one.number, "objects": things})
    path = dump(tmp_path / "question_answers.json", questions)
    source = VisualGenomeQuestions(annotations=path, images=directories, dataset="vg")
    for found, one in zip(examples_of(source), annotated(), strict=True):
        more = {"answers": ["Yes."], "answer_conf": [1.0], "dataset": "vg"}
        same(found, question(one, example_id=str(one.number + 1), **more))
    path = dump(tmp_path / "objects.json", objects)
    for found, one in zip(
        examples_of(VisualGenomeObjects(annotations=path, images=directories)),
        annotated(),
        strict=True,
    ):
        assert found["labels"] == found["objects"] == [one.label]
        np.testing.assert_array_equal(found["boxes"], np.array([one.box], np.float32))
    del objects[2]["objects"][0]["w"]
    path = dump(tmp_path / "damaged.json", objects)
    records = VisualGenomeObjects(annotations=path, images=directories).open("train")
    assert len(records) == 3
    # Each image has an object without a name as well.
    assert records.left_out.counts == {"bad_fields": 1, "empty_text": 4}
    assert records.left_out.named["bad_fields"] == [
        f"{path}, image 103, objects[0]: it lacks 'w'",
    ]
