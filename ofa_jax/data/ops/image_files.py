"""What an image file says about itself: its format, size, orientation, whether it is whole.

The one list of formats and of file names, for every source and every door. Nothing here decodes
pixels, so a decompression bomb (a small file that declares a huge image) costs no memory.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import importlib
import io
import os
import pathlib
import warnings
from collections.abc import Collection, Iterable, Iterator

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError, features

# Pillow's own warning level: an image of this size takes 256 MB. Ours is a limit, so that its
# warning says nothing new.
MAX_PIXELS = 89_478_485
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Formats of photographs, by Pillow's names, with the endings of their files' names. Others that
# Pillow knows start outside programs (EPS), are vectors, or hold no photographs.
_ENDINGS = {
    "JPEG": "jpg jpeg jpe jfif jif pjpeg pjp mpo",
    "PNG": "png apng",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp dib",
    "TIFF": "tif tiff",
    "PPM": "ppm pgm pbm pnm pfm",
    "AVIF": "avif avifs",
    "HEIF": "heic heif heics heifs hif",
    "JPEG2000": "jp2 j2k j2c jpc jpx jpf",
}
FORMATS = tuple(_ENDINGS)
SUFFIXES = frozenset(suffix for endings in _ENDINGS.values() for suffix in endings.split())

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_PPM_KINDS = tuple(bytes([digit]) for digit in b"123456fF")
# Brands of ISO media files (ISO/IEC 23008-12 and the AVIF specification).
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
)
# Bytes that tell every format; brands of an ISO media file may be many.
_HEAD = 128
# Where the end-of-image marker must be: writers may add padding or a comment behind it.
_TAIL = 4096
# Endings of what lies beside images. Files of other names are looked into.
_OTHER_SUFFIXES = ("txt", "json", "jsonl", "csv", "tsv", "xml", "html", "md", "log", "zip", "npz")


class BadImageError(ValueError):
    """An image that cannot be decoded."""


class EmptyImageError(BadImageError):
    """A file of no bytes."""


class TruncatedImageError(BadImageError):
    """A file that is cut off: its last rows are missing, or grey."""


class LargeImageError(BadImageError):
    """An image of more pixels than the limit."""


class MissingDecoderError(BadImageError):
    """An image of a format that this installation cannot decode; the message says what can."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What an image file declares.

    Attributes:
      width: pixels, as they are stored.
      height: pixels, as they are stored.
      form: Pillow's name of the format, `JPEG` for example.
      mode: Pillow's name of the colors, `RGB` or `CMYK` for example.
      orientation: EXIF's note of how the stored pixels must be turned to be upright, 1 .. 8; 1 is
        upright.
    """

    width: int
    height: int
    form: str
    mode: str
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels as they are stored."""
        return self.width, self.height

    @property
    def swaps_sides(self) -> bool:
        """Whether the upright image is as wide as the stored one is high."""
        return self.orientation >= 5

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels of the upright image."""
        return self.size[::-1] if self.swaps_sides else self.size


def format_of(data: bytes) -> str | None:
    """Format of a file by its first bytes: one of `FORMATS`; None for other files."""
    head = bytes(data[:_HEAD])
    for signature, form in _SIGNATURES:
        if head.startswith(signature):
            return form
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:1] == b"P" and head[1:2] in _PPM_KINDS and head[2:3].isspace():
        return "PPM"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = [head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))]
        found = {_BRANDS[brand] for brand in brands if brand in _BRANDS}
        return next((form for form in ("AVIF", "HEIF") if form in found), None)
    return None


def has_image_name(name: str) -> bool:
    """Whether a file's name has the ending of an image, in capitals or not."""
    return name.rpartition(".")[2].lower() in SUFFIXES and "." in name


def is_image_file(path: str | os.PathLike) -> bool:
    """Whether a file is an image by its name or, where its name says nothing, by its content."""
    path = pathlib.Path(path)
    if has_image_name(path.name):
        return True
    if path.suffix[1:].lower() in _OTHER_SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            return format_of(file.read(_HEAD)) is not None
    except OSError:
        return False


def stem_of(name: str) -> str:
    """A file's name without the ending of an image; other names stay as they are."""
    return name.rpartition(".")[0] if has_image_name(name) else name


def image_ids(names: Iterable[str]) -> dict[str, str]:
    """Names of files to ids: the name without its ending, or with it where two would be one.

    `a.jpg` and `a.png` of one directory are two images.
    """
    known = dict.fromkeys(names)
    stems = collections.Counter(map(stem_of, known))
    return {name: name if stems[stem_of(name)] > 1 else stem_of(name) for name in known}


