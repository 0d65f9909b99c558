"""Webdataset tars written with the standard library, as img2dataset lays them out."""

import io
import tarfile

import pytest

from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.webdataset import WebdatasetSource
from tests.data.sources.checks import examples_of, same
from tests.data.sources.photographs import annotated
from tests.data.sources.tar_files import sample, write_tar


def test_images_with_captions(tmp_path):
    photographs = annotated()
    for number in (0, 1):
        files = {"./": b""}
        for one in photographs[2 * number : 2 * number + 2]:
            files |= sample(one, "./", txt=f"{one.captions[0]}\n")
        # A sample that img2dataset could not download has no image.
        files[f"./{number}.txt"] = b"lost"
        del files["./"]
        write_tar(tmp_path / f"0000{number}.tar", files)
    source = WebdatasetSource(str(tmp_path / "*.tar"), dataset="cc12m")
    for found, one in zip(examples_of(source), photographs, strict=True):
        expected = {
            "image": one.image,
            "image_id": f"{one.number:09d}",
            "captions": [one.captions[0]],
            "caption": one.captions[0],
            "dataset": "cc12m",
            "type": "caption",
        }
        same(found, expected)


def test_captions_of_the_metadata(tmp_path):
    path = write_tar(tmp_path / "a.tar", sample(annotated()[0], "directory/"))
    [found] = examples_of(WebdatasetSource(path))
    assert found["captions"] == [annotated()[0].captions[1]]
    assert found["image_id"] == "directory/000000101"
    records = WebdatasetSource(path, caption_key="alt").open("train")
    message = r"a\.tar, sample directory/000000101: its JSON file has no text under 'alt'"
    with pytest.raises(SourceError, match=message):
        records[0]


def test_images_alone_and_with_classes(tmp_path):
    first, second = annotated()[:2]
    path = write_tar(tmp_path / "n01440764.tar", {"n01440764_18.JPEG": first.image})
    [found] = examples_of(WebdatasetSource(path, kind="image"))
    same(found, {"image": first.image, "image_id": "n01440764_18", "type": "image"})
    [found] = examples_of(WebdatasetSource(path, kind="classification"))
    assert (found["label"], found["type"]) == ("n01440764", "classification")
    with pytest.raises(SourceError, match=r"no caption .*only jpeg"):
        WebdatasetSource(path).open("train")[0]
    path = write_tar(tmp_path / "b.tar", sample(second, cls="7\n"))
    [found] = examples_of(WebdatasetSource(path, kind="classification"))
    assert found["label"] == "7"


