"""Parquet files written with pyarrow, flat and as hubs export them."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.parquet import ParquetSource
from tests.data.sources.checks import examples_of, same
from tests.data.sources.photographs import annotated

CAPTIONS = (("image", "image.bytes"), ("captions", "text"), ("image_id", "id"))
CONSTANTS = (("type", "caption"), ("dataset", "sbu"))


def write(path, rows, metadata=None, **options):
    table = pyarrow.Table.from_pylist(rows)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pyarrow.parquet.write_table(table, path, **options)
    return str(path)


def row(one, **more):
    image = {"bytes": one.image, "path": f"{one.number}.jpg"}
    return {"image": image, "id": one.number, "text": one.captions[0]} | more


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
    with pytest.raises(SourceError, match=r"a\.parquet, row 3: there is no class 3, only 3"):
        records[3]
    path = write(tmp_path / "b.parquet", rows)
    found = examples_of(ParquetSource(path, columns, (("type", "classification"),)))
    assert [one["label"] for one in found] == ["0", "1", "2", "3"]


def test_mistakes_are_named(tmp_path):
    path = write(tmp_path / "a.parquet", [row(annotated()[0], many=["a", "b"])])
    for columns, message in (
        ((("captions", "txt"),), r"has no column 'txt' for 'captions'; did you mean 'text'"),
        ((("image", "image.data"),), r"a\.parquet, row 0: column 'image' has no part 'data'"),
        ((("image_id", "many"),), "column 'many' holds lists, the field 'image_id' one text"),
        ((("boxes", "many"),), "row 0: .*"),
    ):
        with pytest.raises(SourceError, match=message):
            ParquetSource(path, columns, CONSTANTS).open("train")[0]
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"cut\.parquet is cut off or not a parquet file"):
        ParquetSource(str(tmp_path / "cut.parquet"), CAPTIONS, CONSTANTS).open("train")


def test_declarations_are_checked():
    with pytest.raises(ValueError, match="unknown field 'caption_text'"):
        ParquetSource("x", (("caption_text", "a"),), CONSTANTS)
    with pytest.raises(ValueError, match="the constant 'boxes' is not a text field"):
        ParquetSource("x", (), (("boxes", "a"), *CONSTANTS))
    with pytest.raises(ValueError, match="the constants say no type of example"):
        ParquetSource("x", CAPTIONS, ())
    with pytest.raises(ValueError, match="boxes are one of xyxy, xywh, not 'yxyx'"):
        ParquetSource("x", CAPTIONS, CONSTANTS, "yxyx")
