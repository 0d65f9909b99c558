"""Parquet files written with pyarrow, flat and as hubs export them."""

import base64
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.parquet import ParquetSource
from ofa_jax.data.sources.schema import check_example
from tests.data.sources.checks import examples_of, same
from tests.data.sources.parquet_files import CAPTIONS, CONSTANTS, row, write
from tests.data.sources.photographs import annotated


def test_captions_over_files_and_groups(tmp_path):
    photographs = annotated()
    write(tmp_path / "train-0.parquet", [row(one) for one in photographs[:3]], row_group_size=2)
    write(tmp_path / "train-1.parquet", [row(one) for one in photographs[3:]])
    source = ParquetSource(str(tmp_path / "{split}-*.parquet"), CAPTIONS, CONSTANTS)
    for found, one in zip(examples_of(source), photographs, strict=True):
        expected = {
            "image": one.image,
            "image_id": str(one.number),
            "captions": [one.captions[0]],
            "caption": one.captions[0],
            "dataset": "sbu",
            "type": "caption",
        }
        same(found, expected)


def test_lists_boxes_and_numbers(tmp_path):
    one = annotated()[0]
    rows = [
        {
            "image": one.image,
            "boxes": [list(one.left_top_size), [0, 0, 5, 6]],
            "names": [one.label, "thing"],
            "sure": 0.5,
            "answer": "yes",
            "codes": [3, 1, 2],
        },
        {"image": one.image, "boxes": [], "names": [], "sure": None, "answer": None, "codes": []},
    ]
    path = write(tmp_path / "a.parquet", rows)
    columns = (
        ("image", "image"),
        ("boxes", "boxes"),
        ("labels", "names"),
        ("answer_conf", "sure"),
        ("answers", "answer"),
        ("image_codes", "codes"),
    )
    source = ParquetSource(path, columns, (("type", "detection"),), "xywh")
    first, second = examples_of(source)
    np.testing.assert_array_equal(first["boxes"], np.float32([one.box, [0, 0, 5, 6]]))
    assert first["labels"] == [one.label, "thing"]
    assert (first["answers"], first["answer_conf"]) == (["yes"], [0.5])
    np.testing.assert_array_equal(first["image_codes"], np.int32([3, 1, 2]))
    assert second["boxes"].shape == (0, 4)
    assert "answers" not in second
    assert [first["image_id"], second["image_id"]] == ["0", "1"]


def test_classes_by_name(tmp_path):
    rows = [row(one, label=number) for number, one in enumerate(annotated())]
    names = ["temple", "flower", "woman"]
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    path = write(tmp_path / "a.parquet", rows, {"info": {"features": features}})
    columns = (("image", "image.bytes"), ("label", "label"))
    records = ParquetSource(path, columns, (("type", "classification"),)).open("train")
    assert [records[index]["label"] for index in range(3)] == names
    with pytest.raises(SourceError, match=r"a\.parquet, row 3: .*class 3, only 3"):
        records[3]
    path = write(tmp_path / "b.parquet", rows)
    found = examples_of(ParquetSource(path, columns, (("type", "classification"),)))
    assert [one["label"] for one in found] == ["0", "1", "2", "3"]


def test_mistakes_are_named(tmp_path):
    path = write(tmp_path / "a.parquet", [row(annotated()[0], many=["a", "b"])])
    for columns, message in (
        ((("captions", "txt"),), r"has no column 'txt' for 'captions'; did you mean text"),
        ((("image", "image.data"),), r"a\.parquet, row 0: column 'image' has no part 'data'"),
        ((("image_id", "many"),), "column 'many' holds lists, the field 'image_id' one text"),
        ((("boxes", "many"),), "row 0: .*"),
    ):
        with pytest.raises(SourceError, match=message):
            ParquetSource(path, columns, CONSTANTS).open("train")[0]
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"cut\.parquet .*cut off"):
        ParquetSource(str(tmp_path / "cut.parquet"), CAPTIONS, CONSTANTS).open("train")


def test_declarations_are_checked():
    with pytest.raises(ValueError, match="field 'caption_text'"):
        ParquetSource("x", (("caption_text", "a"),), CONSTANTS)
    with pytest.raises(ValueError, match=r"constant 'boxes' .*text field"):
        ParquetSource("x", (), (("boxes", "a"), *CONSTANTS))
    with pytest.raises(ValueError, match=r"constants .*no type"):
        ParquetSource("x", CAPTIONS, ())
    with pytest.raises(ValueError, match="form of boxes 'yxyx'"):
        ParquetSource("x", CAPTIONS, CONSTANTS, "yxyx")


