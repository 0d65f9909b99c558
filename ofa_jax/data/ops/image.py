"""Pictures: bytes to pixels, resizing as the official code does it, normalisation.

Pixels are uint8[y, x, 3] in RGB order. They are normalised on the device, after transport; the
function here is for tests and for code without a device. Resizing is Pillow's bicubic filter,
which torchvision uses for PIL images, so released checkpoints see the pixels they were trained on.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

# Pillow's own warning level: a picture of this size takes 256 MB.
MAX_PIXELS = 89_478_485

# Formats of photographs. Others that Pillow knows start outside programs (EPS) or are vectors.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


class BadImageError(ValueError):
    """A picture that cannot be decoded or is too large."""


class Picture:
    """A decoded picture that Pillow holds; an array uint8[y, x, 3] to whoever asks for one.

    Pixels go from Pillow to numpy and back when a picture is decoded and then resized; this saves
    both copies.

    Attributes:
      pillow: RGB, not to be written to.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, pillow: Image.Image) -> None:
        """Takes the picture, of mode RGB."""
        self.pillow = pillow

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


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM file to an array; see `decode_picture`.

    Args:
      data: contents of the file.
      max_pixels: see `decode_picture`.

    Returns:
      uint8[y, x, 3] RGB, not to be written to.

    Raises:
      BadImageError: empty, truncated, not a picture, or too large.
    """
    return np.asarray(decode_picture(data, max_pixels).pillow)


def decode_picture(
    data: bytes, max_pixels: int = MAX_PIXELS, *, smallest: int | None = None
) -> Picture:
    """Decodes a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM file.

    The orientation tag of EXIF is not applied, as in the official code: boxes in the data sets
    refer to the stored pixels.

    Args:
      data: contents of the file.
      max_pixels: larger pictures are refused before they are decompressed.
      smallest: None decodes every pixel. A number lets the JPEG decoder give 1/2, 1/4 or 1/8 of
        the size, where both sides keep this many pixels; that is several times faster for large
        photographs, and the pixels differ a little from those of decoding and resizing.

    Returns:
      RGB; the first frame of an animation.

    Raises:
      BadImageError: empty, truncated, not a picture, or too large.
    """
    if not data:
        raise BadImageError("the picture has no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BadImageError(
                    f"a picture of {image.width} x {image.height} pixels is larger than the limit "
                    f"of {max_pixels} pixels"
                )
            if smallest is not None:
                image.draft("RGB", (smallest, smallest))
            image.load()
            return Picture(image if image.mode == "RGB" else image.convert("RGB"))
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(f"picture larger than the limit of {max_pixels} pixels") from error
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt data.
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):
            reason = f"none of the formats {', '.join(FORMATS)}"
        raise BadImageError(
            f"cannot decode a picture of {len(data)} bytes beginning with {bytes(data[:8])!r}: "
            f"{reason}"
        ) from error


def decode_base64_image(data: str | bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a picture written in base64, of the standard or the URL-safe alphabet (SPEC 4.1).

    Args:
      data: base64 text; "-" and "_" mean the same as "+" and "/", missing padding is added.
      max_pixels: larger pictures are refused.

    Returns:
      uint8[y, x, 3] RGB.

    Raises:
      BadImageError: the text is not base64 or not a picture.
    """
    return decode_image(decode_base64(data), max_pixels)


def decode_base64(data: str | bytes) -> bytes:
    """Bytes of base64 text of either alphabet.

    Args:
      data: base64 text, white space around it allowed.

    Returns:
      The bytes.

    Raises:
      BadImageError: the text is not base64.
    """
    try:
        text = data.encode("ascii") if isinstance(data, str) else bytes(data)
        text = text.strip().translate(_STANDARD_ALPHABET).rstrip(b"=")
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise BadImageError(f"not base64: {error}") from error


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
        return np.asarray(image.convert("RGB"))
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
        return image.convert("RGB")
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


def normalise(
    image: np.ndarray,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> np.ndarray:
    """Scales pixels to [0, 1], subtracts the mean, divides by the deviation (SPEC 4.4).

    Args:
      image: uint8[..., y, x, 3].
      mean: one number or one per channel; 0.5 except for ImageNet fine-tuning.
      std: likewise.

    Returns:
      float32[..., y, x, 3].
    """
    scaled = np.asarray(image, np.float32) / np.float32(255)
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
