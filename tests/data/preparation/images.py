"""Small images, whole and broken, for the tests of preparation."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def pixels(width: int, height: int, seed: int = 0) -> np.ndarray:
    """uint8[height, width, 3]: smooth, so that JPEG keeps it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray | Image.Image, form: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    return encoded(pixels(width, height, seed), "JPEG", quality=90)


def cmyk_jpeg(width: int = 64, height: int = 48) -> bytes:
    return encoded(Image.fromarray(pixels(width, height)).convert("CMYK"), "JPEG")


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file with its checksum."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png_bomb(width: int, height: int) -> bytes:
    """A small PNG file that declares a huge picture: one grey row, the others never come."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(width + 1))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", rows)
        + png_chunk(b"IEND", b"")
    )


def webp_bomb(width: int, height: int) -> bytes:
    """A small WebP file whose extended header declares a huge canvas."""
    small = encoded(pixels(8, 8), "WEBP", quality=80)[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    content = b"WEBP" + extended + small
    return b"RIFF" + struct.pack("<I", len(content)) + content


def jpeg_declaring(width: int, height: int) -> bytes:
    """A JPEG whose frame header declares another size than its data have."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)
