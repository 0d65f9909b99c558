"""COCO captions, instances and Karpathy's splits, written as their authors write them."""

import numpy as np
import pytest

from ofa_jax.data.sources.coco import CocoCaptions, CocoInstances, KarpathyCaptions
from ofa_jax.data.sources.errors import SourceError
from tests.data.sources.checks import examples_of, same
from tests.data.sources.coco_files import caption_entries, dump, file_name, image_entries, instances
from tests.data.sources.photographs import annotated, write_pictures


@pytest.fixture
def images(tmp_path):
    return write_pictures(tmp_path / "train2014", file_name)


def test_captions(tmp_path, images):
    document = {"info": {}, "images": image_entries(), "annotations": caption_entries()}
    document["images"].append({"id": 7, "file_name": "without_caption.jpg"})
    path = dump(tmp_path / "captions_train2014.json", document)
    source = CocoCaptions(annotations=path, images=images, dataset="coco")
    for found, one in zip(examples_of(source), annotated(), strict=True):
        expected = {
            "image": one.image,
            "image_id": str(one.number),
            "captions": list(one.captions),
            "caption": one.captions[0],
            "dataset": "coco",
            "type": "caption",
        }
        same(found, expected)


def test_karpathy_splits(tmp_path, images):
    entries = []
    for one, split in zip(annotated(), ("train", "val", "restval", "test"), strict=True):
        sentences = [{"raw": text, "tokens": []} for text in one.captions]
        entries.append(
            {
                "filepath": "train2014",
                "filename": file_name(one),
                "imgid": 5,
                "cocoid": one.number,
                "split": split,
                "sentences": sentences,
            }
        )
    path = dump(tmp_path / "dataset_coco.json", {"images": entries, "dataset": "coco"})
    source = KarpathyCaptions(annotations=path, images=str(tmp_path))
    first, second, third, fourth = annotated()
    found = {split: examples_of(source, split) for split in ("train", "val", "restval", "test")}
    assert [one["image"] for one in found["train"]] == [first.image, third.image]
    assert [one["captions"] for one in found["val"]] == [list(second.captions)]
    assert [one["image_id"] for one in found["restval"]] == [str(third.number)]
    assert [one["caption"] for one in found["test"]] == [fourth.captions[0]]
    assert examples_of(source, "validation") == found["val"]
    assert source.splits() == ("test", "train", "validation")
    alone = KarpathyCaptions(annotations=path, images=images, with_restval=False)
    assert [one["image"] for one in examples_of(alone)] == [first.image]
    with pytest.raises(SourceError, match="split 'testA', only restval, test, train, valid"):
        source.open("testA")

    # Flickr30k: no directories, no COCO number.
    for entry in entries:
        del entry["filepath"], entry["cocoid"]
    path = dump(tmp_path / "dataset_flickr30k.json", {"images": entries})
    [found] = examples_of(KarpathyCaptions(annotations=path, images=images), "val")
    assert (found["image"], found["image_id"]) == (second.image, "5")


def test_instances(tmp_path, images):
    path = dump(tmp_path / "instances.json", instances())
    source = CocoInstances(annotations=path, images=images)
    for found, one in zip(examples_of(source), annotated(), strict=True):
        expected = {
            "image": one.image,
            "image_id": str(one.number),
            "boxes": np.array([one.second_box, one.box], np.float32),
            "labels": ["thing", one.label],
            "objects": ["thing", one.label],
            "type": "detection",
        }
        same(found, expected)


def test_images_are_found_where_archives_were_unpacked(tmp_path):
    # Objects365 says images/v1/patch0/x.jpg; people have train/patch0/x.jpg, or x.jpg alone.
    document = instances()
    for entry in document["images"]:
        entry["file_name"] = f"images/v1/patch0/{entry['file_name']}"
    path = dump(tmp_path / "zhiyuan_objv2_train.json", document)
    one = annotated()[0]
    for number, directory in enumerate(("images/v1/patch0", "patch0", ".")):
        root = tmp_path / str(number)
        write_pictures(root / directory, file_name)
        (tmp_path / "nothing").mkdir(exist_ok=True)
        source = CocoInstances(annotations=path, images=f"{tmp_path / 'nothing'},{root}")
        assert source.open("train")[0]["image"] == one.image


def test_missing_images_are_named_when_read(tmp_path, images):
    path = dump(tmp_path / "instances.json", instances())
    (tmp_path / "train2014" / file_name(annotated()[1])).unlink()
    records = CocoInstances(annotations=path, images=images).open("train")
    assert records[0]["image"] == annotated()[0].image
    message = r"instances\.json, image 102: the image COCO_train2014_000000000102\.jpg is not in"
    with pytest.raises(SourceError, match=message) as error:
        records[1]
    assert isinstance(error.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg"])
def test_names_cannot_leave_the_directory(tmp_path, images, name):
    document = instances()
    document["images"][0]["file_name"] = name
    records = CocoInstances(annotations=dump(tmp_path / "i.json", document), images=images).open("")
    with pytest.raises(SourceError, match="is not a path inside a directory"):
        records[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "the section 'images' is missing, empty or null"),
        ({"images": [{"id": 1}]}, "bad_fields 1, unlisted_image 8 "),
        ({"images": [{"id": 7, "file_name": "x"}]}, "image 104: there is no image 104"),
        (
            {"annotations": [{"image_id": 101, "category_id": 0, "bbox": [1, 2, 3]}]},
            r"annotations\[0\]: the box \[1,",
        ),
        (
            {"annotations": [{"image_id": 101, "category_id": 0, "bbox": [1, 2, 3, "x"]}]},
            "is .*, not a number",
        ),
        ({"annotations": [3]}, r"annotations\[0\]: it has another form than this format: 3"),
        ({"categories": [{"id": 77, "name": "x"}]}, "class 90: there is no category 90"),
    ],
)
def test_files_without_one_good_entry_name_file_and_entry(tmp_path, images, change, message):
    path = dump(tmp_path / "instances.json", instances(**change))
    with pytest.raises(SourceError, match=message) as error:
        CocoInstances(annotations=path, images=images).open("train")
    assert path in str(error.value)


def test_an_entry_without_what_it_needs_is_named(tmp_path, images):
    document = instances()
    document["images"].append({"id": 1})
    path = dump(tmp_path / "instances.json", document)
    records = CocoInstances(annotations=path, images=images).open("train")
    assert records.left_out.named == {"bad_fields": [f"{path}, images[4]: it lacks 'file_name'"]}
