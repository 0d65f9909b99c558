"""Whether the rest of a JPEG is missing although an end marker follows: someone cut and closed it.

The decoder takes such a file without a word. Blocks without data are grey; of a progressive file,
whose scans refine the whole image, the later scans are missing.
"""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from ofa_jax.data.ops.image_files import BadImageError, opened

END = b"\xff\xd9"
# What the decoder leaves of blocks that it has no data for, also in inverted colors.
_UNKNOWN_GREYS = (127, 128)
# Data for blocks, with each of the marks after which some files begin anew.
_MORE = bytes(range(64)) + 2 * b"".join(
    b"\xff" + bytes([mark]) + bytes(range(1, 33)) for mark in range(0xD0, 0xD8)
)
# A marker that is no part of a scan's data, and what needs no length.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_PROGRESSIVE, _SCAN, _LAST = 0xC2, 0xDA, 0xD9
_COEFFICIENTS = 64


def is_missing(data: bytes, image: Image.Image, smallest: int | None, max_pixels: int) -> bool:
    """Whether a part of a decoded JPEG is missing.

    A cut in the last scan of a progressive file, which gives fine detail its last bit, is not
    noticed.

    Args:
      image: decoded from it.
      smallest: the size that was asked for, see `decode_picture`.
      max_pixels: as `image` was opened with.
    """
    if image.info.get("progressive") and _lacks_scans(data):
        return True
    return _has_grey_rest(image) and _ends_early(data, image, smallest, max_pixels)


def _has_grey_rest(image: Image.Image) -> bool:
    """Whether the last block looks as if the decoder had no data for it."""
    right, below = image.size
    # One pixel first: it takes microseconds and settles almost every image.
    if not np.isin(np.array(image.getpixel((right - 1, below - 1))), _UNKNOWN_GREYS).all():
        return False
    end = image.crop((max(0, right - 4), below - 1, right, below))
    return bool(np.isin(np.asarray(end), _UNKNOWN_GREYS).all())


def _ends_early(data: bytes, image: Image.Image, smallest: int | None, max_pixels: int) -> bool:
    """Whether a file's data end before its image does.

    Bytes before the end marker are skipped where the image is complete, decoded where it is not.
    """
    end = data.rfind(END)
    try:
        with opened(data[:end] + _MORE + data[end:], max_pixels) as longer:
            if smallest is not None:
                longer.draft("RGB", (smallest, smallest))
            return longer.tobytes() != image.tobytes()
    except (BadImageError, OSError):
        return True


def _lacks_scans(data: bytes) -> bool:
    """Whether a progressive file does not give all bits of all coefficients."""
    missing: dict[int, list[int]] = {}
    place = 2
    while match := _MARKER.search(data, place):
        marker, start = match[1][0], match.end()
        if marker == _LAST or start + 2 > len(data):
            break
        place = start + int.from_bytes(data[start : start + 2])
        segment = data[start + 2 : place]
        if marker == _PROGRESSIVE and len(segment) > 5:
            missing = {segment[i]: [1] * _COEFFICIENTS for i in range(6, len(segment) - 2, 3)}
        elif marker == _SCAN and len(segment) == 2 * (segment[0] if segment else 0) + 4:
            first, last, bits = segment[-3:]
            for component in segment[1:-3:2]:
                if component in missing:
                    width = last + 1 - first
                    missing[component][first : last + 1] = [bits & 15] * width
    return any(any(left) for left in missing.values())
