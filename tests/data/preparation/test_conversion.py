"""One example at a time: every reason, and what is stored of the good ones."""

import io

import numpy as np
import pytest
from PIL import Image

from ofa_jax.data.ops.image import decode_image
from ofa_jax.data.ops.image_tokenizer import PatchCodebook, load_image_tokenizer
from ofa_jax.data.preparation.conversion import convert, read_record
from ofa_jax.data.preparation.reasons import Reason, RejectedExample, one_line, reading_rejection
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.sources.tsv import TsvSource
from ofa_jax.data.steps.image import CheckBoxes
from tests.data.preparation import images as image_files

DEFAULT = ConversionSettings()
JPEG = image_files.jpeg(64, 48)
CAPTION = {"type": "caption", "image_id": "c", "image": JPEG, "captions": ["a red bus"]}
QUESTION = {
    "type": "qa",
    "image_id": "q",
    "image": JPEG,
    "question": "what is it?",
    "answers": ["a bus", "a car"],
    "answer_conf": [0.9, 0.3],
    "captions": [""],
}
GROUNDING = {
    "type": "visual_grounding",
    "image_id": "g",
    "image": JPEG,
    "boxes": np.array([[4, 6, 40, 30]], np.float32),
    "refexps": ["the bus"],
    "refexp_box_index": [0],
}
DETECTION = {
    "type": "detection",
    "image_id": "d",
    "image": JPEG,
    "boxes": np.array([[4, 6, 40, 30], [0, 0, 64, 48]], np.float32),
    "labels": ["bus", "road"],
}
TEXT = {"type": "text", "image_id": "t", "text": "one two three"}
PICTURE = {"type": "image", "image_id": "i", "image": JPEG, "image_codes": np.arange(4)}


def boxed(*box):
    return {**GROUNDING, "boxes": np.array([box], np.float32)}


def reason_of(example, settings=DEFAULT):
    with pytest.raises(RejectedExample) as error:
        convert(example, settings)
    assert error.value.detail == one_line(error.value.detail)
    return error.value.reason


@pytest.mark.parametrize("example", [CAPTION, QUESTION, GROUNDING, DETECTION, TEXT, PICTURE])
def test_good_examples_are_stored_as_they_are(example):
    converted = convert(example, DEFAULT)
    assert converted.example == example or all(
        np.array_equal(converted.example[name], value) for name, value in example.items()
    )
    assert converted.removed_boxes == ()


