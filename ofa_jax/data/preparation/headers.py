"""What the first bytes of a picture say: its size, format and colours, before it is decoded.

A decompression bomb is a small file that declares a huge picture. Everything here looks at the
header alone, so refusing one costs no memory.
"""

from __future__ import annotations

import dataclasses
import io
import warnings

from PIL import Image

from ofa_jax.data.ops.image import FORMATS
from ofa_jax.data.preparation.reasons import Reason, RejectedExample

# Where the end-of-image marker must be: writers may add padding or a comment behind it.
_TAIL = 4096


@dataclasses.dataclass(frozen=True)
class Header:
    """What a picture's header declares.

    Attributes:
      width: pixels.
      height: pixels.
      form: Pillow's name of the format, `JPEG` for example.
      mode: Pillow's name of the colours, `RGB` or `CMYK` for example.
    """

    width: int
    height: int
    form: str
    mode: str


def read_header(data: bytes, max_pixels: int) -> Header:
    """Reads a picture's header.

    Args:
      data: contents of the file, JPEG, PNG, WebP, GIF, BMP, TIFF or PPM.
      max_pixels: a picture that declares more is refused.

    Returns:
      The header.

    Raises:
      RejectedExample: no bytes, not a picture, cut off, or too many pixels.
    """
    if not data:
        raise RejectedExample(Reason.EMPTY_IMAGE, "the picture has no bytes")
    # Pillow's WebP reader makes room for the whole canvas while it opens the file.
    if size := _webp_canvas(data):
        _refuse_bomb(*size, max_pixels)
    try:
        with warnings.catch_warnings():
            # Pillow's own bomb warning is a limit of its own; ours follows.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                header = Header(image.width, image.height, str(image.format), image.mode)
    except Image.DecompressionBombError as error:
        raise RejectedExample(
            Reason.TOO_MANY_PIXELS, f"more than twice Pillow's limit of {Image.MAX_IMAGE_PIXELS}"
        ) from error
    except Exception as error:  # Pillow's readers raise many kinds on damaged headers.
        raise damaged(data, "its header cannot be read") from error
    _refuse_bomb(header.width, header.height, max_pixels)
    return header


def damaged(data: bytes, what: str) -> RejectedExample:
    """The rejection of a picture that does not decode: cut off, or damaged otherwise.

    Args:
      data: contents of the file.
      what: what went wrong.
    """
    detail = f"{what}; {len(data)} bytes beginning with {bytes(data[:8])!r}"
    if is_cut_off(data):
        return RejectedExample(Reason.TRUNCATED_IMAGE, f"the file has no end marker, {detail}")
    return RejectedExample(Reason.UNDECODABLE_IMAGE, detail)


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


def _refuse_bomb(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise RejectedExample(
            Reason.TOO_MANY_PIXELS,
            f"{width} x {height} pixels, more than the limit of {max_pixels} in all",
        )


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP file declares; None for other files and damaged headers.

    Layout of the three kinds of first chunk: RFC 9649, sections 2.5 to 2.7.
    """
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
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