def test_damaged_tars_are_named(tmp_path):
    files = sample(annotated()[0], txt="one") | sample(annotated()[1], txt="two")
    whole = write_tar(tmp_path / "whole.tar", files)
    data = (tmp_path / "whole.tar").read_bytes()
    for number, size in enumerate((len(data) // 2, 3000, 700)):
        path = tmp_path / f"cut{number}.tar"
        path.write_bytes(data[:size])
        with pytest.raises(SourceError, match=rf"cut{number}\.tar(, sample .*: the tar)? is cut"):
            WebdatasetSource(f"{whole},{path}").open("train")
    path = write_tar(tmp_path / "c.tar", files, "w:gz")
    with pytest.raises(SourceError, match=r"c\.tar .*uncompressed"):
        WebdatasetSource(path).open("train")
    path = write_tar(tmp_path / "texts.tar", {"a.txt": b"a"})
    with pytest.raises(SourceError, match=r"texts\.tar: .*no sample"):
        WebdatasetSource(path).open("train")
    path = write_tar(tmp_path / "text.tar", files | {"000000102.txt": b"\xff"})
    with pytest.raises(SourceError, match=r"text\.tar, sample 000000102: 'utf-8'"):
        WebdatasetSource(path).open("train")[1]
    with pytest.raises(ValueError, match=r"sample 'captions'; .*caption"):
        WebdatasetSource(whole, kind="captions")


def named(*names):
    """Files of these names, each image and text of its own."""
    files = {}
    for number, name in enumerate(names):
        picture = name.lower().endswith((".jpg", ".png"))
        files[name] = annotated()[number // 2 % 4].image if picture else name.encode()
    return files


@pytest.mark.parametrize(
    ("names", "expected", "left_out"),
    [
        (("a.jpg", "a.txt", "b.JPG", "b.TXT"), {"a": "a.txt", "b": "b.TXT"}, {}),
        (("22.00.jpg", "22.00.txt", "22.01.jpg", "22.01.txt"),
         {"22.00": "22.00.txt", "22.01": "22.01.txt"}, {}),
        (("i.final.jpg", "i.final.txt"), {"i.final": "i.final.txt"}, {}),
        (("s.input.jpg", "s.output.txt"), {"s": "s.output.txt"}, {}),
        (("v1.0/a.jpg", "v1.0/a.txt"), {"v1.0/a": "v1.0/a.txt"}, {}),
        (("a.jpg", "a.txt", "a.1.jpg", "a.1.txt"), {"a": "a.txt", "a.1": "a.1.txt"}, {}),
        (("a.jpg", "a.txt", "a.seg.png"), {"a": "a.txt"}, {"unread_file": 1}),
        (("a.jpg", "a.txt", "a.npy"), {"a": "a.txt"}, {"unread_file": 1}),
        (("a.jpg", "a.png", "a.txt"), {"a": "a.txt"}, {"unread_file": 1}),
        (("a.jpg", "a.txt", "b.txt", "b.json"), {"a": "a.txt"}, {"no_image": 1}),
        (("a.jpg", "a.txt", "1.x.jpg", "1.x.txt", "1.y.txt", "1.z.jpg"),
         {"a": "a.txt", "1.x": "1.x.txt", "1.z": None}, {"no_image": 1}),
        (("a.jpg", "a.txt", "._a.jpg", "__MACOSX/._a.jpg", ".DS_Store", "README"),
         {"a": "a.txt"}, {"unread_file": 4}),
    ],
)  # fmt: skip
def test_names_with_dots(tmp_path, names, expected, left_out):
    records = WebdatasetSource(write_tar(tmp_path / "a.tar", named(*names))).open("train")
    assert len(records) == len(expected)
    for index, (key, caption) in enumerate(expected.items()):
        if caption is None:
            with pytest.raises(SourceError, match=f"sample {key}: .*caption"):
                records[index]
        else:
            assert (records[index]["image_id"], records[index]["caption"]) == (key, caption)
    assert records.left_out.counts == left_out


def test_a_key_twice_makes_no_pair(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, key in enumerate(("a", "b", "a")):
            for name, data in sample(annotated()[number], txt=f"caption {number}").items():
                info = tarfile.TarInfo(f"{key}.{name.partition('.')[2]}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    records = WebdatasetSource(str(tmp_path / "a.tar")).open("train")
    assert [records[index]["caption"] for index in range(len(records))] == ["caption 1"]
    assert records.left_out.counts == {"duplicated_id": 1}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_directories_and_long_names(tmp_path, form):
    """Entries of directories are no files; names over 100 bytes stand in headers of their own."""
    one, key = annotated()[0], f"{'a_long_name_' * 15}/0"
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for name, data in ((".", None), (f"{key}.jpg", one.image), (f"{key}.txt", b"a bus")):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    records = WebdatasetSource(str(tmp_path / "a.tar")).open("train")
    assert [(records[0]["image_id"], records[0]["caption"])] == [(key, "a bus")]
    assert records.left_out.counts == {}


def test_equal_keys_of_two_tars_are_two_samples(tmp_path):
    paths = [
        write_tar(tmp_path / f"{number}.tar", {"a.jpg": one.image, "a.txt": b"%d" % number})
        for number, one in enumerate(annotated()[:2])
    ]
    records = WebdatasetSource(",".join(paths)).open("train")
    assert [records[number]["caption"] for number in range(len(records))] == ["0", "1"]


def test_captions_that_say_nothing(tmp_path):
    first, second = annotated()[:2]
    files = {"a.jpg": first.image, "a.json": b'{"caption": null}'}
    files |= {"b.jpg": second.image, "b.txt": "\ufeffa bus".encode()}
    records = WebdatasetSource(write_tar(tmp_path / "a.tar", files)).open("train")
    with pytest.raises(SourceError, match=r"'caption' .*JSON file .*missing"):
        records[0]
    assert records[1]["caption"] == "a bus"
