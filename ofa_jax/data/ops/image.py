"""The one image reader: bytes, files and arrays to pixels; resizing and normalization.

Every source and every door decodes here. Pixels are uint8[y, x, 3] in RGB order. They are
normalized on the device, after transport; the function here is for tests and for code without a
device. Resizing is Pillow's bicubic filter, which torchvision uses for PIL images, so released
checkpoints see the pixels they were trained on.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from ofa_jax.data.ops import jpeg_rest
from ofa_jax.data.ops.image_files import (
    MAX_PIXELS,
    BadImageError,
    TruncatedImageError,
    opened,
    orientation,
)
from ofa_jax.data.ops.image_modes import to_rgb

logger = logging.getLogger("ofa_jax")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What becomes of a file that is cut off or breaks in the middle: an error, or what there is of it.
TRUNCATED_IMAGES = ("drop", "decode")

# First bytes of JPEG, PNG, WebP, GIF and TIFF files in hexadecimal, which is base64 as well.
_HEXADECIMAL_STARTS = (b"ffd8ff", b"89504e", b"524946", b"474946", b"49492a", b"4d4d00")
_SHORTEST_LINE = 48
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_TRANSPOSE = Image.Transpose
# EXIF's note of how an image is stored -> what makes it upright, and what undoes that.
_TURNS = {
    2: (_TRANSPOSE.FLIP_LEFT_RIGHT, _TRANSPOSE.FLIP_LEFT_RIGHT),
    3: (_TRANSPOSE.ROTATE_180, _TRANSPOSE.ROTATE_180),
    4: (_TRANSPOSE.FLIP_TOP_BOTTOM, _TRANSPOSE.FLIP_TOP_BOTTOM),
    5: (_TRANSPOSE.TRANSPOSE, _TRANSPOSE.TRANSPOSE),
    6: (_TRANSPOSE.ROTATE_270, _TRANSPOSE.ROTATE_90),
    7: (_TRANSPOSE.TRANSVERSE, _TRANSPOSE.TRANSVERSE),
    8: (_TRANSPOSE.ROTATE_90, _TRANSPOSE.ROTATE_270),
}
_END_OF_JPEG = b"\xff\xd9"


class Picture:
    """A decoded image that Pillow holds; an array uint8[y, x, 3] to whoever asks for one.

    Pixels go from Pillow to numpy and back when an image is decoded and then resized; this saves
    both copies.

    Attributes:
      pillow: RGB, not to be written to.
      truncated: whether the file was cut off, so that a part of the image is missing.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, pillow: Image.Image, truncated: bool = False) -> None:
        """Takes the image, of mode RGB."""
        self.pillow = pillow
        self.truncated = truncated

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, 3."""
        return self.pillow.height, self.pillow.width, 3

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """uint8[y, x, 3]."""
        return np.array(self.pillow, dtype, copy=copy)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Part of the array."""
        return np.asarray(self)[key]


Pixels = np.ndarray | Picture
Given = str | os.PathLike | np.ndarray | Picture | Image.Image


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, *, upright: bool = False) -> np.ndarray:
    """Decodes an image file to an array; see `decode_picture`.

    Returns:
      uint8[y, x, 3] RGB, not to be written to.

    Raises:
      BadImageError: empty, cut off, not an image, or too large.
    """
    return np.asarray(decode_picture(data, max_pixels, upright=upright).pillow)


