"""RefCOCO's pickles, SNLI-VE's lines, OpenImages' tables."""

import gzip
import json
import os
import pickle

import numpy as np
import pytest

from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.open_images import OpenImagesBoxes
from ofa_jax.data.sources.refcoco import RefCoco
from ofa_jax.data.sources.snli_ve import SnliVe
from tests.data.sources.checks import examples_of, same
from tests.data.sources.photographs import annotated, write_pictures


def refcoco_files(directory, refs=None, protocol=2):
    images, boxes, expressions = [], [], []
    for one in annotated():
        images.append({"id": one.number, "file_name": f"{one.number}.jpg"})
        boxes.append({"id": one.number * 10, "bbox": one.left_top_size, "image_id": one.number})
        texts = (f"the {one.label}", f"{one.label} in the middle")
        sentences = [
            {"sent": text, "raw": text.upper(), "sent_id": one.number * 100 + number, "tokens": []}
            for number, text in enumerate(texts)
        ]
        split = "val" if one.number == 103 else "train"
        entry = {"ref_id": 1, "ann_id": one.number * 10, "image_id": one.number, "split": split}
        expressions.append(entry | {"sentences": sentences, "file_name": "unused_1.jpg"})
    expressions = expressions if refs is None else refs
    (directory / "instances.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    (directory / "refs(unc).p").write_bytes(pickle.dumps(expressions, protocol))
    (directory / "refs.json").write_text(json.dumps(expressions))
    return expressions


def refcoco(directory, name="refs(unc).p"):
    images = write_pictures(directory / "images")
    instances = str(directory / "instances.json")
    return RefCoco(refs=str(directory / name), instances=instances, images=images)


@pytest.mark.parametrize("name", ["refs(unc).p", "refs.json"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refcoco(tmp_path, name, protocol):
    refcoco_files(tmp_path, protocol=protocol)
    source = refcoco(tmp_path, name)
    train = examples_of(source)
    assert [one["example_id"] for one in train] == [
        f"{one.number}0{number}" for one in annotated() if one.number != 103 for number in (0, 1)
    ]
    one = annotated()[2]
    text = f"{one.label} in the middle"
    expected = {
        "image": one.image,
        "image_id": "103",
        "example_id": "10301",
        "boxes": np.array([one.box], np.float32),
        "refexps": [text],
        "refexp_box_index": [0],
        "region_captions": [text],
        "caption": text,
        "type": "visual_grounding",
    }
    same(examples_of(source, "val")[1], expected)
    with pytest.raises(SourceError, match="split 'testA', only train, val"):
        source.open("testA")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile",)


def test_pickles_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refcoco_files(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Hostile()]))
    with pytest.raises(SourceError, match=r"refs\(unc\)\.p, ref 0"):
        refcoco(tmp_path).open("train")
    assert not (tmp_path / "hostile").exists()


def test_damaged_expressions_are_named(tmp_path):
    good = refcoco_files(tmp_path)
    data = (tmp_path / "refs(unc).p").read_bytes()
    for content, message in (
        (data[: len(data) // 2], r"\.p cannot be read: the pickle is cut off"),
        (pickle.dumps({"a": 1}), "does not hold a list of expressions"),
        (pickle.dumps([good[0] | {"ann_id": 7}]), "ref 0: there is no annotation 7"),
        (pickle.dumps([good[0] | {"sentences": [{}]}]), r"ref 0, sentences\[0\]: it lacks 'sent'"),
        (pickle.dumps([3]), "ref 0: it has another form than this format: 3"),
    ):
        path = tmp_path / f"{len(content)}.p"
        path.write_bytes(content)
        with pytest.raises(SourceError, match=message):
            refcoco(tmp_path, path.name).open("train")


def snli_line(one, **change):
    entry = {
        "Flickr30K_ID": str(one.number),
        "pairID": f"{one.number}#0r1n",
        "gold_label": "neutral",
        "sentence1": one.captions[0],
        "sentence2": f"Somebody paints the {one.label}.",
        "annotator_labels": ["neutral"],
    }
    return json.dumps(entry | change)


def test_snli_ve(tmp_path):
    images = write_pictures(tmp_path / "images")
    path = tmp_path / "snli_ve_train.jsonl"
    path.write_text("\n".join(map(snli_line, annotated())) + "\n")
    source = SnliVe(annotations=str(path), images=images)
    for found, one in zip(examples_of(source), annotated(), strict=True):
        expected = {
            "image": one.image,
            "image_id": str(one.number),
            "example_id": f"{one.number}#0r1n",
            "captions": [one.captions[0]],
            "caption": one.captions[0],
            "hypothesis": f"Somebody paints the {one.label}.",
            "label": "neutral",
            "type": "entailment",
        }
        same(found, expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            snli_line(annotated()[0], gold_label="yes"),
            "the class 'yes' is not one of entailment, neu",
        ),
        ('{"gold_label": "neutral"}', "it lacks 'sentence1'"),
        ('{"gold_label": ', "Expecting value"),
        ("[1]", "list indices"),
    ],
)
def test_damaged_lines_are_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{snli_line(annotated()[0])}\n\n{line}\n")
    records = SnliVe(annotations=str(path), images=write_pictures(tmp_path / "i")).open("train")
    assert records[0]["label"] == "neutral"
    with pytest.raises(SourceError, match=message) as error:
        records[1]
    assert str(error.value).startswith(f"{path}, line 3: ")


HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)


