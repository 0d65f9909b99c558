"""Decoding, resizing, normalizing images."""

import base64
import hashlib
import io
import json
import textwrap
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from ofa_jax.data.ops.image import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    as_pillow,
    as_rgb,
    decode_base64,
    decode_image,
    decode_picture,
    image_size,
    read_image,
    resize_image,
    resize_square,
)
from ofa_jax.data.ops.image_files import BadImageError, TruncatedImageError
from ofa_jax.model.config import HALF
from ofa_jax.model.ofa import normalize_images
from tests.shared import fixtures_dir, requires_cases, shared_dir


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def test_resizing_and_normalizing_are_bit_exact():
    arrays = np.load(fixtures_dir() / "image_cases.npz")
    names = [name for name in arrays if name.startswith(("caption", "refcoco"))]
    assert len(names) >= 2
    for name in names:
        source = "gray" if name.endswith("gray") else "image_big" if "big" in name else "image"
        pixels = resize_square(arrays[source], arrays[name].shape[1])
        imagenet = "imagenet" in name
        settings = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else (HALF, HALF)
        official = arrays[name].transpose(1, 2, 0)
        mean, std = (np.array(values) for values in settings)
        np.testing.assert_array_equal(np.rint((official * std + mean) * 255), pixels, name)
        found = normalize_images(pixels[None], np.array([True]), None, *settings)[0]
        np.testing.assert_allclose(found, official, rtol=0, atol=5e-7 if imagenet else 0)


def test_images_without_loss_come_back():
    image = noise()
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(decode_image(encoded(image, kind)), image)
    np.testing.assert_array_equal(decode_image(encoded(image, "WEBP", lossless=True)), image)
    smooth = np.full((16, 16, 3), 90, np.uint8)
    assert np.abs(decode_image(encoded(smooth, "JPEG")).astype(int) - 90).max() <= 2


def test_large_photographs_may_be_decoded_smaller():
    data = encoded(np.full((400, 600, 3), 90, np.uint8), "JPEG")
    assert decode_picture(data).shape == (400, 600, 3)
    assert decode_picture(data, smallest=200).shape == (200, 300, 3)
    assert decode_picture(data, smallest=201).shape == (400, 600, 3)
    assert decode_picture(data, smallest=100).shape == (100, 150, 3)
    grey = encoded(np.full((400, 600), 90, np.uint8), "JPEG")
    assert decode_picture(grey, smallest=200).shape == (200, 300, 3)
    # Formats without reduced sizes are decoded whole.
    assert decode_picture(encoded(noise()), smallest=4).shape == (20, 30, 3)


def test_an_image_is_an_array_to_whoever_asks():
    picture = decode_picture(encoded(noise()))
    assert (picture.shape, picture.dtype, picture.ndim) == ((20, 30, 3), np.uint8, 3)
    assert image_size(picture) == (30, 20)
    np.testing.assert_array_equal(picture, noise())
    np.testing.assert_array_equal(picture[2:5, ::-1], noise()[2:5, ::-1])
    np.testing.assert_array_equal(as_rgb(picture), noise())
    np.testing.assert_array_equal(resize_image(picture, 30, 20), noise())
    np.testing.assert_array_equal(resize_image(picture, 7, 9), resize_image(noise(), 7, 9))
    assert as_pillow(picture) is picture.pillow
    assert as_pillow(noise()[:, :, :1]).mode == "RGB"


def test_two_images_in_one_file_give_the_first():
    buffer = io.BytesIO()
    first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (20, 200))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert np.abs(decode_image(buffer.getvalue()).astype(int) - 20).max() <= 2