def decode_picture(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    *,
    smallest: int | None = None,
    upright: bool = False,
    truncated: str = "drop",
) -> Picture:
    """Decodes an image file of one of `image_files.FORMATS`; see `image_modes.to_rgb` for colors.

    OFA-NOTE: SPEC 4.4. A TIFF file with an orientation gives its stored pixels, as every format
    does; officially Pillow turns it.

    Args:
      data: contents of the file.
      max_pixels: larger images are refused before they are decompressed.
      smallest: None decodes every pixel. A number lets the JPEG decoder give 1/2, 1/4 or 1/8 of
        the size, where both sides keep this many pixels; that is several times faster for large
        photographs, and the pixels differ a little from those of decoding and resizing.
      upright: turns the image as its EXIF orientation says, which photographs want. Otherwise the
        stored pixels are given, whatever the format, as in the official code: boxes in data sets
        refer to them.
      truncated: "drop" refuses files that are cut off; "decode" gives what there is of them and
        of files that are damaged further on, as the official code does: the rest is grey or black.

    Returns:
      RGB; the first frame of an animation.

    Raises:
      TruncatedImageError: cut off, unless these are decoded.
      BadImageError: empty, damaged, not an image, or too large.
    """
    with opened(data, max_pixels) as image:
        turn = _TURNS.get(orientation(image)) if upright or image.format == "TIFF" else None
        if smallest is not None:
            image.draft("RGB", (smallest, smallest))
        try:
            image.load()
            cut = image.format == "JPEG" and jpeg_rest.is_missing(data, image, smallest, max_pixels)
            if cut and truncated == "drop":
                raise TruncatedImageError("the JPEG file is cut off before its end marker")
        except BadImageError:
            raise
        except Exception:  # Pillow's decoders raise many kinds on damaged data.
            if truncated == "drop":
                raise
            if image.format == "JPEG" and not data.endswith(_END_OF_JPEG):
                # The decoder finishes what it has when it meets the end marker.
                options = {"smallest": smallest, "upright": upright, "truncated": truncated}
                whole = decode_picture(data + _END_OF_JPEG, max_pixels, **options)
                return Picture(whole.pillow, truncated=True)
            _give_up_rest(image)
            cut = True
        pixels = to_rgb(_with_transparent_color(image, data))
    # Pillow itself turns a TIFF file while it decodes it.
    if turn is not None and image.format != "TIFF":
        pixels = pixels.transpose(turn[0])
    elif turn is not None and not upright:
        pixels = pixels.transpose(turn[1])
    return Picture(pixels, cut)


def read_image(image: Given, *, truncated: str = "decode") -> np.ndarray:
    """Pixels of an image that a person gives, upright as viewers show it.

    Args:
      image: path of a file, uint8[y, x, 3] or [y, x], or a PIL image.
      truncated: see `decode_picture`; a file that is cut off is named in the log.

    Returns:
      uint8[y, x, 3], not to be written to.

    Raises:
      FileNotFoundError: no such file.
      BadImageError: not an image, damaged or too large; the message names the file.
      ValueError: an array of another shape or type.
    """
    if isinstance(image, Image.Image):
        return as_rgb(ImageOps.exif_transpose(image))
    if not isinstance(image, str | os.PathLike):
        return as_rgb(image)
    path = pathlib.Path(image)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    try:
        picture = decode_picture(path.read_bytes(), upright=True, truncated=truncated)
    except BadImageError as error:
        raise type(error)(f"{path}: {error}") from error
    if picture.truncated:
        logger.warning("%s is cut off: a part of the image is missing", path)
    return np.asarray(picture.pillow)


def _give_up_rest(image: ImageFile.ImageFile) -> None:
    """Makes an image of what was decoded before an error; the rest is black.

    The same as Pillow's LOAD_TRUNCATED_IMAGES, which would hold for all threads.

    Raises:
      OSError: nothing was decoded.
    """
    image.tile = []
    image.load()
    with contextlib.suppress(Exception):
        image.load_end()