CATEGORIES = ["bus", "person", "dog"]
CLASSES = {"names": CATEGORIES, "_type": "ClassLabel"}
NUMBERS = {"dtype": "float32", "_type": "Value"}
# How versions of the `datasets` library write a list of structures in the footer.
LISTS = {
    "a structure of lists": lambda: {
        "bbox": {"feature": NUMBERS, "_type": "Sequence"},
        "category": {"feature": CLASSES, "_type": "Sequence"},
    },
    "Sequence": lambda: {"feature": {"bbox": NUMBERS, "category": CLASSES}, "_type": "Sequence"},
    "List": lambda: {"feature": {"bbox": NUMBERS, "category": CLASSES}, "_type": "List"},
    "brackets": lambda: [{"bbox": NUMBERS, "category": CLASSES}],
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("brackets", ["", "[]"])
def test_parts_of_structures_and_of_lists(tmp_path, kind, brackets):
    one = annotated()[0]
    boxes, numbers = [list(one.left_top_size), [0, 0, 5, 6]], [2, 0]
    objects = {"bbox": boxes, "category": numbers}
    if kind != "a structure of lists":
        objects = [{"bbox": box, "category": number} for box, number in zip(boxes, numbers)]
    features = {"info": {"features": {"objects": LISTS[kind]()}}}
    path = write(tmp_path / "a.parquet", [row(one, objects=objects)], features)
    columns = (
        ("image", "image"),
        ("boxes", f"objects{brackets}.bbox"),
        ("labels", f"objects{brackets}.category"),
    )
    [found] = examples_of(ParquetSource(path, columns, (("type", "detection"),), "xywh"))
    assert found["labels"] == ["dog", "bus"]
    np.testing.assert_array_equal(found["boxes"], np.float32([one.box, [0, 0, 5, 6]]))
    assert found["image"] == one.image
    records = ParquetSource(path, (("labels", "objects.name"),), CONSTANTS).open("train")
    with pytest.raises(SourceError, match=r"column 'objects' .*'name', only bbox, categ"):
        records[0]


def test_answers_of_structures(tmp_path):
    given = ["yes"] * 8 + ["no"] * 2
    answers = [{"answer": one, "answer_id": number} for number, one in enumerate(given)]
    path = write(tmp_path / "a.parquet", [row(annotated()[0], question="what?", answers=answers)])
    base = (("image", "image.bytes"), ("question", "question"))
    constants = (("type", "qa"),)
    [found] = examples_of(ParquetSource(path, (*base, ("answers", "answers[].answer")), constants))
    assert (found["answers"], found["answer_conf"]) == (["yes", "no"], [1.0, 0.6])
    records = ParquetSource(path, (*base, ("answers", "answers")), constants).open("train")
    with pytest.raises(SourceError, match=r"an object, not a text; .*answer, answer_"):
        records[0]


def test_null_is_no_text(tmp_path):
    one = annotated()[0]
    rows = [row(one, many=["a bus", None, ""], labels=["x", None]), row(one, many=None), row(one)]
    rows[2] |= {"many": [None], "text": None}
    path = write(tmp_path / "a.parquet", rows)
    records = ParquetSource(path, (("captions", "many"),), CONSTANTS).open("train")
    assert records[0]["captions"] == ["a bus"]
    assert [records[index].get("captions") for index in (1, 2)] == [None, []]
    # A missing label would move the others to wrong boxes.
    with pytest.raises(SourceError, match=r"'labels' .*missing"):
        ParquetSource(path, (("labels", "labels"),), CONSTANTS).open("train")[0]


@pytest.mark.parametrize("form", ["bytes", "structure", "list", "base64"])
def test_forms_of_images(tmp_path, form):
    one = annotated()[0]
    picture = {
        "bytes": one.image,
        "structure": {"bytes": one.image, "path": None},
        "list": [{"bytes": one.image, "path": "x.jpg"}],
        "base64": base64.b64encode(one.image).decode(),
    }[form]
    path = write(tmp_path / "a.parquet", [{"picture": picture}])
    records = ParquetSource(path, (("image", "picture"),), (("type", "image"),)).open("train")
    assert records[0]["image"] == one.image


def test_images_that_are_only_named(tmp_path):
    path = write(tmp_path / "a.parquet", [{"picture": {"bytes": None, "path": "x.jpg"}}])
    records = ParquetSource(path, (("image", "picture"),), (("type", "image"),)).open("train")
    with pytest.raises(SourceError, match=r"holds only a path, 'x\.jpg', no bytes"):
        records[0]


def test_one_box_and_its_expression(tmp_path):
    one = annotated()[0]
    rows = [row(one, box=box, words="the bus") for box in (one.box, None, (1, 2, 3, None))]
    path = write(tmp_path / "a.parquet", rows)
    columns = (("image", "image"), ("boxes", "box"), ("refexps", "words"))
    source = ParquetSource(path, columns, (("type", "visual_grounding"),))
    records = source.open("train")
    check_example(records[0], "the first")
    assert records[0]["refexp_box_index"] == [0]
    assert records[0]["region_captions"] == ["the bus"]
    assert "boxes" not in records[1]
    with pytest.raises(SourceError, match=r"column 'box' .*without numbers"):
        records[2]
    halves = [row(one, box=(0.25, 0.5, 0.75, 1.0), words="the bus")]
    path = write(tmp_path / "b.parquet", halves)
    source = ParquetSource(path, columns, (("type", "visual_grounding"),), boxes="fractions")
    expected = [[one.width / 4, one.height / 2, one.width * 3 / 4, one.height]]
    np.testing.assert_allclose(source.open("train")[0]["boxes"], expected)


def test_arrow_files_of_a_saved_data_set(tmp_path):
    """As `save_to_disk` writes them: streams of batches, with names of classes in the schema."""
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pyarrow.schema({"image": pyarrow.binary(), "label": pyarrow.int64()}, metadata)
    for shard, rows in enumerate(([0, 1, 1], [1])):
        with pyarrow.ipc.new_stream(tmp_path / f"data-{shard:05}-of-00002.arrow", schema) as out:
            for label in rows:
                image = f"{shard}{label}".encode()
                out.write_batch(pyarrow.record_batch([[image], [label]], schema=schema))
    source = ParquetSource(
        f"{tmp_path}/*.arrow",
        (("image", "image"), ("label", "label")),
        (("type", "classification"),),
    )
    records = source.open("train")
    assert [records[n]["label"] for n in range(len(records))] == ["cat", "dog", "dog", "dog"]
    assert records[3]["image"] == b"11"
    (tmp_path / "data-00002.arrow").write_bytes(b"x" * 100)
    with pytest.raises(SourceError, match="not an arrow stream"):
        source.open("train")