def test_grey_and_palette_images_become_rgb():
    grey = noise()[:, :, 0]
    np.testing.assert_array_equal(decode_image(encoded(grey)), np.stack([grey] * 3, axis=2))
    paletted = Image.fromarray(noise()).convert("P")
    np.testing.assert_array_equal(decode_image(saved(paletted, "PNG")), paletted.convert("RGB"))
    bilevel = Image.fromarray(grey).convert("1")
    for form in ("PNG", "TIFF", "PPM"):
        np.testing.assert_array_equal(decode_image(saved(bilevel, form)), bilevel.convert("RGB"))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_other_color_spaces_become_rgb(mode):
    smooth = Image.fromarray(noise(4, 5)).resize((64, 48), Image.Resampling.BICUBIC)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(smooth, *profiles, outputMode="LAB")
    else:
        image = smooth.convert(mode)
    found = as_rgb(image).astype(int)
    assert np.abs(found - np.asarray(smooth)).mean() <= 2
    if mode in ("CMYK", "LAB"):
        np.testing.assert_array_equal(decode_image(saved(image, "TIFF")), found)


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


GREY = np.arange(256).reshape(16, 16)


@pytest.mark.filterwarnings("ignore:Saving I mode images:DeprecationWarning")
@pytest.mark.parametrize(
    ("samples", "forms"),
    [
        ((GREY * 257).astype(np.uint16), ["PNG", "TIFF", "PPM", "JPEG2000"]),
        ((GREY * 256).astype(np.uint16), ["PNG", "TIFF", "PPM"]),
        ((GREY * 257).astype(">u2"), ["TIFF", "PNG"]),
        ((GREY * 257).astype(np.int32), ["TIFF", "PNG", "PPM"]),
        (GREY.astype(np.int32), ["TIFF"]),
        ((GREY << 23).astype(np.int32), ["TIFF"]),
        ((GREY / 255).astype(np.float32), ["TIFF", "PPM"]),
        (GREY.astype(np.float32), ["TIFF", "PPM"]),
        ((GREY * 257).astype(np.float32), ["TIFF", "PPM"]),
        ((GREY / 255 * 1.04 - 0.02).astype(np.float32), []),
    ],
)
def test_more_than_eight_bits_are_scaled_to_eight(samples, forms):
    image = Image.fromarray(samples)
    expected = np.stack([GREY.astype(np.uint8)] * 3, axis=2)
    tolerance = 6 if samples.min() < 0 else 0  # what resampling adds at both ends is cut
    assert np.abs(as_rgb(image).astype(int) - expected).max() <= tolerance
    for form in forms:
        found = decode_image(saved(image, form)).astype(int)
        # Pillow's own 16 bit grey maps are scaled by their largest value.
        assert np.abs(found - expected).max() <= (form == "PPM" and samples.dtype.kind == "u")


def test_unsigned_samples_of_32_bits():
    samples = (GREY * 0x01010101).astype(np.uint32)
    # Pillow writes signed samples only: the tag that says so is patched in the file.
    data = bytearray(saved(Image.fromarray(samples.view(np.int32)), "TIFF"))
    tag = data.index((339).to_bytes(2, "little"))
    assert data[tag + 8] == 2
    with pytest.raises(BadImageError, match="negative"):
        decode_image(bytes(data))
    data[tag + 8] = 1
    np.testing.assert_array_equal(decode_image(bytes(data))[:, :, 1], GREY)


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.0, 1e6])
def test_floats_of_no_known_range_are_refused(value):
    samples = (GREY / 255).astype(np.float32)
    samples[3, 4] = value
    with pytest.raises(BadImageError, match=r"0 to 1, .*255 .*65,535"):
        decode_image(saved(Image.fromarray(samples), "TIFF"))


