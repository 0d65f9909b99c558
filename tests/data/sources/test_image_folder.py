"""Trees of pictures: alone, in class directories, with text files."""

import pytest

from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.image_folder import ImageFolder
from tests.data.sources.checks import examples_of, same
from tests.data.sources.photographs import annotated, write_pictures


def test_images_alone(tmp_path):
    write_pictures(tmp_path, lambda one: f"deep/er/{one.number}.JPEG")
    (tmp_path / "deep" / "readme.txt").write_text("no image")
    source = ImageFolder(images=str(tmp_path), dataset="yfcc")
    for found, one in zip(examples_of(source), annotated(), strict=True):
        name = f"deep/er/{one.number}"
        same(found, {"image": one.image, "image_id": name, "dataset": "yfcc", "type": "image"})


def test_names_and_contents_that_tell_an_image(tmp_path):
    first, second, third, _ = annotated()
    for name, one in (("a.jfif", first), ("IMG_0002", second), ("c.jpg_large", third)):
        (tmp_path / name).write_bytes(one.image)
        (tmp_path / f"{name.removesuffix('.jfif')}.txt").write_text(one.captions[0])
    (tmp_path / "thesis.pdf").write_bytes(b"%PDF")
    (tmp_path / ".hidden.jpg").write_bytes(b"no image")
    source = ImageFolder(images=str(tmp_path), kind="caption")
    found = examples_of(source)
    assert [one["image_id"] for one in found] == ["IMG_0002", "a", "c.jpg_large"]
    assert [one["caption"] for one in found] == [one.captions[0] for one in (second, first, third)]
    left_out = source.open("train").left_out
    assert left_out.counts == {"unread_file": 1}
    assert left_out.named["unread_file"] == [f"{tmp_path}/thesis.pdf"]
    assert ImageFolder(images=str(tmp_path)).open("train").left_out.total == 4


def test_images_in_directories_of_classes(tmp_path):
    images = write_pictures(tmp_path / "train", lambda one: f"n{one.number % 2}/{one.number}.jpg")
    source = ImageFolder(images=str(tmp_path / "{split}"), kind="classification")
    found = examples_of(source)
    assert [one["label"] for one in found] == ["n0", "n0", "n1", "n1"]
    assert [one["image_id"] for one in found] == ["n0/102", "n0/104", "n1/101", "n1/103"]
    names = tmp_path / "names.txt"
    names.write_text("n0 tench, Tinca tinca\nn1 goldfish\n")
    words = ImageFolder(images=images, kind="classification", label_names=str(names))
    assert [one["label"] for one in examples_of(words)][1:3] == ["tench, Tinca tinca", "goldfish"]
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("n1 goldfish\n")
    records = ImageFolder(images=images, kind="classification", label_names=str(fewer))
    with pytest.raises(SourceError, match=r"train/n0/102\.jpg: .*class 'n0'"):
        records.open("train")[0]


def test_images_with_captions(tmp_path):
    images = write_pictures(tmp_path)
    for one in annotated()[:3]:
        (tmp_path / f"{one.number}.txt").write_text(f"{one.captions[0]}\n")
    (tmp_path / "102.txt").write_bytes(b"\xff")
    records = ImageFolder(images=images, kind="caption").open("train")
    one = annotated()[0]
    texts = {"captions": [one.captions[0]], "caption": one.captions[0]}
    same(records[0], {"image": one.image, "image_id": "101", "type": "caption"} | texts)
    with pytest.raises(SourceError, match=r"102\.jpg: 'utf-8'"):
        records[1]
    with pytest.raises(SourceError, match=r"104\.jpg: .*No such file.*104\.txt"):
        records[3]


def test_equal_names_in_two_directories(tmp_path):
    first, second = annotated()[:2]
    for directory, one in (("a", first), ("b", second)):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "1.jpg").write_bytes(one.image)
    found = examples_of(ImageFolder(images=f"{tmp_path}/a, {tmp_path}/b"))
    assert [one["image"] for one in found] == [first.image, second.image]


def test_mistakes_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"ImageFolder: .*split 'train'"):
        ImageFolder(images=str(tmp_path / "empty")).open("train")
    with pytest.raises(ValueError, match=r"image 'captions'; .*caption"):
        ImageFolder(images="x", kind="captions")


def test_two_files_of_one_stem_are_two_images(tmp_path):
    first, second, *_ = annotated()
    for name in ("a.jpg", "a.png", "b.png"):
        (tmp_path / name).write_bytes((first if name == "a.jpg" else second).image)
    ids = [one["image_id"] for one in examples_of(ImageFolder(images=str(tmp_path)))]
    assert ids == ["a.jpg", "a.png", "b"]
    (tmp_path / "b.png").unlink()
    (tmp_path / "a.txt").write_text("of both")
    found = examples_of(ImageFolder(images=str(tmp_path), kind="caption"))
    assert [(one["image_id"], one["caption"]) for one in found] == [
        ("a.jpg", "of both"),
        ("a.png", "of both"),
    ]
