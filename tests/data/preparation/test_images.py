"""Images as people have them, through the command: turned, cut off, transparent, deep."""

import base64
import json

import numpy as np
import pytest
from PIL import Image

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.ops.image import decode_image, decode_picture
from ofa_jax.data.ops.image_files import read_header
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.box_units import placed_boxes
from ofa_jax.inspect import main as inspect
from tests.data.preparation import images as image_files
from tests.shared import requires_cases, shared_dir


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def phone(orientation: int, form: str = "JPEG") -> bytes:
    """An image whose upright form has 64 x 48 pixels, stored as a camera that was turned does."""
    upright = Image.fromarray(image_files.pixels(64, 48))
    turn = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}.get(orientation)
    return image_files.encoded(
        upright if turn is None else upright.transpose(turn), form, exif=exif(orientation)
    )


def write_tsv(directory, images: list[bytes], box: str = "2,4,60,40") -> str:
    """A file of the layout `refcoco`: each image with one box."""
    path = directory / "refcoco.tsv"
    rows = [
        f"{number}\t{number}\tthe bus\t{box}\t{base64.b64encode(image).decode()}\n"
        for number, image in enumerate(images)
    ]
    path.write_text("".join(rows))
    return str(path)


def prepare(path: str, out, *options: str) -> tuple[dict, list[dict]]:
    """Runs the command; the manifest's entry and the examples."""
    command = ["--source=tsv", "--layout=refcoco", f"--paths={path}", f"--out={out}"]
    assert run_prepare([*command, "--processes=1", *options]) == 0
    entry = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    records = PreparedSource(str(out)).open("train")
    return entry, [records[number] for number in range(len(records))]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_boxes_of_upright_images_by_option(tmp_path, caplog, form):
    path = write_tsv(tmp_path, [phone(1, form), phone(6, form), phone(3, form)])
    entry, examples = prepare(path, tmp_path / "stored")
    # The box of the second is outside of the stored pixels, which are 48 x 64.
    assert [example["image_id"] for example in examples] == ["0", "2"]
    assert entry["dropped"]["box_outside"]["count"] == 1
    assert "rotation tag" in entry["dropped"]["box_outside"]["examples"][0]["detail"]
    assert entry["notes"] == {"rotation_tag": 2}
    assert "2 images carry a rotation tag (EXIF); boxes are taken as pixels of" in caplog.text
    assert examples[1]["image"] == phone(3, form)
    caplog.clear()
    entry, examples = prepare(path, tmp_path / "upright", "--upright")
    assert entry["notes"] == {"rotation_tag": 2}
    assert "2 images carry a rotation tag (EXIF)\n" in caplog.text
    for example in examples:
        np.testing.assert_array_equal(example["boxes"], [[2, 4, 60, 40]])
        assert read_header(example["image"]).orientation == 1
        found = decode_image(example["image"]).astype(int)
        assert np.abs(found - decode_image(phone(1))).mean() < 4
    assert len(examples) == 3
    assert examples[0]["image"] == phone(1, form)


def test_fractions_are_those_of_the_upright_image_by_option(tmp_path):
    path = write_tsv(tmp_path, [phone(6)], box="0.25,0.5,0.75,1")
    _, [example] = prepare(path, tmp_path / "stored", "--boxes=fractions")
    np.testing.assert_allclose(example["boxes"], [[12, 32, 36, 64]])  # of 48 x 64 pixels
    _, [example] = prepare(path, tmp_path / "upright", "--boxes=fractions", "--upright")
    np.testing.assert_allclose(example["boxes"], [[16, 24, 48, 48]])  # of 64 x 48 pixels
    _, [example] = prepare(
        path, tmp_path / "small", "--boxes=fractions", "--upright", "--resize_short_side=24"
    )
    np.testing.assert_allclose(example["boxes"], [[8, 12, 24, 24]])


def test_boxes_follow_turned_images_that_were_resized():
    boxes = np.array([[10, 20, 100, 200]], np.float32)
    image = phone(6)  # 48 x 64 as it is stored, 64 x 48 upright
    for declared, expected, note in (
        ((640, 480), [1, 2, 10, 20], "upright_boxes"),
        ((480, 640), [1, 2, 10, 20], "stored_boxes"),
    ):
        found, told = placed_boxes(boxes, image, declared, follow=True)
        np.testing.assert_allclose(found, [expected])
        assert told == note


def test_turned_images_are_made_smaller_upright(tmp_path):
    path = write_tsv(tmp_path, [phone(6)])
    _, [example] = prepare(path, tmp_path / "out", "--upright", "--resize_short_side=24")
    assert decode_image(example["image"]).shape == (24, 32, 3)
    np.testing.assert_allclose(example["boxes"], [[1, 2, 30, 20]])