def transparent(mode: str) -> Image.Image:
    """The left half transparent over a green that must not be seen, the right half orange."""
    layers = np.zeros((8, 10, 4), np.uint8)
    layers[:, :5] = 0, 255, 0, 0
    layers[:, 5:] = 250, 120, 0, 255
    image = Image.fromarray(layers)
    if mode == "P":
        return image.quantize(8)
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "forms"),
    [
        ("RGBA", ["PNG", "WEBP", "TIFF", "GIF", "AVIF"]),
        ("LA", ["PNG", "TIFF"]),
        ("P", ["PNG", "WEBP"]),
        ("PA", []),
        ("RGBa", []),
        ("La", []),
    ],
)
def test_transparent_images_are_seen_on_white(mode, forms):
    image = transparent("LA").convert("La") if mode == "La" else transparent(mode)
    found = as_rgb(image)
    assert (found[:, :5] == 255).all()
    right = (134,) * 3 if mode in ("LA", "La") else (250, 120, 0)
    assert np.abs(found[:, 5:].astype(int) - right).max() <= 12
    for form in forms:
        options = {"WEBP": {"lossless": True}, "AVIF": AVIF}.get(form, {})
        decoded = decode_image(saved(image, form, **options)).astype(int)
        assert np.abs(decoded - found).max() <= (8 if form == "AVIF" else 0), form