def _with_transparent_color(image: Image.Image, data: bytes) -> Image.Image:
    """Gives PNG's one transparent color, in samples of the file, the depth of the decoded image."""
    color = image.info.get("transparency")
    depth = data[24] if image.format == "PNG" else 8
    if depth != 8 and color is not None and image.mode in ("L", "RGB"):
        most = (1 << depth) - 1
        scaled = [value * 255 // most if depth < 8 else value >> 8 for value in np.ravel(color)]
        image.info["transparency"] = scaled[0] if image.mode == "L" else tuple(scaled)
    return image


def decode_base64(data: str | bytes) -> bytes:
    """Bytes of a file written as text, in the ways that people write it.

    Args:
      data: base64 of either alphabet, with or without padding; in quotes, as Python shows bytes
        (b'...'), as a data URI, with line ends (real, written \\n, or turned into blanks), or with
        blanks in the place of "+" as decoding an address leaves them; or an image in hexadecimal.

    Returns:
      The bytes.

    Raises:
      BadImageError: the text is not base64.
    """
    try:
        text = data.encode("ascii") if isinstance(data, str) else bytes(data)
        text = text.strip()
        if text[:6].lower() in _HEXADECIMAL_STARTS:
            return bytes.fromhex(text.decode("ascii"))
        if text[:5] == b"data:" or text[:1] in b"b\"'" or len(text.split(None, 1)) > 1:
            text = _plain_base64(text)
        text = (
            text.replace(b"\\r", b"")
            .replace(b"\\n", b"")
            .translate(_STANDARD_ALPHABET)
            .rstrip(b"=")
        )
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError) as error:
        raise BadImageError(f"not base64: {error}") from error


def _plain_base64(text: bytes) -> bytes:
    """Base64 without what stands around and between it."""
    text = text.removeprefix(b"b") if text[1:2] in (b"'", b'"') else text
    text = text.strip(b"\"'")
    if text.startswith(b"data:"):
        text = text.partition(b",")[2]
    parts = text.split()
    # Lines have one length but for the last, mostly 76 or 64; blanks for "+" stand anywhere.
    lengths = {len(part) for part in parts[:-1]}
    is_lines = len(lengths) == 1 and lengths.pop() >= _SHORTEST_LINE
    return b"".join(parts) if is_lines else text.replace(b" ", b"+")


def as_rgb(image: Pixels | Image.Image) -> np.ndarray:
    """Pixels of an array, of a `Picture` or of a PIL image.

    Args:
      image: uint8[y, x, 3], uint8[y, x] or [y, x, 1] grey, a `Picture`, or a PIL image of any mode.

    Returns:
      uint8[y, x, 3].

    Raises:
      ValueError: another shape or type of array.
    """
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 in 0 .. 255, got {image.dtype}")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"pixels must have the shape [y, x, 3], got {image.shape}")
    return np.broadcast_to(image, (*image.shape[:2], 3)) if image.shape[2] == 1 else image


def as_pillow(image: Pixels | Image.Image) -> Image.Image:
    """The same as a PIL image of mode RGB; see `as_rgb`."""
    if isinstance(image, Picture):
        return image.pillow
    if isinstance(image, Image.Image):
        return to_rgb(image)
    return Image.fromarray(np.ascontiguousarray(as_rgb(image)))


def image_size(image: Pixels) -> tuple[int, int]:
    """Width and height of uint8[y, x, 3], in this order as boxes need it."""
    return image.shape[1], image.shape[0]


def resize_image(image: Pixels | Image.Image, width: int, height: int) -> np.ndarray:
    """Resizes to any width and height with Pillow's bicubic filter (antialiased).

    Args:
      image: uint8[y, x, 3], a `Picture` or a PIL image.
      width: new width in pixels.
      height: new height in pixels.

    Returns:
      uint8[height, width, 3].
    """
    picture = as_pillow(image)
    if picture.size == (width, height):
        return as_rgb(image)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def resize_square(image: Pixels | Image.Image, size: int) -> np.ndarray:
    """Stretches to a square: the input of all fine-tuned tasks (SPEC 8).

    Args:
      image: uint8[y, x, 3] or a PIL image.
      size: side in pixels.

    Returns:
      uint8[size, size, 3].
    """
    return resize_image(image, size, size)