def box_line(one, box, label, group=0):
    x0, y0, x1, y1 = box
    sides = (x0 / one.width, x1 / one.width, y0 / one.height, y1 / one.height)
    values = ",".join(f"{value:.6f}" for value in sides)
    return f"{one.number},xclick,{label},1,{values},0,0,{group},0,0"


def open_images_files(directory, *more):
    rows = [HEADER]
    for number, one in enumerate(annotated()):
        rows += [box_line(one, one.box, f"/m/{number}"), box_line(one, (0, 0, 9, 9), "/m/1", 1)]
    rows += [box_line(one, one.second_box, "/m/0") for one in annotated()]
    rows.append(box_line(annotated()[0], (0, 0, 9, 9), "/m/1", 1).replace("101,", "7,", 1))
    (directory / "boxes.csv").write_text("\n".join([*rows, *more]) + "\n")
    names = [f"/m/{number},{one.label}" for number, one in enumerate(annotated())]
    (directory / "classes.csv").write_text("\n".join(names))
    return {
        "boxes": str(directory / "boxes.csv"),
        "classes": str(directory / "classes.csv"),
        "images": write_pictures(directory / "images"),
    }


def test_open_images(tmp_path):
    files = open_images_files(tmp_path)
    first = annotated()[0]
    examples = examples_of(OpenImagesBoxes(**files))
    for found, one in zip(examples, annotated(), strict=True):
        labels = [one.label, first.label]
        assert found["labels"] == labels
        assert found["objects"] == list(dict.fromkeys(labels))
        assert (found["image"], found["image_id"]) == (one.image, str(one.number))
        assert found["boxes"].dtype == np.float32
        expected = np.array([one.box, one.second_box], np.float32)
        np.testing.assert_allclose(found["boxes"], expected, atol=1e-3)
    records = OpenImagesBoxes(**files, with_groups=True).open("train")
    assert len(records) == 5
    assert records[1]["labels"] == [annotated()[1].label, annotated()[1].label, first.label]


@pytest.mark.parametrize(
    ("row", "reason", "message"),
    [
        (
            "101,xclick,/m/77,1,0,1,0,1,0,0,0,0,0",
            "undeclared_class",
            "class /m/77: there is no name of class /m/77",
        ),
        (
            "101,xclick,/m/1,1,0,1,0,x,0,0,0,0,0",
            "bad_fields",
            "line 15: a side of the box is 'x', not a number",
        ),
        (
            "101,xclick,/m/1,1,0",
            "wrong_column_count",
            "line 15: 5 columns, the header has 13",
        ),
        (
            "101,xclick,/m/1,1,0,1,0,1,0,0,maybe,0,0",
            "bad_fields",
            "line 15: IsGroupOf is 'maybe', neither true nor false",
        ),
    ],
)
def test_a_damaged_line_is_a_box_less(tmp_path, row, reason, message):
    records = OpenImagesBoxes(**open_images_files(tmp_path, row)).open("train")
    assert [len(records[index]["boxes"]) for index in range(len(records))] == [2, 2, 2, 2]
    [found] = records.left_out.named[reason]
    assert found.startswith(str(tmp_path / "boxes.csv"))
    assert found.endswith(message)


@pytest.mark.parametrize("yes", ["1", "True", "true", "yes"])
def test_groups_are_known_however_the_file_says_it(tmp_path, yes):
    row = f"101,xclick,/m/1,1,0,1,0,1,0,0,{yes},0,0"
    records = OpenImagesBoxes(**open_images_files(tmp_path, row)).open("train")
    assert [len(records[index]["boxes"]) for index in range(len(records))] == [2, 2, 2, 2]
    assert not records.left_out.total


def test_a_class_of_two_names_is_no_guess(tmp_path):
    files = open_images_files(tmp_path)
    classes = tmp_path / "classes.csv"
    names = classes.read_text().splitlines()
    classes.write_text("\n".join([*names, names[1], "/m/0,something else"]))
    records = OpenImagesBoxes(**files).open("train")
    found = [records[index]["labels"] for index in range(len(records))]
    assert found == [[one.label] for one in annotated()[1:]]
    assert list(records.left_out.named) == ["duplicated_id"]


@pytest.mark.parametrize("name", ["boxes", "classes"])
def test_compressed_tables_are_named(tmp_path, name):
    files = open_images_files(tmp_path)
    path = tmp_path / f"{name}.csv"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(SourceError, match=rf"{name}\.csv .*gzip"):
        OpenImagesBoxes(**files).open("train")


def test_damaged_headers_and_images_are_named(tmp_path):
    files = open_images_files(tmp_path)
    (tmp_path / "images" / "102.jpg").write_bytes(b"no image")
    records = OpenImagesBoxes(**files).open("train")
    with pytest.raises(SourceError, match=r"image 102: cannot decode .*8 bytes"):
        records[1]
    other = tmp_path / "other.csv"
    other.write_text("ImageID,LabelName\n1,2\n")
    with pytest.raises(SourceError, match=r"other\.csv, line 1: .*lacks XMax, XMin, Y"):
        OpenImagesBoxes(**files | {"boxes": str(other)}).open("train")
    with pytest.raises(SourceError, match=r"boxes\.csv, line 1: 13 cells"):
        OpenImagesBoxes(**files | {"classes": files["boxes"]}).open("train")