def images_below(
    directory: str | os.PathLike, beside: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """The images in a directory and below it, and the files that nothing reads.

    Args:
      directory: searched to any depth, links included; hidden files and directories are passed
        over.
      beside: endings of files that someone else reads, such as "txt" for captions.

    Returns:
      (images, other files): names relative to the directory, with "/", sorted. Images that nothing
      here can decode are among the first: they fail when they are read, one by one.
    """
    found, others = [], []
    for parent, directories, names in os.walk(directory, followlinks=True):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            path = pathlib.Path(parent, name)
            if name.startswith(".") or path.suffix[1:].lower() in beside:
                continue
            (found if is_image_file(path) else others).append(
                path.relative_to(directory).as_posix()
            )
    return sorted(found), sorted(others)


@contextlib.contextmanager
def opened(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """Opens a file without decoding it; whatever goes wrong inside is a `BadImageError`.

    Args:
      data: contents of the file, of one of `FORMATS`.
      max_pixels: an image that declares more is refused.

    Yields:
      The image as Pillow opens it.

    Raises:
      BadImageError: or a subclass that says which fault.
    """
    if not data:
        raise EmptyImageError("the image has no bytes")
    form = format_of(data)
    try:
        if form is None:
            raise UnidentifiedImageError
        _require_decoder(form)
        # Pillow's WebP reader makes room for the whole canvas while it opens the file.
        if form == "WEBP" and (size := _webp_canvas(data)):
            _refuse_large(*size, max_pixels)
        with Image.open(io.BytesIO(data), formats=(form,)) as image:
            _refuse_large(image.width, image.height, max_pixels)
            yield image
    except (BadImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise LargeImageError(
            f"more pixels than twice Pillow's limit of {Image.MAX_IMAGE_PIXELS}, and the limit is "
            f"{max_pixels}"
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data.
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):
            reason = f"none of the formats {', '.join(FORMATS)}"
            if form is not None:
                reason = f"a kind of {form} that Pillow does not know"
        start = f"{len(data)} bytes beginning with {bytes(data[:8])!r}"
        if is_cut_off(data):
            raise TruncatedImageError(f"the image file is cut off: {start}; {reason}") from error
        raise BadImageError(f"cannot decode an image of {start}: {reason}") from error


def read_header(data: bytes, max_pixels: int = 2 * MAX_PIXELS) -> Header:
    """Reads what a file declares.

    Args:
      data: contents of the file, of one of `FORMATS`.
      max_pixels: an image that declares more is refused; Pillow itself refuses twice `MAX_PIXELS`.

    Returns:
      The header.

    Raises:
      BadImageError: or a subclass that says which fault.
    """
    with opened(data, max_pixels) as image:
        width, height = stored_size(image)
        # Pillow decodes a whole PNG to find a tag that may stand behind the pixels.
        tagged = image.format != "PNG" or any(name in data for name in (b"eXIf", b"Orientation"))
        turned = orientation(image) if tagged else 1
        return Header(width, height, str(image.format), image.mode, turned)


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels as a file stores them, of an image that is opened only.

    Pillow gives a TIFF file the size of the upright image.
    """
    tags = getattr(image, "tag_v2", None)
    return (tags[256], tags[257]) if tags is not None else image.size


def orientation(image: Image.Image) -> int:
    """EXIF's or XMP's note of how the stored pixels must be turned, 1 .. 8; 1 where there is none.

    A TIFF file must be asked before it is decoded, when Pillow turns it and removes the note.
    """
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged tags of a good image; Pillow raises many kinds.
        return 1
    return found if found in range(1, 9) else 1


def is_cut_off(data: bytes) -> bool:
    """Whether a file of a format that marks its end, or tells its length, lacks the end."""
    tail = bytes(data[-_TAIL:])
    if data.startswith(b"\xff\xd8"):  # JPEG
        return b"\xff\xd9" not in tail
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    if data.startswith(b"GIF8"):
        return not tail.rstrip(b"\0").endswith(b";")
    if data.startswith(b"RIFF"):  # WebP
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"BM"):
        return len(data) < int.from_bytes(data[2:6], "little")
    return False


def _refuse_large(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise LargeImageError(
            f"an image of {width} x {height} pixels is larger than the limit of {max_pixels} pixels"
        )


@functools.cache
def _has_decoder(form: str) -> bool:
    """Whether Pillow, or the package pillow-heif, can decode a format here."""
    if form == "HEIF":
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            return False
        return True
    feature = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}.get(form)
    return feature is None or bool(features.check(feature))


def _require_decoder(form: str) -> None:
    if not _has_decoder(form):
        package = "pillow-heif" if form == "HEIF" else f"a Pillow that was built with {form}"
        raise MissingDecoderError(f"{form} images need a decoder: pip install {package}")


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP file declares; None for damaged headers.

    Layout of the three kinds of first chunk: RFC 9649, sections 2.5 to 2.7.
    """
    if len(data) < 30:
        return None
    chunk = bytes(data[12:16])
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
        return width + 1, height + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = (int.from_bytes(data[start : start + 2], "little") for start in (26, 28))
        return width & 0x3FFF, height & 0x3FFF
    return None
