"""The format of a path, told from names and first bytes."""

import json
import pathlib

import pytest

from ofa_jax.data.sources import formats, tsv_writer
from ofa_jax.data.sources.array_record import shard_name, write_shard
from ofa_jax.inspection.advice import advice
from ofa_jax.inspection.opening import main_argument, open_data
from ofa_jax.inspection.recognition import UnknownFormatError, recognize
from tasks.pretrain_slots import SLOTS
from tests.inspection.raw_files import COUNT, write_raw


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("slots")
    write_raw(directory / "raw")
    return directory


# Whether a whole directory says what it is; the others hold several data sets.
DIRECTORIES = {
    "cc12m",
    "vqav2",
    "gqa",
    "refcoco",
    "refcocoplus",
    "refcocog",
    "objects365",
    "yfcc100m",
}


@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot.name)
def test_files_of_every_slot_are_recognized(directory, slot, monkeypatch):
    monkeypatch.chdir(directory)
    path = pathlib.Path(slot.arguments[main_argument(slot.format)].replace("*", "00"))
    if slot.format == "webdataset":
        path = path.parent
    if slot.name in DIRECTORIES:
        path = path.parent if path.suffix in (".json", ".p") else path
    path = path if path.exists() else next(path.parent.glob("*"))
    found = recognize(path)
    assert found.name == slot.format
    if slot.arguments.get("kind", "caption") == "caption":
        by_command = formats.source(slot.format, slot.arguments).open("train")
        by_path = formats.source(found.name, found.arguments).open("train")
        assert len(by_path) == len(by_command) == COUNT
        for number in range(4):
            assert by_path[number]["image_id"] == by_command[number]["image_id"]
            assert by_path[number].get("image") == by_command[number].get("image")


def test_images_are_looked_for_nearby(directory):
    found = recognize(directory / "raw" / "visual_genome" / "objects.json")
    assert found.arguments["images"] == str(directory / "raw" / "visual_genome" / "VG_100K")
    around = recognize(directory / "raw" / "coco" / "annotations" / "captions_train2014.json")
    assert str(directory / "raw" / "coco" / "train2014") in around.arguments["images"].split(",")
    assert "gqa" not in around.arguments["images"]


def test_directories_of_images(directory, tmp_path):
    found = recognize(directory / "raw" / "coco" / "train2017")
    assert (found.name, found.arguments["kind"]) == ("image_folder", "image")
    picture = next((directory / "raw" / "coco" / "train2017").iterdir())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(picture.read_bytes())
    (tmp_path / "a" / "1.txt").write_text("a temple")
    opened = open_data(str(tmp_path))
    assert opened.records[0]["captions"] == ["a temple"]


def refusal(path):
    with pytest.raises(UnknownFormatError) as error:
        recognize(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_what_cannot_be_told_is_said(directory, tmp_path):
    raw = directory / "raw"
    assert "give one of its files: annotations/captions_train2014.json, annotations/inst" in (
        refusal(raw / "coco")
    )
    assert "region_descriptions.json" in refusal(raw / "visual_genome")
    assert "give --source" in refusal(raw / "codebook.npz")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "(it is empty)" in refusal(empty)
    (tmp_path / "some.json").write_text(json.dumps({"a": 1}))
    assert "no known data set" in refusal(tmp_path / "some.json")
    tsv_writer.write(tmp_path / "mine.tsv", ["1\ta\tb"])
    message = refusal(tmp_path / "mine.tsv")
    assert "has 3 columns; say which layout it has, --layout image or detection" in message
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    (lonely / "objects.json").write_text((raw / "visual_genome" / "objects.json").read_text())
    (tmp_path / "some.json").unlink()
    assert "no directory of images near it; give --images" in refusal(lonely / "objects.json")


def test_prepared_directories(tmp_path):
    for name in ("b", "a"):
        write_shard(tmp_path / name / shard_name("train", 0, 1), [{"text": "x", "type": "text"}])
    assert recognize(tmp_path / "a").name == "prepared"
    assert "give one of them: a, b" in refusal(tmp_path)
    shard = tmp_path / "a" / shard_name("train", 0, 1)
    assert f"is one shard; give its directory, {tmp_path / 'a'}" in refusal(shard)
    opened = open_data(str(tmp_path / "a"))
    assert (opened.name, opened.splits, len(opened.records)) == ("a", ("train",), 1)
    assert dict(opened.facts)["manifest"].startswith("none")
    with pytest.raises(ValueError, match=r"no shards .*'test', only train"):
        open_data(str(tmp_path / "a"), split="test")


def test_explicit_formats_and_layouts(tmp_path):
    tsv_writer.write(tmp_path / "mine.tsv", ["1\ta text"])
    opened = open_data(str(tmp_path / "mine.tsv"), arguments={"layout": "text"})
    assert opened.records[0]["text"] == "a text"
    (tmp_path / "lines").write_text("one\ntwo\n")
    opened = open_data(str(tmp_path / "lines"), format_name="text", arguments={"form": "txt"})
    assert [opened.records[number]["text"] for number in (0, 1)] == ["one", "two"]
    with pytest.raises(ValueError, match=r"format 'texts'; .*text"):
        open_data(str(tmp_path / "lines"), format_name="texts")
    with pytest.raises(ValueError, match=r"nowhere .*not exist; PATH"):
        open_data(str(tmp_path / "nowhere"))


def test_scenes():
    opened = open_data("scenes_small", split="validation")
    assert (opened.scenes_preset, opened.split) == ("small", "validation")
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        open_data("scenes", split="valid")


def test_own_tables_and_what_they_can_feed(directory, tmp_path):
    picture = next((directory / "raw" / "coco" / "train2017").iterdir())
    (tmp_path / "a.jpg").write_bytes(picture.read_bytes())
    rows = {"csv": "file_name,question,answer\na.jpg,what?,bus", "tsv": "image\ttext\na.jpg\ta bus"}
    rows["jsonl"] = json.dumps({"file_name": "a.jpg", "text": "a bus"})
    rows["json"] = json.dumps({"a.jpg": "a bus"})
    for ending, content in rows.items():
        path = tmp_path / f"own.{ending}"
        path.write_text(content)
        assert recognize(tmp_path) == recognize(path)
        opened = open_data(str(tmp_path))
        kind = "qa" if ending == "csv" else "caption"
        assert (opened.records[0]["type"], opened.facts) == (kind, (("paths", str(path)),))
        path.unlink()
        words = "\n".join(advice(opened, {kind: 1}))
        assert f"--paths={path} --held_out=5 --split=train,validation --out=data/" in words
        task = {"qa": "own_vqa", "caption": "own_captioning"}[kind]
        assert f"finetune/{task}.gin" in words
        assert f"ofa_jax.eval --checkpoint=runs/{task} --task={task}" in words
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "a bus", "image": "no path"}))
    assert recognize(texts).name == "text"
