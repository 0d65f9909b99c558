"""Splits of a data set that its files and those beside them show, and the commands for them."""

import json
import shlex

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.split_paths import usual_split
from ofa_jax.inspection.advice import advice
from ofa_jax.inspection.opening import open_data
from tests.data.preparation import images as image_files


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def captions(path, number):
    entry = {"image_id": number, "caption": f"caption {number}"}
    images = [{"id": number, "file_name": f"{number}.png"}]
    dump(path, {"images": images, "annotations": [entry]})


def images(directory, *numbers):
    directory.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", (20, 10)).save(directory / f"{number}.png")


def coco(directory):
    for number, word in enumerate(("train", "val")):
        captions(directory / "annotations" / f"captions_{word}2014.json", number)
        images(directory / f"{word}2014", number)
    return directory / "annotations" / "captions_train2014.json"


def karpathy(directory):
    entries = [
        {"split": split, "imgid": number, "filename": f"{number}.png", "sentences": [{"raw": "a"}]}
        for number, split in enumerate(("train", "val", "test", "restval"))
    ]
    dump(directory / "dataset_x.json", {"images": entries})
    images(directory / "img", 0, 1, 2, 3)
    return directory / "dataset_x.json"


def questions(directory):
    for number, word in enumerate(("train", "val")):
        asked = {"question_id": number, "image_id": number, "question": "what?"}
        given = {"question_id": number, "answers": [{"answer": "a bus"}]}
        stem = f"mscoco_{word}2014"
        about = {"data_subtype": f"{word}2014", "questions": [asked]}
        dump(directory / f"v2_OpenEnded_{stem}_questions.json", about)
        dump(directory / f"v2_{stem}_annotations.json", {"annotations": [given]})
        images(directory / "img", number)
        name = f"COCO_{word}2014_{number:012d}.jpg"
        (directory / "img" / f"{number}.png").rename(directory / "img" / name)
    return directory / "v2_OpenEnded_mscoco_train2014_questions.json"


def parquet(directory):
    directory.mkdir(exist_ok=True)
    for word, rows in (("train", 3), ("validation", 1), ("test", 2)):
        table = {"image": [image_files.jpeg()] * rows, "caption": ["a bus"] * rows}
        path = directory / f"{word}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    return directory


def table(directory):
    for word in ("train", "val"):
        images(directory, 0)
        (directory / f"{word}.csv").write_text("image,caption\n0.png,a bus\n")
    return directory / "train.csv"


def refs(directory):
    listed = [
        {
            "ann_id": 1,
            "image_id": 1,
            "split": split,
            "sentences": [{"sent": "a", "sent_id": number}],
        }
        for number, split in enumerate(("train", "val", "testA"))
    ]
    dump(directory / "refs.json", listed)
    box = {"id": 1, "image_id": 1, "bbox": [1, 1, 5, 5]}
    entry = {"id": 1, "file_name": "1.png"}
    dump(directory / "instances.json", {"images": [entry], "annotations": [box]})
    images(directory / "img", 1)
    return directory / "refs.json"


SETS = {
    "coco": (coco, "caption", {"train": 1, "validation": 1}),
    "karpathy": (karpathy, "caption", {"train": 2, "validation": 1, "test": 1}),
    "questions": (questions, "qa", {"train": 1, "validation": 1}),
    "parquet": (parquet, "caption", {"train": 3, "validation": 1, "test": 2}),
    "table": (table, "caption", {"train": 1, "validation": 1}),
    "refs": (refs, "visual_grounding", {"train": 1, "validation": 1, "testA": 1}),
}


@pytest.mark.parametrize("name", SETS)
def test_the_commands_prepare_every_split(tmp_path, monkeypatch, name):
    write, kind, expected = SETS[name]
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "raw set")
    options = {}
    if name == "refs":
        beside = {"instances": f"{path.parent}/instances.json", "images": f"{path.parent}/img"}
        options = {"format_name": "refcoco", "arguments": beside}
    opened = open_data(str(path), **options)
    assert len(opened.records) == expected["train"]
    lines = advice(opened, {kind: 1})
    commands = [line for line in lines if "ofa_jax.prepare" in line]
    for command in commands:
        words = shlex.split(command)
        assert run_prepare([*words[words.index("ofa_jax.prepare") + 1 :], "--processes=1"]) == 0
    [out] = {word for word in shlex.split(commands[0]) if word.startswith("--out=")}
    source = PreparedSource(out.removeprefix("--out="))
    assert {split: len(source.open(split)) for split in source.splits()} == expected
    evaluation = " ".join(lines[-2:])
    assert "--split" not in evaluation
    assert "EVAL_PERIOD" not in " ".join(lines)


def test_one_split_is_evaluated_as_what_it_is(tmp_path):
    captions(tmp_path / "captions_val2014.json", 1)
    images(tmp_path / "img", 1)
    opened = open_data(str(tmp_path / "captions_val2014.json"))
    assert opened.split == "validation"
    assert "--split=validation --out" in "\n".join(advice(opened, {"caption": 1}))
    captions(tmp_path / "some" / "captions.json", 1)
    images(tmp_path / "some" / "img", 1)
    opened = open_data(str(tmp_path / "some" / "captions.json"))
    lines = "\n".join(advice(opened, {"caption": 1}))
    assert "--gin.EVAL_PERIOD=0" in lines
    assert lines.endswith("runs/own_captioning/evaluation --split=train")


def test_names_of_splits():
    assert [usual_split(word) for word in ("Val", " dev ", "training", "testA", "minival")] == [
        "validation",
        "validation",
        "train",
        "testA",
        "minival",
    ]
