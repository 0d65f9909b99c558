"""Decoding, resizing, normalising pictures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ofa_jax.data.ops.image import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BadImageError,
    as_pillow,
    as_rgb,
    decode_base64_image,
    decode_image,
    decode_picture,
    image_size,
    normalise,
    resize_image,
    resize_square,
)
from tests.shared import requires_shared, shared_dir


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


@requires_shared
def test_resizing_and_normalising_are_bit_exact():
    arrays = np.load(shared_dir() / "fixtures" / "image_cases.npz")
    names = [name for name in arrays if name.startswith(("caption", "refcoco"))]
    assert len(names) == 8
    for name in names:
        source = "gray" if name.endswith("gray") else "image_big" if "big" in name else "image"
        pixels = resize_square(arrays[source], arrays[name].shape[1])
        settings = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if "imagenet" in name else {}
        result = normalise(pixels, **settings)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result.transpose(2, 0, 1), arrays[name], err_msg=name)


def test_pictures_without_loss_come_back():
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


def test_a_picture_is_an_array_to_whoever_asks():
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


def test_two_pictures_in_one_file_give_the_first():
    buffer = io.BytesIO()
    first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (20, 200))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert np.abs(decode_image(buffer.getvalue()).astype(int) - 20).max() <= 2


def test_grey_palette_and_transparent_pictures_become_rgb():
    grey = noise()[:, :, 0]
    np.testing.assert_array_equal(decode_image(encoded(grey)), np.stack([grey] * 3, axis=2))
    buffer = io.BytesIO()
    Image.fromarray(noise()).convert("P").save(buffer, "GIF")
    assert decode_image(buffer.getvalue()).shape == (20, 30, 3)
    assert as_rgb(Image.new("RGBA", (3, 2), (1, 2, 3, 0)))[0, 0].tolist() == [1, 2, 3]


def test_orientation_tag_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert decode_image(encoded(noise(), "JPEG", exif=exif)).shape == (20, 30, 3)


def test_base64_of_both_alphabets():
    image = noise()
    data = encoded(image)
    standard, url_safe = base64.b64encode(data), base64.urlsafe_b64encode(data)
    assert set(standard) & set(b"+/")
    for text in (standard, url_safe, standard.decode(), url_safe.rstrip(b"="), url_safe + b"\n"):
        np.testing.assert_array_equal(decode_base64_image(text), image)


@pytest.mark.parametrize("data", ["", "????", "abcde", "日本", base64.b64encode(b"no picture")])
def test_text_that_is_no_picture_is_refused(data):
    with pytest.raises(BadImageError):
        decode_base64_image(data)


def test_damaged_files_are_refused():
    data = encoded(noise(200, 200), "JPEG")
    with pytest.raises(BadImageError, match="no bytes"):
        decode_image(b"")
    with pytest.raises(BadImageError, match="cannot decode"):
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


def test_huge_pictures_are_refused_before_decoding():
    with pytest.raises(BadImageError, match="30 x 20 pixels is larger than the limit of 599"):
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


def test_normalised_values():
    image = np.array([[[0, 255, 128]]], np.uint8)
    np.testing.assert_allclose(normalise(image)[0, 0], [-1, 1, 128 / 127.5 - 1], atol=1e-6)


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        as_rgb(np.zeros((2, 2, 3), np.float32))
    for shape in ((2, 2, 4), (2,), (0, 2, 3)):
        with pytest.raises(ValueError, match=r"\[y, x, 3\]"):
            as_rgb(np.zeros(shape, np.uint8))