BAD = {
    "half a surrogate": (CAPTION | {"captions": ["a \ud800"]}, Reason.INVALID_UTF8),
    "list too short": (DETECTION | {"labels": ["bus"]}, Reason.BAD_FIELDS),
    "unknown kind": (CAPTION | {"type": "captoin"}, Reason.BAD_FIELDS),
    "number for text": (CAPTION | {"captions": [3]}, Reason.BAD_FIELDS),
    "box that is not there": (GROUNDING | {"refexp_box_index": [1]}, Reason.BAD_FIELDS),
    "no bytes": (CAPTION | {"image": b""}, Reason.EMPTY_IMAGE),
    "no image": ({**CAPTION, "image": None} | {"image": b""}, Reason.EMPTY_IMAGE),
    "html": (CAPTION | {"image": b"<html></html>"}, Reason.UNDECODABLE_IMAGE),
    "cut JPEG": (CAPTION | {"image": JPEG[: len(JPEG) // 2]}, Reason.TRUNCATED_IMAGE),
    "cut header": (CAPTION | {"image": JPEG[:20]}, Reason.TRUNCATED_IMAGE),
    "cut last bytes": (CAPTION | {"image": JPEG[:-2]}, Reason.TRUNCATED_IMAGE),
    "bomb": (CAPTION | {"image": image_files.png_bomb(40_000, 40_000)}, Reason.TOO_MANY_PIXELS),
    "1-pixel side": (CAPTION | {"image": image_files.jpeg(64, 1)}, Reason.SIDE_TOO_SHORT),
    "20,000-pixel side": (CAPTION | {"image": image_files.jpeg(8, 20_000)}, Reason.SIDE_TOO_LONG),
    "CMYK": (CAPTION | {"image": image_files.cmyk_jpeg()}, Reason.CMYK_IMAGE),
    "no box": (GROUNDING | {"boxes": np.zeros((0, 4), np.float32)}, Reason.NO_BOX),
    "NaN": (boxed(0, 0, np.nan, 4), Reason.BOX_NOT_FINITE),
    "infinite": (boxed(0, 0, np.inf, 4), Reason.BOX_NOT_FINITE),
    "inverted": (boxed(30, 6, 4, 30), Reason.BOX_INVERTED),
    "no area": (boxed(30, 6, 30, 30), Reason.BOX_DEGENERATE),
    "right of it": (boxed(70, 6, 90, 30), Reason.BOX_OUTSIDE),
    "sticks out": (boxed(4, 6, 40, 50), Reason.BOX_OUTSIDE),
    "every box": (
        DETECTION | {"boxes": np.array([[9, 9, 0, 0], [5, 5, 2, 2]], np.float32)},
        Reason.BOX_INVERTED,
    ),
    "fractions": (boxed(0.1, 0.2, 0.6, 0.6), Reason.BOX_IN_FIRST_PIXEL),
    "blank caption": (CAPTION | {"captions": [" "]}, Reason.EMPTY_TEXT),
    "no caption": (CAPTION | {"captions": []}, Reason.EMPTY_TEXT),
    "blank question": (QUESTION | {"question": ""}, Reason.EMPTY_TEXT),
    "blank answer": (QUESTION | {"answers": ["", "a car"]}, Reason.EMPTY_TEXT),
    "blank label": (DETECTION | {"labels": ["bus", " "]}, Reason.EMPTY_TEXT),
    "blank text": (TEXT | {"text": " \n"}, Reason.EMPTY_TEXT),
    "10,000 words": (CAPTION | {"captions": ["word " * 10_000]}, Reason.TEXT_TOO_LONG),
    "no language": (CAPTION | {"captions": ["x" * 20_000]}, Reason.TEXT_TOO_LONG),
    "NaN confidence": (QUESTION | {"answer_conf": [0.9, float("nan")]}, Reason.BAD_CONFIDENCE),
    "confidence of 100": (QUESTION | {"answer_conf": [0.9, 100.0]}, Reason.BAD_CONFIDENCE),
    "negative code": (PICTURE | {"image_codes": np.array([-1])}, Reason.BAD_CODES),
}


@pytest.mark.parametrize(("example", "reason"), BAD.values(), ids=BAD)
def test_bad_examples_have_their_reason(example, reason):
    assert reason_of(example) == reason


def test_every_reason_is_explained():
    assert all(reason.meaning for reason in Reason)
    assert len({reason.value for reason in Reason}) == len(Reason)


def test_damage_in_the_middle_of_a_png_is_no_cut():
    data = bytearray(image_files.encoded(image_files.pixels(64, 48), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason_of(CAPTION | {"image": bytes(data)}) == Reason.UNDECODABLE_IMAGE


@pytest.mark.parametrize(
    ("settings", "example", "reason"),
    [
        ({"min_side": 49}, CAPTION, Reason.SIDE_TOO_SHORT),
        ({"max_side": 63}, CAPTION, Reason.SIDE_TOO_LONG),
        ({"max_pixels": 64 * 48 - 1}, CAPTION, Reason.TOO_MANY_PIXELS),
        ({"max_aspect": 1.3}, CAPTION, Reason.ASPECT_TOO_HIGH),
        ({"min_words": 4}, CAPTION, Reason.TEXT_TOO_SHORT),
        ({"max_words": 2}, CAPTION, Reason.TEXT_TOO_LONG),
        ({"max_text_words": 2}, TEXT, Reason.TEXT_TOO_LONG),
        ({"min_box_side": 25}, GROUNDING, Reason.BOX_DEGENERATE),
        ({"box_tolerance": 0}, boxed(4, 6, 64.5, 30), Reason.BOX_OUTSIDE),
    ],
)
def test_filters(settings, example, reason):
    assert reason_of(example, ConversionSettings(**settings)) == reason
    convert(example, DEFAULT)


def test_long_plain_texts_are_no_long_captions():
    convert(TEXT | {"text": "word " * 20_000}, DEFAULT)


@pytest.mark.parametrize(
    "settings",
    [
        {"jpeg_quality": 96},
        {"resize_short_side": 0},
        {"max_aspect": 0.5},
        {"max_side": 4, "min_side": 5},
        {"cmyk": "keep"},
        {"code_size": 255},
        {"max_pixels": 1 << 40},
        {"image_tokenizer": "a.npz", "resize_short_side": 64},
    ],
)
def test_settings_that_cannot_work_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ConversionSettings(**settings)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_resizing_moves_boxes_with_the_image(form):
    image = image_files.pixels(640, 427)
    example = DETECTION | {
        "image": image_files.encoded(image, form),
        "boxes": np.array([[64, 42.7, 320, 213.5], [0, 0, 640, 427]], np.float32),
    }
    stored = convert(example, ConversionSettings(resize_short_side=100)).example
    with Image.open(io.BytesIO(stored["image"])) as found:
        assert found.format == "JPEG"
        assert found.size == (150, 100)
        expected = Image.fromarray(image).resize((150, 100), Image.Resampling.BICUBIC)
        difference = np.asarray(found, np.float32) - np.asarray(expected, np.float32)
        assert np.abs(difference).mean() < 3
    np.testing.assert_allclose(
        stored["boxes"], [[15, 10, 75, 50], [0, 0, 150, 100]], rtol=1e-5, atol=1e-4
    )
    assert stored["labels"] == DETECTION["labels"]


def test_images_are_never_enlarged_nor_written_again_without_need():
    for side in (48, 49, 1000):
        stored = convert(CAPTION, ConversionSettings(resize_short_side=side)).example
        assert stored["image"] is JPEG


def test_reduced_decoding_of_large_images_gives_the_same_image():
    data = image_files.jpeg(1200, 800)
    stored = convert(CAPTION | {"image": data}, ConversionSettings(resize_short_side=80)).example
    found = decode_image(stored["image"]).astype(np.float32)
    whole = Image.fromarray(decode_image(data)).resize((120, 80), Image.Resampling.BICUBIC)
    assert np.abs(found - np.asarray(whole, np.float32)).mean() < 3


def test_quality_changes_the_bytes_and_nothing_else():
    sizes = []
    for quality in (30, 90):
        settings = ConversionSettings(resize_short_side=32, jpeg_quality=quality)
        stored = convert(CAPTION, settings).example["image"]
        assert stored == convert(CAPTION, settings).example["image"]
        assert decode_image(stored).shape == (32, 43, 3)
        sizes.append(len(stored))
    assert sizes[0] < sizes[1]


def test_printing_colours_can_be_converted():
    example = CAPTION | {"image": image_files.cmyk_jpeg()}
    stored = convert(example, ConversionSettings(cmyk="convert")).example
    with Image.open(io.BytesIO(stored["image"])) as found:
        assert (found.mode, found.size) == ("RGB", (64, 48))


def test_pixels_are_stored_without_loss():
    image = image_files.pixels(31, 17)
    stored = convert(CAPTION | {"image": image}, DEFAULT).example
    np.testing.assert_array_equal(decode_image(stored["image"]), image)


def test_bad_boxes_alone_can_be_dropped():
    boxes = np.array([[30, 6, 4, 30], [4, 6, 40, 30], [0, 0, np.nan, 1], [1, 1, 9, 9]], np.float32)
    example = DETECTION | {
        "boxes": boxes,
        "labels": list("abcd"),
        "region_captions": list("ABCD"),
        "refexps": ["first", "second", "fourth", "again second"],
        "refexp_box_index": [0, 1, 3, 1],
    }
    settings = ConversionSettings()
    converted = convert(example, settings)
    np.testing.assert_array_equal(converted.example["boxes"], boxes[[1, 3]])
    assert converted.example["labels"] == ["b", "d"]
    assert converted.example["region_captions"] == ["B", "D"]
    assert converted.example["refexps"] == ["second", "fourth", "again second"]
    assert converted.example["refexp_box_index"] == [0, 1, 0]
    assert converted.removed_boxes == (Reason.BOX_INVERTED, Reason.BOX_NOT_FINITE)
    assert reason_of(boxed(30, 6, 4, 30), settings) == Reason.BOX_INVERTED
    only_bad = example | {"refexps": ["first"], "refexp_box_index": [0]}
    assert reason_of(only_bad, settings) == Reason.NO_BOX


def test_boxes_can_be_cut_to_the_image():
    settings = ConversionSettings(clip_boxes=True)
    stored = convert(boxed(-20, 6, 90, 30), settings).example
    np.testing.assert_array_equal(stored["boxes"], [[0, 6, 64, 30]])
    assert reason_of(boxed(64, 6, 90, 30), settings) == Reason.BOX_OUTSIDE


@pytest.fixture
def codebook(tmp_path):
    path = tmp_path / "codebook.npz"
    images = np.stack([image_files.pixels(32, 32, seed) for seed in range(4)])
    PatchCodebook.fit(images, num_codes=16, patch=4).save(path)
    return str(path)


@pytest.mark.parametrize(("part", "grid"), [("middle", 4), ("whole", 8)])
def test_image_codes_of_the_central_square(codebook, part, grid):
    settings = ConversionSettings(
        image_tokenizer=codebook, code_size=32, code_part=part, jpeg_quality=95
    )
    example = GROUNDING | {"image": image_files.jpeg(96, 64)}
    stored = convert(example, settings).example
    image = decode_image(stored["image"])
    assert image.shape == (32, 32, 3)
    assert stored["image_codes"].dtype == np.int32
    assert stored["image_codes"].shape == (grid * grid,)
    resized = Image.fromarray(decode_image(example["image"])).resize(
        (48, 32), Image.Resampling.LANCZOS
    )
    square = np.asarray(resized)[:, 8:40]
    wanted = square[8:24, 8:24] if part == "middle" else square
    expected = PatchCodebook.load(codebook).encode(wanted).reshape(-1)
    np.testing.assert_array_equal(stored["image_codes"], expected)
    # [4, 6, 40, 30] of 96 x 64, halved, shifted by 8, cut to the square
    np.testing.assert_allclose(stored["boxes"], [[0, 3, 12, 15]], atol=1e-4)
    assert reason_of(example | {"boxes": np.float32([[0, 0, 15, 9]])}, settings) == (
        Reason.BOX_CROPPED_AWAY
    )


def small_codebook():
    return PatchCodebook(np.zeros((2, 4, 4, 3)))


def test_image_tokenizers_by_name(tmp_path):
    found = load_image_tokenizer(f"{__name__}:small_codebook")
    assert found.num_codes == 2
    for name, message in (
        (str(tmp_path / "no.npz"), "there is no codebook file"),
        ("codebook", "a codebook .* or module:function"),
        ("no_such_module:make", "no_such_module"),
        (f"{__name__}:missing", "missing"),
        ("builtins:list", "ImageTokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            load_image_tokenizer(name)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1\ttwo\tthree", Reason.WRONG_COLUMN_COUNT),
        (b"1", Reason.WRONG_COLUMN_COUNT),
        (b"1\tcaf\xe9", Reason.INVALID_UTF8),
    ],
)
def test_rows_that_a_source_cannot_read(tmp_path, row, reason):
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"0\tgood\n" + row + b"\n")
    records = TsvSource((("train", str(path)),), "text").open("train")
    assert read_record(records, 0)["text"] == "good"
    with pytest.raises(RejectedExample, match="line 2") as error:
        read_record(records, 1)
    assert error.value.reason == reason


def test_images_that_are_no_base64(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"0\tQU!D\t1 2\n")
    records = TsvSource((("train", str(path)),), "image").open("train")
    with pytest.raises(RejectedExample) as error:
        read_record(records, 0)
    assert error.value.reason == Reason.UNDECODABLE_IMAGE


def test_failures_of_the_disk_are_nobodys_fault():
    class Failing:
        def __init__(self, error):
            self.error = error

        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise self.error

    with pytest.raises(OSError, match="broken disk"):
        read_record(Failing(OSError(5, "broken disk")), 0)
    for error, reason in (
        (FileNotFoundError(2, "none", "a.jpg"), Reason.MISSING_FILE),
        (KeyError("caption"), Reason.UNREADABLE_RECORD),
        (TypeError("no len at 0x7f00aa"), Reason.UNREADABLE_RECORD),
    ):
        with pytest.raises(RejectedExample) as caught:
            read_record(Failing(error), 0)
        assert caught.value.reason == reason
    assert reading_rejection(TypeError("no len at 0x7f00aa")).detail == "no len"


@pytest.mark.parametrize("tolerance", [1, 5])
def test_what_preparation_keeps_trains(tolerance):
    """Within the tolerance boxes stay, as far as training takes them."""
    settings = ConversionSettings(box_tolerance=tolerance)
    width = decode_image(JPEG).shape[1]
    box = [-tolerance, 6, width + tolerance, 30]
    kept = convert(boxed(*box), settings).example
    expected = box if tolerance == 1 else [0, 6, width, 30]
    np.testing.assert_array_equal(kept["boxes"], [expected])
    example = {**kept, "image": decode_image(kept["image"])}
    assert CheckBoxes()(example, np.random.default_rng(0)) is example
    beyond = boxed(-tolerance - 1, 6, 40, 30)
    with pytest.raises(RejectedExample, match="box_outside"):
        convert(beyond, settings)
    # All of it may lie in the tolerated margin.
    with pytest.raises(RejectedExample, match="box_degenerate"):
        convert(boxed(-tolerance, 6, -0.5 if tolerance == 5 else -1, 30), settings)