def test_half_transparent_pixels_are_mixed_and_opaque_ones_keep_their_bits():
    layers = np.dstack([noise(), np.full((20, 30), 255, np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(layers)), noise())
    layers[..., 3] = 51
    mixed = noise() * 0.2 + 255 * 0.8
    assert np.abs(decode_image(encoded(layers)) - mixed).max() <= 1


def png(depth: int, kind: int, row: bytes, color: tuple[int, ...], width: int = 4) -> bytes:
    """A PNG of one row with one transparent color (tRNS)."""
    from tests.data.preparation.images import png_chunk

    sizes = width.to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([depth, kind, 0, 0, 0])
    key = b"".join(value.to_bytes(2, "big") for value in color)
    pixels = zlib.compress(b"\0" + row)
    chunks = (b"IHDR", sizes), (b"tRNS", key), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize(
    ("depth", "kind", "row", "color", "expected"),
    [
        (1, 0, b"\xa0", (1,), [255, 0, 255, 0]),
        (1, 0, b"\xa0", (0,), [255, 255, 255, 255]),
        (2, 0, b"\x1b", (1,), [0, 255, 170, 255]),
        (4, 0, b"\x01\x23", (1,), [0, 255, 34, 51]),
        (8, 0, b"\x00\x01\x02\x03", (1,), [0, 255, 2, 3]),
        (16, 0, b"\x00\x01\x01\x00\x02\x00\x03\x00", (256,), [0, 255, 2, 3]),
        (8, 2, bytes(range(12)), (3, 4, 5), [0, 255, 6, 9]),
        (16, 2, b"".join(bytes([n, 7]) for n in range(12)), (775, 1031, 1287), [0, 255, 6, 9]),
    ],
)
def test_one_transparent_color_of_any_depth(depth, kind, row, color, expected):
    assert decode_image(png(depth, kind, row, color))[0, :, 0].tolist() == expected


AVIF = {"quality": 100, "subsampling": "4:4:4"}


def turned(orientation: int, form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    options |= AVIF if form == "AVIF" else {}
    return encoded(np.kron(noise(3, 5), np.ones((8, 8, 1), np.uint8)), form, exif=exif, **options)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_has_one_rule_for_every_format(form, tmp_path):
    stored = decode_image(turned(1, form)).astype(int)
    for orientation in range(1, 9):
        data = turned(orientation, form)
        # Data sets: the stored pixels, whatever Pillow does by itself.
        assert np.abs(decode_image(data) - stored).max() <= (2 if form == "AVIF" else 0)
        # Photographs: upright.
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        path = tmp_path / f"{orientation}"
        path.write_bytes(data)
        for found in (
            decode_image(data, upright=True),
            read_image(path),
            read_image(str(path)),
            read_image(Image.open(path)),
        ):
            np.testing.assert_array_equal(found, upright)
        assert (decode_image(data, upright=True).shape == (24, 40, 3)) == (orientation < 5)


def test_damaged_tags_do_not_spoil_an_image():
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode_image(data, upright=True).shape == (20, 30, 3)


def test_files_of_a_person_are_named_when_they_are_bad(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.jpg: no such image file"):
        read_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"b\.jpg: cannot decode"):
        read_image(tmp_path / "b.jpg")
    np.testing.assert_array_equal(read_image(noise()), noise())


def reference_with_pillows_flag(data: bytes, monkeypatch) -> np.ndarray | None:
    """What the official code makes of a file: every one of its data sets sets Pillow's flag."""
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        try:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except Exception:
            return None


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"quality": 100, "restart_marker_rows": 1}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("WEBP", {}),
    ],
)
def test_cut_files_are_decoded_as_with_pillows_flag(form, options, monkeypatch):
    image = np.asarray(Image.fromarray(noise(30, 40)).resize((320, 240)))
    data = encoded(image, form, **options)
    decoded = 0
    for kept in (0.02, 0.2, 0.5, 0.9, 0.99, 1.0):
        cut = data[: int(len(data) * kept)]
        reference = reference_with_pillows_flag(cut, monkeypatch)
        if reference is None:
            with pytest.raises(BadImageError):
                decode_picture(cut, truncated="decode")
            continue
        found = decode_picture(cut, truncated="decode")
        np.testing.assert_array_equal(found, reference)
        if kept < 1:
            decoded += 1
            assert found.truncated
            with pytest.raises(BadImageError):
                decode_image(cut)
        else:
            assert not found.truncated
    assert decoded >= (0 if form == "WEBP" else 3)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_damage_in_the_middle_is_decoded_as_with_pillows_flag(monkeypatch):
    data = encoded(noise(200, 300), "PNG")
    decoded = 0
    for place in range(100, len(data) - 100, len(data) // 7):
        damaged = data[:place] + bytes(8) + data[place + 8 :]
        reference = reference_with_pillows_flag(damaged, monkeypatch)
        if reference is not None:
            decoded += 1
            np.testing.assert_array_equal(decode_picture(damaged, truncated="decode"), reference)
    assert decoded


@pytest.mark.parametrize("options", [{}, {"quality": 100}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_cut_that_an_end_marker_hides_is_seen(options, mode):
    image = Image.fromarray(noise(30, 40)).resize((320, 240)).convert(mode)
    data = saved(image, "JPEG", **options)
    for kept in (0.3, 0.5, 0.9):
        cut = data[: int(len(data) * kept)] + b"\xff\xd9"
        for smallest in (None, 60):
            with pytest.raises(TruncatedImageError, match=r"cut off .*end marker"):
                decode_picture(cut, smallest=smallest)
            found = decode_picture(cut, smallest=smallest, truncated="decode")
            assert found.truncated
            assert (np.asarray(found)[-1, -1] == 128).all()


def test_images_that_are_grey_below_are_whole():
    pixels = noise(64, 64)
    pixels[40:] = 128
    for options in ({}, {"progressive": True}, {"optimize": True}):
        for array in (pixels, np.full((64, 64, 3), 128, np.uint8)):
            data = encoded(array, "JPEG", **options)
            assert (decode_image(data)[-1, -1] == 128).all()
            assert not decode_picture(data, truncated="decode").truncated


def test_a_person_is_told_that_a_photograph_is_cut(tmp_path, caplog):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded(noise(200, 200), "JPEG")[:-2000])
    assert read_image(path).shape == (200, 200, 3)
    assert "cut.jpg is cut off" in caplog.text


@requires_cases
def test_cases_of_depth_and_transparency():
    directory = shared_dir() / "cases"
    grey = read_image(directory / "depth16" / "grey8.png")
    for name in ("grey16.png", "grey16.tif", "float01.tif"):
        np.testing.assert_array_equal(read_image(directory / "depth16" / name), grey)
    black, green = (
        read_image(directory / "alpha" / f"transparent_hidden_{name}.png")
        for name in ("black", "garbage")
    )
    np.testing.assert_array_equal(black, green)
    assert (black[0, 0] == 255).all()


@requires_cases
def test_cases_of_orientation():
    directory = shared_dir() / "cases" / "exif"
    upright = read_image(directory / "upright.png").astype(int)
    for path in sorted(directory.glob("turned*")):
        found = read_image(path)
        assert found.shape == upright.shape
        assert np.abs(found - upright).mean() < 1, path.name
        if path.name != "turned3.jpg":
            assert decode_image(path.read_bytes()).shape == (192, 128, 3)


@requires_cases
def test_cases_of_cut_photographs():
    text = (shared_dir() / "cases" / "official" / "truncated_pictures.json").read_text()
    for case in json.loads(text)["cases"]:
        data = base64.b64decode(case["jpeg_base64"])
        found = np.asarray(decode_picture(data, truncated="decode"))
        assert hashlib.sha256(found.tobytes()).hexdigest() == case["official"]["sha256"]
        with pytest.raises(TruncatedImageError):
            decode_image(data)


def test_base64_of_both_alphabets():
    image = noise()
    data = encoded(image)
    standard, url_safe = base64.b64encode(data), base64.urlsafe_b64encode(data)
    assert set(standard) & set(b"+/")
    for text in (standard, url_safe, standard.decode(), url_safe.rstrip(b"="), url_safe + b"\n"):
        np.testing.assert_array_equal(decode_image(decode_base64(text)), image)


BASE64_FORMS = {
    "as bytes in Python": lambda text: f"b'{text}'",
    "in quotes": lambda text: f'"{text}"',
    "data URI": lambda text: f"data:image/png;base64,{text}",
    "lines": lambda text: "\n".join(textwrap.wrap(text, 76)),
    "lines turned into blanks": lambda text: " ".join(textwrap.wrap(text, 64)) + " ",
    "lines, escaped": lambda text: "\\n".join(textwrap.wrap(text, 76)) + "\\n",
    "blanks for +": lambda text: text.replace("+", " "),
    "without padding": lambda text: text.rstrip("="),
    "hexadecimal": lambda text: base64.b64decode(text).hex(),
    "capital hexadecimal": lambda text: base64.b64decode(text).hex().upper(),
}


@pytest.mark.parametrize("form", BASE64_FORMS)
@pytest.mark.parametrize("size", [1, 7, 40])
def test_base64_as_people_write_it(form, size):
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    assert decode_base64(BASE64_FORMS[form](text)) == buffer.getvalue()
    assert decode_base64(BASE64_FORMS[form](text).encode()) == buffer.getvalue()


@pytest.mark.parametrize("data", ["", "????", "abcde", "日本", base64.b64encode(b"no image")])
def test_text_that_is_no_image_is_refused(data):
    with pytest.raises(BadImageError):
        decode_image(decode_base64(data))


def test_damaged_files_are_refused():
    data = encoded(noise(200, 200), "JPEG")
    with pytest.raises(BadImageError, match="no bytes"):
        decode_image(b"")
    with pytest.raises(TruncatedImageError, match="cut off"):
        decode_image(data[: len(data) // 2])
    with pytest.raises(BadImageError, match="cannot decode"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    assert issubclass(BadImageError, ValueError)


def test_random_damage_never_gives_another_error():
    data = encoded(noise(40, 40), "PNG")
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 4):
            damaged[position] ^= int(rng.integers(1, 256))
        try:
            outcomes.add(decode_image(bytes(damaged), max_pixels=10**6).dtype)
        except BadImageError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_huge_images_are_refused_before_decoding():
    with pytest.raises(BadImageError, match=r"30 x 20 .* limit of 599"):
        decode_image(encoded(noise()), max_pixels=599)
    # A header that promises 60,000 x 60,000 pixels.
    bomb = bytearray(encoded(noise()))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(BadImageError):
        decode_image(bytes(bomb))


def test_sizes_are_width_and_height():
    resized = resize_image(noise(), 7, 9)
    assert resized.shape == (9, 7, 3)
    assert image_size(resized) == (7, 9)


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        as_rgb(np.zeros((2, 2, 3), np.float32))
    for shape in ((2, 2, 4), (2,), (0, 2, 3)):
        with pytest.raises(ValueError, match=r"\[y, x, 3\]"):
            as_rgb(np.zeros(shape, np.uint8))
