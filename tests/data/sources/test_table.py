"""Tables of own data: forms of files, guessed columns, splits, and what is left out."""

import csv
import gzip
import json

import numpy as np
import pytest
from PIL import Image

from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.formats import source
from ofa_jax.data.sources.table import TableSource

ROWS = [
    {"image": "a.png", "text": 'a "red" bus, parked', "question": "what?", "answer": "bus"},
    {"image": "./sub/b.png", "text": "a dog\non grass", "question": "who?", "answer": "dog"},
]


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png", "c.png"):
        Image.new("RGB", (40, 20)).save(tmp_path / name)
    return tmp_path


def write(path, rows, delimiter=",", encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def opened(path, split="train", **options):
    return TableSource(paths=str(path), **options).open(split)


def by_type(records):
    found = {}
    for number in range(len(records)):
        example = records[number]
        found.setdefault(example["type"], []).append(example)
    return found


def as_csv(directory):
    return write(directory / "t.csv", ROWS)


def as_semicolons_with_mark(directory):
    return write(directory / "t.csv", ROWS, ";", "utf-8-sig")


def as_utf16_tsv(directory):
    return write(directory / "t.tsv", ROWS, "\t", "utf-16")


def as_utf16_without_mark(directory):
    return write(directory / "t.csv", ROWS, encoding="utf-16-le")


def as_gzip(directory):
    write(directory / "t.csv", ROWS)
    (directory / "t.csv.gz").write_bytes(gzip.compress((directory / "t.csv").read_bytes()))
    return directory / "t.csv.gz"


def as_json_lines(directory):
    (directory / "t.jsonl").write_text("\n\n".join(map(json.dumps, ROWS)), "utf-8-sig")
    return directory / "t.jsonl"


def as_json_list(directory):
    (directory / "t.json").write_text(json.dumps(ROWS))
    return directory / "t.json"


def as_json_mapping(directory):
    entries = {row["image"]: {k: v for k, v in row.items() if k != "image"} for row in ROWS}
    (directory / "t.json").write_text(json.dumps(entries))
    return directory / "t.json"


FORMS = (as_csv, as_semicolons_with_mark, as_utf16_tsv, as_utf16_without_mark, as_gzip)
JSON_FORMS = (as_json_lines, as_json_list, as_json_mapping)


@pytest.mark.parametrize("form", FORMS + JSON_FORMS)
def test_every_form_gives_the_same_examples(form, directory):
    found = by_type(opened(form(directory)))
    assert set(found) == {"caption", "qa"}
    assert [one["captions"] for one in found["caption"]] == [[row["text"]] for row in ROWS]
    assert [one["answers"] for one in found["qa"]] == [["bus"], ["dog"]]
    assert [one["image_id"] for one in found["qa"]] == ["a", "b"]
    assert found["qa"][1]["image"] == (directory / "sub" / "b.png").read_bytes()


def test_a_mapping_of_image_to_captions(directory):
    (directory / "t.json").write_text(json.dumps({"a.png": "one", "c.png": ["two", "three"]}))
    records = opened(directory / "t.json")
    assert [records[n]["captions"] for n in range(2)] == [["one"], ["two", "three"]]


@pytest.mark.parametrize(
    ("cells", "options", "box"),
    [
        ({"bbox": "[1, 2, 11, 12]"}, {}, [1, 2, 11, 12]),
        ({"box": "1 2 11 12"}, {}, [1, 2, 11, 12]),
        ({"box": "1,2,10,10"}, {"box_form": "xywh"}, [1, 2, 11, 12]),
        ({"xmin": 1, "ymin": 2, "xmax": 11, "ymax": 12}, {}, [1, 2, 11, 12]),
        ({"x": 1, "y": 2, "w": 10, "h": 10}, {}, [1, 2, 11, 12]),
        ({"box": "0.25 0.5 0.5 1"}, {"boxes": "fractions"}, [10, 10, 20, 20]),
        ({"r": "1;2;11;12"}, {"box": "r"}, [1, 2, 11, 12]),
    ],
)
def test_boxes_however_they_are_written(cells, options, box, directory):
    path = write(directory / "t.csv", [{"image": "a.png", "phrase": "the bus", **cells}])
    [example] = by_type(opened(path, **options))["visual_grounding"]
    np.testing.assert_allclose(example["boxes"], [box])
    assert example["refexps"] == ["the bus"]
    assert example["refexp_box_index"] == [0]


def test_objects_of_an_image_folder(directory):
    objects = {"bbox": [[1, 2, 10, 10], [0, 0, 5, 5]], "categories": ["bus", 7]}
    line = json.dumps({"file_name": "a.png", "objects": objects})
    (directory / "metadata.jsonl").write_text(line)
    [example] = by_type(opened(directory / "metadata.jsonl", box_form="xywh"))["detection"]
    np.testing.assert_allclose(example["boxes"], [[1, 2, 11, 12], [0, 0, 5, 5]])
    assert example["labels"] == ["bus", "7"]


def test_four_numbers_in_a_text_are_no_box(directory):
    path = write(directory / "t.csv", [{"image": "a.png", "caption": "1 2 3 4"}])
    assert opened(path)[0]["captions"] == ["1 2 3 4"]


def test_what_is_missing_is_left_out_by_reason(directory):
    lines = ["image,question,answer", "a.png,what?,bus", "a.png,,", "c.png,who?,", "c.png,x"]
    (directory / "t.csv").write_text("\n".join([*lines, "gone.png,where?,here"]))
    records = opened(directory / "t.csv")
    assert len(records) == 2
    assert records.left_out.counts == {"empty_text": 1, "no_answer": 1, "wrong_column_count": 1}
    assert "line 5" in records.left_out.named["wrong_column_count"][0]
    with pytest.raises(SourceError, match=r"gone\.png is not in"):
        records[1]


def test_splits_by_column_or_held_out(directory):
    rows = [{"image": "a.png", "caption": "one", "split": "train"}]
    rows.append({"image": "c.png", "caption": "two", "split": "val"})
    path = write(directory / "t.csv", rows)
    assert opened(path)[0]["captions"] == ["one"]
    assert opened(path, "validation")[0]["captions"] == ["two"]
    rows = [{"image": f"{name}.png", "caption": name} for name in "aacc"]
    path = write(directory / "u.csv", rows)
    train, held = (opened(path, split, held_out=2) for split in ("train", "validation"))
    assert [train[n]["image_id"] for n in range(len(train))] == ["a", "a"]
    assert [held[n]["image_id"] for n in range(len(held))] == ["c", "c"]


def test_images_lie_elsewhere(directory, tmp_path_factory):
    other = tmp_path_factory.mktemp("tables")
    rows = [{"image": str(directory / "a.png"), "caption": "whole"}]
    rows += [{"image": "sub\\b.png", "caption": "windows"}]
    records = opened(write(other / "t.csv", rows), images=str(directory))
    assert [records[n]["image_id"] for n in range(2)] == ["a", "b"]


def test_mistakes_name_what_would_be_right(directory):
    path = write(directory / "t.csv", [{"foto": "a.png", "caption": "one"}])
    with pytest.raises(SourceError, match=r"foto, caption, none .* --image=COLUMN"):
        opened(path)
    with pytest.raises(SourceError, match=r"column 'captin'; .*caption"):
        opened(path, image="foto", caption="captin")
    assert source("table", {"paths": path, "image": "foto"}).open("train")[0]["caption"] == "one"


def test_two_files_of_one_stem_are_two_images(directory):
    Image.new("RGB", (40, 20)).save(directory / "a.jpg")
    rows = [{"image": name, "text": "a bus"} for name in ("a.png", "a.jpg", "c.png", "a.png")]
    records = opened(write(directory / "t.csv", rows))
    ids = [records[number]["image_id"] for number in range(len(records))]
    assert ids == ["a.png", "a.jpg", "c", "a.png"]
