"""Headers of pictures: sizes are known, and bombs refused, before anything is decompressed."""

import resource

import pytest

from ofa_jax.data.ops.image import MAX_PIXELS
from ofa_jax.data.preparation.headers import is_cut_off, read_header
from ofa_jax.data.preparation.reasons import Reason, RejectedExample
from tests.data.preparation import pictures


def reason_of(data: bytes, max_pixels: int = MAX_PIXELS) -> Reason:
    with pytest.raises(RejectedExample) as error:
        read_header(data, max_pixels)
    assert "\n" not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_size_and_format_of_every_kind(form):
    header = read_header(pictures.encoded(pictures.pixels(31, 17), form), MAX_PIXELS)
    assert (header.width, header.height, header.form) == (31, 17, form)
    assert header.mode in ("RGB", "P")


@pytest.mark.parametrize("lossless", [True, False])
def test_size_of_both_simple_webp_kinds(lossless):
    data = pictures.encoded(pictures.pixels(31, 17), "WEBP", lossless=lossless)
    assert reason_of(data, max_pixels=31 * 17 - 1) == Reason.TOO_MANY_PIXELS
    assert read_header(data, 31 * 17).width == 31


def test_printing_colours_are_seen():
    assert read_header(pictures.cmyk_jpeg(), MAX_PIXELS).mode == "CMYK"


BOMBS = {
    "png": pictures.png_bomb(50_000, 50_000),
    "png just above": pictures.png_bomb(9_500, 9_500),
    "webp": pictures.webp_bomb(16_383, 16_383),
    "jpeg": pictures.jpeg_declaring(65_000, 65_000),
    "jpeg just above": pictures.jpeg_declaring(9_500, 9_500),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_from_the_header_before_they_allocate(data):
    assert len(data) < 60_000
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + (64 << 20)
    # The smallest of them decompresses to 90 MB, the WebP's canvas alone is a gigabyte.
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        assert reason_of(data) == Reason.TOO_MANY_PIXELS
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 16 << 10


def test_no_picture_at_all():
    assert reason_of(b"") == Reason.EMPTY_IMAGE
    assert reason_of(b"<html>not found</html>") == Reason.UNDECODABLE_IMAGE


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_cut_off_files_are_told_from_whole_ones(form, kept):
    data = pictures.encoded(pictures.pixels(64, 48), form)
    assert not is_cut_off(data)
    assert is_cut_off(data[: int(len(data) * kept)])


def test_padding_behind_the_end_is_no_cut():
    assert not is_cut_off(pictures.jpeg() + bytes(100))
    assert not is_cut_off(pictures.encoded(pictures.pixels(9, 9), "GIF") + bytes(3))
