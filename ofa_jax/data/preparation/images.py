"""Images on their way into a shard: checked, made smaller, cut to the square of image codes.

An image that needs no change keeps its bytes. One that does is written as JPEG; boxes follow it.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ofa_jax.data.ops import boxes as box_ops
from ofa_jax.data.ops.image import as_rgb, decode_picture
from ofa_jax.data.ops.image_files import BadImageError, read_header
from ofa_jax.data.ops.image_tokenizer import encode_all, load_image_tokenizer, middle_part
from ofa_jax.data.preparation.reasons import Reason, RejectedExample, image_rejection
from ofa_jax.data.preparation.settings import ConversionSettings

# A JPEG of four times the wanted side or more is decoded at a fraction of its size (by the
# decoder's own averaging, to no less than twice the wanted side), which saves most of the time.
_DRAFT_FROM = 4
_DRAFT_TO = 2


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """An image that decodes.

    Attributes:
      data: the file to store.
      original: width and height in pixels of the image as it came.
      stored: width and height in pixels of what `data` holds.
      ratio: stored pixels per original pixel, in x and y.
      corner: left and top of the stored window in the resized image, in stored pixels.
      pixels: uint8[y, x, 3], the stored image before JPEG, where codes are made of it.
      notes: what is counted about it; keys of `tally.NOTES`.
    """

    data: bytes
    original: tuple[int, int]
    stored: tuple[int, int]
    ratio: tuple[float, float] = (1.0, 1.0)
    corner: tuple[int, int] = (0, 0)
    pixels: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def moved_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the original image in pixels of the stored one.

        Args:
          boxes: float[n, 4] x0, y0, x1, y1.

        Returns:
          float32[n, 4], not clipped.
        """
        scaled = box_ops.as_boxes(boxes) * np.array(self.ratio * 2, np.float32)
        return box_ops.shift_boxes(scaled, *self.corner)


def check_image(data: bytes, settings: ConversionSettings) -> CheckedImage:
    """Checks an image, by its header first, and makes what is stored of it.

    Args:
      data: contents of its file.
      settings: limits, size and quality of stored images.

    Returns:
      The image to store.

    Raises:
      RejectedExample: empty, damaged, cut off, too large or small, or in printing colours.
    """
    try:
        return _checked(data, settings)
    except BadImageError as error:
        raise image_rejection(error) from error


def _checked(data: bytes, settings: ConversionSettings) -> CheckedImage:
    header = read_header(data, settings.max_pixels)
    original = header.upright_size if settings.upright else header.size
    short, long = sorted(original)
    shown = f"{original[0]} x {original[1]} pixels"
    if short < settings.min_side:
        raise RejectedExample(Reason.SIDE_TOO_SHORT, shown)
    if long > settings.max_side:
        raise RejectedExample(Reason.SIDE_TOO_LONG, shown)
    if settings.max_aspect is not None and long > short * settings.max_aspect:
        raise RejectedExample(Reason.ASPECT_TOO_HIGH, shown)
    if header.mode == "CMYK" and settings.cmyk == "drop":
        raise RejectedExample(Reason.CMYK_IMAGE, f"{header.form}, {shown}")
    wanted = settings.code_size if settings.image_tokenizer else settings.resize_short_side
    # A JPEG's reduced form has at least twice the wanted side.
    reduced = wanted is not None and short >= wanted * _DRAFT_FROM
    smallest = wanted * _DRAFT_TO if wanted is not None and reduced else None
    picture = decode_picture(
        data,
        settings.max_pixels,
        smallest=smallest,
        upright=settings.upright,
        truncated=settings.truncated_images,
    )
    turned = header.orientation != 1
    notes = ("rotation_tag",) * turned + ("truncated_image",) * picture.truncated
    if settings.image_tokenizer:
        found = _code_square(picture.pillow, original, settings)
    elif wanted is not None and short > wanted:
        size = _with_short_side(original, wanted)
        resized = picture.pillow.resize(size, Image.Resampling.BICUBIC)
        ratio = (size[0] / original[0], size[1] / original[1])
        found = CheckedImage(_jpeg(resized, settings.jpeg_quality), original, size, ratio)
    elif header.mode == "CMYK" or picture.truncated or (turned and settings.upright):
        anew = _jpeg(picture.pillow, settings.jpeg_quality)
        found = CheckedImage(anew, original, original)
    else:
        found = CheckedImage(data, original, original)
    return dataclasses.replace(found, notes=notes)


def lossless(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8[y, x, 3]; b"" of an image without pixels."""
    if not pixels.size:
        return b""
    buffer = io.BytesIO()
    Image.fromarray(as_rgb(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def image_codes(squares: Sequence[np.ndarray], settings: ConversionSettings) -> list[np.ndarray]:
    """Codes of square images, row by row.

    Args:
      squares: uint8[code_size, code_size, 3] each.
      settings: which tokenizer, which part.

    Returns:
      int32[codes] each.
    """
    tokenizer = load_image_tokenizer(str(settings.image_tokenizer))
    middle = settings.code_part == "middle"
    parts = [middle_part(pixels) if middle else pixels for pixels in squares]
    return list(encode_all(tokenizer, parts).reshape(len(parts), -1))


def codes_per_image(settings: ConversionSettings) -> int:
    """How many codes an image gets, 0 without an image tokenizer.

    Raises:
      ValueError: there is no such tokenizer, or its codes do not fit the square.
    """
    if not settings.image_tokenizer:
        return 0
    tokenizer = load_image_tokenizer(settings.image_tokenizer)
    side = settings.code_size // (2 if settings.code_part == "middle" else 1)
    if side % tokenizer.patch:
        raise ValueError(
            f"code_size {settings.code_size}: the {settings.code_part} part has {side} pixels per "
            f"side, no multiple of the {tokenizer.patch} that a code of {settings.image_tokenizer} "
            "stands for"
        )
    return (side // tokenizer.patch) ** 2


def _with_short_side(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Width and height with the given short side and the same aspect ratio, rounded."""
    ratio = short / min(size)
    width, height = (max(short, round(side * ratio)) for side in size)
    return width, height


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _code_square(
    decoded: Image.Image, original: tuple[int, int], settings: ConversionSettings
) -> CheckedImage:
    """The central square that codes are made of: short side to `code_size`, then cropped.

    The resampling filter is the one with which the official codes were made.

    OFA-NOTE: SPEC 7.9. The official script keeps the whole of an image that is not square, which
    then has more codes than the tasks expect; here the sides are cut off.
    """
    size = _with_short_side(original, settings.code_size)
    resized = decoded if decoded.size == size else decoded.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - settings.code_size) // 2, (size[1] - settings.code_size) // 2
    square = resized.crop((left, top, left + settings.code_size, top + settings.code_size))
    return CheckedImage(
        data=_jpeg(square, settings.jpeg_quality),
        original=original,
        stored=square.size,
        ratio=(size[0] / original[0], size[1] / original[1]),
        corner=(left, top),
        pixels=np.array(square),
    )