def test_cut_images_by_option(tmp_path, caplog):
    whole = image_files.jpeg(64, 48)
    cut = whole[: len(whole) * 2 // 3]
    hidden = cut + b"\xff\xd9"
    path = write_tsv(tmp_path, [whole, cut, hidden])
    entry, examples = prepare(path, tmp_path / "drop")
    assert [example["image_id"] for example in examples] == ["0"]
    assert entry["dropped"]["truncated_image"]["count"] == 2
    assert entry["notes"] == {}
    entry, examples = prepare(path, tmp_path / "decode", "--truncated_images=decode")
    assert entry["dropped"] == {}
    assert entry["notes"] == {"truncated_image": 2}
    assert "2 images are cut off" in caplog.text
    reference = np.asarray(decode_picture(cut, truncated="decode")).astype(int)
    for example in examples[1:]:
        found = decode_picture(example["image"])  # what is stored is whole
        assert not found.truncated
        assert np.abs(np.asarray(found) - reference).mean() < 4


def test_deep_and_transparent_images_keep_their_bytes_and_are_resized_as_they_are_seen(tmp_path):
    grey = image_files.pixels(64, 48)[:, :, 0]
    deep = image_files.encoded(grey.astype(np.uint16) * 257, "PNG")
    layers = np.dstack([np.full((48, 64, 3), (0, 255, 0)), np.zeros((48, 64))]).astype(np.uint8)
    clear = image_files.encoded(layers, "PNG")
    path = write_tsv(tmp_path, [deep, clear])
    _, examples = prepare(path, tmp_path / "kept")
    assert [example["image"] for example in examples] == [deep, clear]
    _, examples = prepare(path, tmp_path / "small", "--resize_short_side=24")
    small = Image.fromarray(grey).resize((32, 24), Image.Resampling.BICUBIC)
    found = [decode_image(example["image"]).astype(int) for example in examples]
    assert np.abs(found[0][:, :, 0] - np.asarray(small)).mean() < 3
    assert (found[1] == 255).all()


def test_formats_without_a_decoder_are_a_reason_of_their_own(tmp_path):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    path = write_tsv(tmp_path, [image_files.jpeg(), heic])
    entry, _ = prepare(path, tmp_path / "out")
    reason = next(iter(entry["dropped"]))
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        assert reason == "missing_decoder"
        assert "pillow-heif" in entry["dropped"][reason]["examples"][0]["detail"]


def test_settings_name_what_is_right():
    with pytest.raises(ValueError, match=r"truncated_images .*'drop', 'deco"):
        ConversionSettings(truncated_images="keep")


def test_inspection_counts_rotation_tags_and_cut_files(tmp_path, capsys):
    path = write_tsv(tmp_path, [phone(1), phone(6), phone(3, "TIFF"), image_files.jpeg()[:-99]])
    assert inspect([path, f"--out={tmp_path / 'page'}", "--source=tsv", "--layout=refcoco"]) == 0
    printed = capsys.readouterr().out
    assert "rotation tag 2 images carry one" in printed
    assert "prepare --upright turns" in printed
    assert "image file is cut off: 1" in printed


@requires_cases
def test_case_of_boxes_in_turned_photographs(tmp_path, caplog):
    case = shared_dir() / "cases" / "exif_boxes"
    command = ["--source=coco_instances", f"--annotations={case / 'c.json'}"]
    command += [f"--images={case / 'img'}", "--processes=1"]
    run_prepare([*command, f"--out={tmp_path / 'stored'}"])
    assert "1 images carry a rotation tag" in caplog.text
    assert run_prepare([*command, f"--out={tmp_path / 'upright'}", "--upright"]) == 0
    stored, upright = (
        json.loads((tmp_path / name / "manifest.json").read_text())["splits"]["train"]
        for name in ("stored", "upright")
    )
    assert stored["notes"] == upright["notes"] == {"rotation_tag": 1}
    assert upright["examples"] == 2


@requires_cases
@pytest.mark.parametrize("name", ["96x160_png", "96x160_jpeg_exif6", "96x160_tiff_exif6"])
def test_cases_of_stored_pixels_lose_nothing(tmp_path, name):
    path = shared_dir() / "cases" / "refcoco" / name / "refcoco_val.tsv"
    entry, examples = prepare(str(path), tmp_path / "out")
    assert entry["dropped"] == {}
    assert len(examples) == 8
    assert all(decode_image(example["image"]).shape == (160, 96, 3) for example in examples)
