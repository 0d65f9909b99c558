"""Any colors that an image file can have, to RGB with 8 bits: depth, transparency, color spaces."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms

# Of fractions beyond 0 and 1.
_OVERSHOOT = 0.1


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any of Pillow's modes as RGB; one that is RGB already is returned as it is.

    More than 8 bits per sample become the highest 8, as Pillow does it with colors of 16 bits:
    of integers of 16 bits value // 256; of 32 bits value // 256 where none is above 65,535 and
    value // 2**24 elsewhere (2**23 where they are signed); values up to 255 in 32 bits stay. Floats
    are fractions where none is above 1, else values up to 255, else values up to 65,535, rounded;
    a tenth beyond 0 and 1, as resampling leaves it, is cut.

    OFA-NOTE: SPEC 4.4. Transparent images are seen on white. The official `convert("RGB")` shows
    the colors that files keep below full transparency, which are arbitrary, and clips samples of
    more than 8 bits to white.

    Args:
      image: of any mode.

    Returns:
      An image of mode RGB.

    Raises:
      ValueError: samples that are negative, not finite, or in no known range.
    """
    key = image.info.get("transparency")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        samples = np.asarray(image)
        grey = Image.fromarray(_eight_bits(samples, image))
        if not isinstance(key, int):
            return grey.convert("RGB")
        grey.putalpha(Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8)))
        image = grey
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return converted if converted is not None else image.convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    layers = image.convert("RGBA")
    opacity = layers.getchannel("A")
    if opacity.getextrema() == (255, 255):
        return layers.convert("RGB")
    seen = Image.new("RGB", image.size, "white")
    seen.paste(layers, mask=opacity)
    return seen


def _eight_bits(samples: np.ndarray, image: Image.Image) -> np.ndarray:
    """uint8[y, x] of samples of more bits; see `to_rgb`."""
    if samples.dtype.kind == "f":
        return _of_floats(samples)
    # Portable grey maps and PNG files of 16 bits may come as 32; TIFF files may be unsigned.
    if samples.dtype == np.int32 and _is_unsigned(image):
        samples = samples.view(np.uint32)
    low, high = int(samples.min()), int(samples.max())
    if low < 0:
        raise ValueError(f"samples from {low} to {high}: negative ones have no color")
    if samples.dtype.itemsize > 2 and image.format not in ("PNG", "PPM"):
        if high <= 255:
            return samples.astype(np.uint8)
        if high > 65535:
            bits = 24 if samples.dtype.kind == "u" else 23
            return (samples >> bits).astype(np.uint8)
    return (samples >> 8).astype(np.uint8)


def _of_floats(samples: np.ndarray) -> np.ndarray:
    low, high = float(samples.min()), float(samples.max())  # a NaN anywhere becomes both
    fractions = high <= 1 + _OVERSHOOT
    if not ((low >= 0 or (fractions and low >= -_OVERSHOOT)) and high <= 65535):
        raise ValueError(
            f"float samples from {low:g} to {high:g}: they must be finite and from 0 to 1, to 255 "
            "or to 65,535"
        )
    scale = 255 if fractions else 1 if high <= 255 else 1 / 257
    return np.clip(np.round(samples * np.float32(scale)), 0, 255).astype(np.uint8)


def _is_unsigned(image: Image.Image) -> bool:
    """Whether a TIFF file declares unsigned samples, or declares nothing, which means the same."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and 2 not in tags.get(339, (1,))
