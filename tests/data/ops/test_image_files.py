"""Headers, formats and names of image files; bombs are refused before anything is decompressed."""

import resource

import pytest
from PIL import Image

from ofa_jax.data.ops import image_files
from ofa_jax.data.ops.image import decode_image
from ofa_jax.data.ops.image_files import (
    MAX_PIXELS,
    MissingDecoderError,
    format_of,
    images_below,
    is_cut_off,
    is_image_file,
    read_header,
    stem_of,
)
from ofa_jax.data.preparation.reasons import Reason, image_rejection
from tests.data.preparation import images as made_images

# Pillow writes all formats but HEIF.
WRITTEN = [form for form in image_files.FORMATS if form != "HEIF"]


def reason_of(data: bytes, max_pixels: int = MAX_PIXELS) -> Reason:
    with pytest.raises(image_files.BadImageError) as error:
        read_header(data, max_pixels)
    rejection = image_rejection(error.value)
    assert "\n" not in str(rejection)
    with pytest.raises(type(error.value)):  # the decoder refuses what the header is refused for
        decode_image(data, max_pixels)
    return rejection.reason


@pytest.mark.parametrize("form", WRITTEN)
def test_size_and_format_of_every_kind(form):
    header = read_header(made_images.encoded(made_images.pixels(31, 17), form), MAX_PIXELS)
    assert (header.width, header.height, header.form) == (31, 17, form)
    assert header.mode in ("RGB", "P")
    assert header.size == header.upright_size == (31, 17)


@pytest.mark.parametrize("lossless", [True, False])
def test_size_of_both_simple_webp_kinds(lossless):
    data = made_images.encoded(made_images.pixels(31, 17), "WEBP", lossless=lossless)
    assert reason_of(data, max_pixels=31 * 17 - 1) == Reason.TOO_MANY_PIXELS
    assert read_header(data, 31 * 17).width == 31


def test_printing_colours_are_seen():
    assert read_header(made_images.cmyk_jpeg(), MAX_PIXELS).mode == "CMYK"


BOMBS = {
    "png": made_images.png_bomb(50_000, 50_000),
    "png just above": made_images.png_bomb(9_500, 9_500),
    "webp": made_images.webp_bomb(16_383, 16_383),
    "jpeg": made_images.jpeg_declaring(65_000, 65_000),
    "jpeg just above": made_images.jpeg_declaring(9_500, 9_500),
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
    data = made_images.encoded(made_images.pixels(64, 48), form)
    assert not is_cut_off(data)
    assert is_cut_off(data[: int(len(data) * kept)])


def test_padding_behind_the_end_is_no_cut():
    assert not is_cut_off(made_images.jpeg() + bytes(100))
    assert not is_cut_off(made_images.encoded(made_images.pixels(9, 9), "GIF") + bytes(3))


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_told_and_sizes_are_those_of_the_stored_pixels(form):
    image = Image.fromarray(made_images.pixels(31, 17))
    for orientation in range(1, 9):
        header = read_header(made_images.encoded(image, form, exif=tagged(orientation)))
        assert (header.size, header.orientation) == ((31, 17), orientation)
        assert header.upright_size == ((31, 17) if orientation < 5 else (17, 31))
    for nonsense in (0, 9, 77):
        exif = tagged(nonsense)
        assert read_header(made_images.encoded(image, "JPEG", exif=exif)).orientation == 1
    assert read_header(made_images.encoded(image, "JPEG", exif=b"Exif\0\0MM*")).orientation == 1


def test_formats_are_told_by_content():
    for form in WRITTEN:
        assert format_of(made_images.encoded(made_images.pixels(9, 9), form)) == form
    for brands, form in (
        (b"heic\0\0\0\0mif1heic", "HEIF"),
        (b"mif1\0\0\0\0mif1heic", "HEIF"),
        (b"mif1\0\0\0\0mif1avif", "AVIF"),
        (b"isom\0\0\0\0isommp42", None),
    ):
        assert format_of(b"\0\0\0\x18ftyp" + brands) == form
    for other in (b"", b"P", b"PK\3\4", b"Please", b"<svg ", b"%!PS-Adobe", b"RIFF....WAVE"):
        assert format_of(other) is None


def test_a_missing_decoder_is_said(monkeypatch):
    monkeypatch.setattr(image_files, "_has_decoder", lambda form: False)
    with pytest.raises(MissingDecoderError, match="pip install pillow-heif"):
        read_header(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(MissingDecoderError, match="AVIF images need a decoder"):
        read_header(made_images.encoded(made_images.pixels(9, 9), "AVIF"))
    assert reason_of(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") == Reason.MISSING_DECODER


def test_directories_are_listed_by_one_list_of_names_and_by_content(tmp_path):
    image = made_images.pixels(9, 9)
    named = "a.jpg b.JPEG c.jpe d.jfif e.png f.webp g.gif h.bmp i.tif j.TIFF k.ppm l.avif m.mpo"
    for name in named.split():
        (tmp_path / name).write_bytes(b"whatever is in it")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "IMG_0001").write_bytes(made_images.encoded(image, "PNG"))
    (tmp_path / "deep" / "x.jpg_large").write_bytes(made_images.encoded(image, "JPEG"))
    (tmp_path / "n.heic").write_bytes(b"")
    for other in ("notes.docx", "README", "a.txt", ".DS_Store", "._a.jpg"):
        (tmp_path / other).write_bytes(b"no image")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "b.jpg").write_bytes(b"")
    found, others = images_below(tmp_path)
    assert found == sorted([*named.split(), "deep/er/IMG_0001", "deep/x.jpg_large", "n.heic"])
    assert others == ["README", "a.txt", "notes.docx"]
    assert images_below(tmp_path, beside=["txt"]) == (found, ["README", "notes.docx"])
    assert not is_image_file(tmp_path / "nowhere")
    assert stem_of("a.b.JPG") == "a.b"
    assert stem_of("IMG_0001") == "IMG_0001"
    assert stem_of("a.2021") == "a.2021"
