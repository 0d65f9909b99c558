"""One bad item among good ones: it is left out and counted, and the rest of its file is read."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ofa_jax.data.preparation.conversion import convert
from ofa_jax.data.preparation.reasons import RejectedExample
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.sources import formats
from ofa_jax.data.sources.box_units import OTHER_SHAPE, STORED_BOXES, UPRIGHT_BOXES
from ofa_jax.data.sources.errors import Reason, SourceError
from tests.data.sources.photographs import annotated, write_pictures


@dataclasses.dataclass
class Case:
    """Files of a format with a fault, and what is right about them."""

    format: str
    files: dict
    left_out: dict
    # What is left: a field of every example.
    field: str
    values: list


FIRST, SECOND = annotated(2)
IMAGES = [
    {"id": one.number, "file_name": f"{one.number}.jpg", "width": one.width, "height": one.height}
    for one in (FIRST, SECOND)
]
CATEGORIES = [{"id": 1, "name": "bus"}, {"id": 2, "name": "dog"}]
BOX = [1, 2, 30, 40]


def captions(*entries, images=IMAGES):
    return {"annotations": {"images": images, "annotations": list(entries)}}


def caption(value, image=FIRST.number):
    return {"image_id": image, "caption": value}


def coco(*boxes, images=IMAGES, categories=CATEGORIES):
    content = {"images": images, "annotations": list(boxes), "categories": categories}
    return {"annotations": content}


def box(value=BOX, image=FIRST.number, category=1, **more):
    entry = {"image_id": image, "category_id": category, "bbox": value, **more}
    return {key: value for key, value in entry.items() if value != "absent"}


def vqa(answers, questions=None):
    asked = [
        {"question_id": 10, "image_id": FIRST.number, "question": "What is it?"},
        {"question_id": 20, "image_id": SECOND.number, "question": "Is it red?"},
    ]
    given = [
        {"question_id": identifier, "answers": [{"answer": one} for one in values]}
        for identifier, values in answers
    ]
    return {"questions": {"questions": questions or asked}, "annotations": {"annotations": given}}


def refs(*changes, annotations=None):
    good = {"ann_id": 5, "image_id": FIRST.number, "split": "train"}
    listed = [{**good, "sentences": [{"sent": "the bus", "sent_id": 1}]}]
    listed += [{**listed[0], **change} for change in changes]
    boxes = [
        {"id": 5, "image_id": FIRST.number, "bbox": BOX},
        {"id": 6, "image_id": SECOND.number, "bbox": BOX},
    ]
    instances = {"images": IMAGES, "annotations": [*boxes, *(annotations or [])]}
    return {"refs": listed, "instances": instances}


def regions(*values):
    place = {"x": 1, "y": 2, "width": 30, "height": 40}
    return {"annotations": [{"id": FIRST.number, "regions": [place | one for one in values]}]}


COCO = "coco_instances"
QUESTION = {"question_id": 10, "image_id": FIRST.number}
CASES = {
    "null caption": Case(
        "coco_captions",
        captions(caption(None), caption("a bus"), caption(["a"]), caption(True), caption(12)),
        {"empty_text": 1, "bad_fields": 2},
        "captions",
        [["a bus", "12"]],
    ),
    "caption of an unlisted image": Case(
        "coco_captions",
        captions(caption("a bus"), caption("no", 77), caption("no", 77)),
        {"unlisted_image": 2},
        "captions",
        [["a bus"]],
    ),
    "image ids twice": Case(
        "coco_captions",
        captions(
            caption("of the first"),
            caption("of which?", SECOND.number),
            images=[*IMAGES, {"id": SECOND.number, "file_name": "other.jpg"}],
        ),
        {"duplicated_id": 1},
        "captions",
        [["of the first"]],
    ),
    "the same image entry twice": Case(
        "coco_captions",
        captions(caption("a bus", str(FIRST.number)), images=[*IMAGES, *IMAGES]),
        {},
        "captions",
        [["a bus"]],
    ),
    "raw caption null": Case(
        "karpathy",
        {
            "annotations": {
                "images": [
                    {
                        "split": "train",
                        "imgid": 1,
                        "filename": f"{FIRST.number}.jpg",
                        "sentences": [{"raw": None}, {"raw": "a bus"}, {"raw": " "}],
                    }
                ]
            }
        },
        {"empty_text": 2},
        "captions",
        [["a bus"]],
    ),
    "bbox null": Case(COCO, coco(box(), box(None)), {"no_box": 1}, "boxes", [1]),
    "bbox empty": Case(COCO, coco(box(), box([])), {"no_box": 1}, "boxes", [1]),
    "bbox absent": Case(COCO, coco(box(), box("absent")), {"no_box": 1}, "boxes", [1]),
    "bbox with null": Case(
        COCO, coco(box(), box([1, 2, 3, None])), {"bad_fields": 1}, "boxes", [1]
    ),
    "bbox of texts": Case(COCO, coco(box(["1", "2", "30", "40"])), {}, "boxes", [1]),
    "an entry that is null": Case(COCO, coco(box(), None, 5), {"bad_fields": 2}, "boxes", [1]),
    "box of an unlisted image": Case(
        COCO, coco(box(), box(image=77)), {"unlisted_image": 1}, "boxes", [1]
    ),
    "box of an undeclared class": Case(
        COCO,
        coco(box(), box(category=9), box(category="2")),
        {"undeclared_class": 1},
        "labels",
        [["bus", "dog"]],
    ),
    "class ids twice": Case(
        COCO,
        coco(box(), box(category=2), categories=[*CATEGORIES, {"id": 2, "name": "cat"}]),
        {"duplicated_id": 1},
        "labels",
        [["bus"]],
    ),
    "ids that int would merge": Case(
        COCO,
        coco(
            box(image=1.2),
            box(image=1.7, category=2),
            images=[{"id": 1.2, "file_name": "101.jpg"}, {"id": 1.7, "file_name": "102.jpg"}],
        ),
        {},
        "labels",
        [["bus"], ["dog"]],
    ),
    "ids beyond 64 bits": Case(
        COCO,
        coco(box(image=str(10**30)), images=[{"id": 10**30, "file_name": "101.jpg"}]),
        {},
        "labels",
        [["bus"]],
    ),
    "iscrowd as text": Case(
        COCO,
        coco(box(iscrowd="0"), box(iscrowd="1"), box(iscrowd=0, category=2)),
        {},
        "labels",
        [["bus", "dog"]],
    ),
    "class name null": Case(
        COCO,
        coco(box(), box(category=2), categories=[CATEGORIES[0], {"id": 2, "name": None}]),
        {"empty_text": 1, "undeclared_class": 1},
        "labels",
        [["bus"]],
    ),
    "answers null": Case(
        "vqa",
        vqa([(10, [None] * 10), (20, ["yes"] * 5 + [None] * 5)]),
        {"empty_text": 15, "no_answer": 1},
        "answers",
        [["yes"]],
    ),
    "a question without answers": Case(
        "vqa", vqa([(20, ["yes"] * 10)]), {"no_answer": 1}, "answers", [["yes"]]
    ),
    "answers of a question twice": Case(
        "vqa",
        vqa([(10, ["bus"]), (20, ["yes"]), (10, ["cat"]), ("20", ["yes"])]),
        {"duplicated_id": 1},
        "answers",
        [["yes"]],
    ),
    "question ids twice": Case(
        "vqa",
        vqa(
            [(10, ["bus"]), (20, ["yes"])],
            [
                {**QUESTION, "question": "What is it?"},
                {**QUESTION, "question": "What else?"},
                {"question_id": 20, "image_id": SECOND.number, "question": "Is it red?"},
                {"question_id": 20, "image_id": SECOND.number, "question": "Is it red?"},
            ],
        ),
        {"duplicated_id": 1},
        "question",
        ["Is it red?"],
    ),
    "question null": Case(
        "vqa",
        vqa(
            [(10, ["bus"]), (20, ["yes"])],
            [
                {**QUESTION, "question": None},
                {"question_id": 20, "image_id": SECOND.number, "question": "Is it red?"},
            ],
        ),
        {"empty_text": 1},
        "question",
        ["Is it red?"],
    ),
    "GQA without answer": Case(
        "gqa",
        {
            "questions": {
                "1": {"imageId": "101", "question": "What?", "answer": None},
                "2": {"imageId": "101", "question": "Who?", "answer": ""},
                "3": {"imageId": 101, "question": "How many?", "answer": 7},
            }
        },
        {"no_answer": 2},
        "answers",
        [["7"]],
    ),
    "expressions of no box or several": Case(
        "refcoco",
        refs(
            {"ann_id": [5, 6]}, {"ann_id": [-1]}, {"ann_id": -1}, {"ann_id": [5], "split": "TRAIN"}
        ),
        {"not_one_target": 3},
        "refexps",
        [["the bus"], ["the bus"]],
    ),
    "an expression without its box": Case(
        "refcoco", refs({"ann_id": 999}), {"missing_annotation": 1}, "refexps", [["the bus"]]
    ),
    "an expression for another image's box": Case(
        "refcoco", refs({"ann_id": 6}), {"missing_annotation": 1}, "refexps", [["the bus"]]
    ),
    "an expression of an unlisted image": Case(
        "refcoco",
        refs({"ann_id": 7, "image_id": 77}, annotations=[{"id": 7, "image_id": 77, "bbox": BOX}]),
        {"unlisted_image": 1},
        "refexps",
        [["the bus"]],
    ),
    "instances twice": Case(
        "refcoco",
        refs(
            {"ann_id": 8},
            annotations=[
                {"id": 8, "image_id": FIRST.number, "bbox": BOX},
                {"id": "8", "image_id": FIRST.number, "bbox": [50, 50, 20, 20]},
            ],
        ),
        {"duplicated_id": 1},
        "refexps",
        [["the bus"]],
    ),
    "expression null": Case(
        "refcoco",
        refs({"sentences": [{"sent": None, "sent_id": 3}, {"sent": "a dog", "sent_id": 4}]}),
        {"empty_text": 1},
        "refexps",
        [["the bus"], ["a dog"]],
    ),
    "phrase null": Case(
        "visual_genome_regions",
        regions({"phrase": "a bus"}, {"phrase": None}, {"phrase": "a dog", "width": None}),
        {"empty_text": 1, "bad_fields": 1},
        "refexps",
        [["a bus"]],
    ),
    "object name null": Case(
        "visual_genome_objects",
        {
            "annotations": [
                {
                    "image_id": FIRST.number,
                    "objects": [
                        {"names": [None], "x": 1, "y": 2, "w": 3, "h": 4},
                        {"names": ["bus"], "x": 1, "y": 2, "w": 3, "h": 4},
                    ],
                }
            ]
        },
        {"empty_text": 1},
        "labels",
        [["bus"]],
    ),
    "pairs without question or answer": Case(
        "visual_genome_questions",
        {
            "annotations": [
                {
                    "id": FIRST.number,
                    "qas": [
                        {"qa_id": 1, "question": "What?", "answer": None},
                        {"qa_id": 2, "question": None, "answer": "Yes."},
                        {"qa_id": 3, "question": "Is it?", "answer": "Yes."},
                    ],
                }
            ]
        },
        {"no_answer": 1, "empty_text": 1},
        "question",
        ["Is it?"],
    ),
}


def source(directory, case, **arguments):
    paths = {}
    for name, content in case.files.items():
        path = directory / f"{name}.json"
        # With a byte-order mark, as some editors write it.
        path.write_text(json.dumps(content), "utf-8-sig")
        paths[name] = str(path)
    if case.format == "vqa":
        arguments["image_name"] = "{image_id}.jpg"
    images = write_pictures(directory / "images", count=2)
    return formats.source(case.format, {**paths, "images": images, **arguments})


@pytest.mark.parametrize("name", CASES)
def test_one_bad_item_is_left_out_and_counted(tmp_path, name):
    case = CASES[name]
    records = source(tmp_path, case).open("train")
    found = [records[index][case.field] for index in range(len(records))]
    if case.field == "boxes":
        found = [len(boxes) for boxes in found]
    assert found == case.values
    assert dict(records.left_out.counts) == case.left_out
    for reason, places in records.left_out.named.items():
        assert Reason(reason).meaning
        assert all("json" in place or "question" in place for place in places)


def test_images_stay_with_their_boxes(tmp_path):
    records = source(tmp_path, CASES["ids that int would merge"]).open("train")
    assert [records[index]["image"] for index in (0, 1)] == [FIRST.image, SECOND.image]


def test_nothing_but_bad_items_is_an_error(tmp_path):
    case = Case(COCO, coco(box(None), box([])), {}, "", [])
    with pytest.raises(SourceError, match=r"split 'train'; .*no_box 2"):
        source(tmp_path, case).open("train")


def sized(width, height):
    images = [{**entry, "width": width, "height": height} for entry in IMAGES[:1]]
    return Case(COCO, coco(box([10, 20, 40, 60]), images=images), {}, "", [])


def test_boxes_of_a_resized_image(tmp_path):
    case = sized(4 * FIRST.width, 4 * FIRST.height)
    message = f"{4 * FIRST.width} x {4 * FIRST.height} pixels, it has {FIRST.width} x"
    with pytest.raises(SourceError, match=message) as error:
        source(tmp_path, case).open("train")[0]
    assert error.value.__cause__.reason == Reason.OTHER_SIZE
    example = source(tmp_path, case, scale_boxes="true").open("train")[0]
    np.testing.assert_allclose(example["boxes"], [[2.5, 5, 12.5, 20]])


def test_boxes_of_an_image_of_another_shape_are_noticed(tmp_path):
    case = sized(FIRST.width, FIRST.height * 2)
    example = source(tmp_path, case).open("train")[0]
    np.testing.assert_allclose(example["boxes"], [[10, 20, 50, 80]])
    assert example["notes"] == [OTHER_SHAPE]
    # Where it was stretched, the user says so.
    example = source(tmp_path, case, scale_boxes="true").open("train")[0]
    np.testing.assert_allclose(example["boxes"], [[10, 10, 50, 40]])


def test_boxes_of_a_turned_image(tmp_path):
    with pytest.raises(SourceError, match="it was turned"):
        source(tmp_path, sized(FIRST.height, FIRST.width), scale_boxes="true").open("train")[0]
    # A size that is off by one was rounded.
    assert source(tmp_path, sized(FIRST.width + 1, FIRST.height)).open("train")[0]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("upright", [True, False])
def test_boxes_of_an_image_with_a_rotation_tag(tmp_path, orientation, upright):
    """What the annotations are of, the stored image or the upright one, decides what is kept."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = orientation >= 5
    size = [48, 80] if turned and upright else [80, 48]
    images = [{"id": 1, "file_name": "turned.jpg", "width": size[0], "height": size[1]}]
    case = Case(COCO, coco(box([12, 8, 20, 16], image=1), images=images), {}, "", [])
    records = source(tmp_path, case).open("train")
    Image.new("RGB", (80, 48)).save(tmp_path / "images" / "turned.jpg", exif=exif)
    example = records[0]
    notes = [UPRIGHT_BOXES if upright else STORED_BOXES] if turned else None
    assert example.get("notes") == notes
    for settings in (ConversionSettings(), ConversionSettings(upright=True)):
        if turned and settings.upright != upright:
            with pytest.raises(RejectedExample, match=r"other_size: .*annotations"):
                convert(example, settings)
        else:
            assert "notes" not in convert(example, settings).example


@pytest.mark.parametrize("unit", ["fractions", "pixels"])
def test_boxes_in_fractions(tmp_path, unit):
    case = Case(COCO, coco(box([0.25, 0.5, 0.5, 0.25])), {}, "", [])
    example = source(tmp_path, case, boxes=unit).open("train")[0]
    sides = [FIRST.width, FIRST.height] * 2 if unit == "fractions" else [1] * 4
    np.testing.assert_allclose(example["boxes"], [np.multiply([0.25, 0.5, 0.75, 0.75], sides)])
    with pytest.raises(ValueError, match="unit of boxes 'percent'"):
        source(tmp_path, case, boxes="percent")
