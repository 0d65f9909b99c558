"""Strong augmentation of ImageNet classification (SPEC 8.6): crop, RandAugment, erasing.

The operations and magnitudes of timm's policy rand-m9-mstd0.5-inc1 and of its random resized crop
and random erasing, on uint8 pixels with Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ofa_jax.data.ops.image import IMAGENET_MEAN, IMAGENET_STD, as_rgb

# Pixels that a rotation or shift uncovers get the data set's mean colour.
FILL = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
_CROP_TRIALS = 10

Operation = Callable[[Image.Image, float, float], Image.Image]
"""(image, magnitude 0 .. 10, sign 1 or -1) to the new image."""


def random_resized_crop(
    image: np.ndarray,
    size: int,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """Cuts out a random part and stretches it to a square, bicubic.

    Args:
      image: uint8[y, x, 3].
      size: side of the result in pixels.
      rng: source of randomness.
      scale: smallest and largest share of the area.
      ratio: smallest and largest width by height, drawn evenly on a logarithmic scale.

    Returns:
      uint8[size, size, 3]. Where no drawn part fits in ten trials, the largest central part of an
      allowed ratio.
    """
    image = as_rgb(image)
    height, width = image.shape[:2]
    for _ in range(_CROP_TRIALS):
        area = rng.uniform(*scale) * width * height
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            break
    else:
        w = min(width, round(height * ratio[1]))
        h = min(height, round(w / ratio[0]))
        top, left = (height - h) // 2, (width - w) // 2
    part = Image.fromarray(np.ascontiguousarray(image[top : top + h, left : left + w]))
    return np.array(part.resize((size, size), Image.Resampling.BICUBIC))


def rand_augment(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    num_operations: int = 2,
    magnitude: float = 9.0,
    deviation: float = 0.5,
    probability: float = 0.5,
) -> np.ndarray:
    """Applies a few of the 15 operations, stronger with rising magnitude (Cubuk et al. 2020).

    Args:
      image: uint8[y, x, 3].
      rng: source of randomness.
      num_operations: how many are drawn, with replacement.
      magnitude: mean strength, 0 to 10.
      deviation: standard deviation of the strength, which is cut to 0 .. 10.
      probability: of applying each operation drawn.

    Returns:
      uint8[y, x, 3].
    """
    picture = Image.fromarray(np.ascontiguousarray(as_rgb(image)))
    names = list(OPERATIONS)
    for index in rng.integers(len(names), size=num_operations):
        applied, sign = rng.random() < probability, float(rng.choice((-1.0, 1.0)))
        strength = float(np.clip(rng.normal(magnitude, deviation), 0.0, 10.0))
        if applied:
            picture = OPERATIONS[names[index]](picture, strength, sign)
    return np.array(picture)


def random_erase(
    image: np.ndarray, rng: np.random.Generator, *, probability: float = 0.25
) -> np.ndarray:
    """Replaces a rectangle by noise, a normal draw per channel and pixel (Zhong et al. 2020).

    OFA-NOTE: SPEC 8.6. The official noise is added after normalization; here it is written in
    pixels, so it is cut at black and white.

    Args:
      image: uint8[y, x, 3].
      rng: source of randomness.
      probability: of erasing at all.

    Returns:
      uint8[y, x, 3]; 2 to 33 percent of the area is noise, of a ratio between 0.3 and 1 / 0.3.
    """
    if rng.random() >= probability:
        return image
    height, width = image.shape[:2]
    for _ in range(_CROP_TRIALS):
        area = rng.uniform(0.02, 1 / 3) * height * width
        shape = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            noise = rng.normal(size=(h, w, 3)) * IMAGENET_STD + IMAGENET_MEAN
            erased = image.copy()
            erased[top : top + h, left : left + w] = np.clip(255 * noise, 0, 255).astype(np.uint8)
            return erased
    return image


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def apply(picture: Image.Image, magnitude: float, sign: float) -> Image.Image:
        return enhancer(picture).enhance(max(0.1, 1.0 + sign * magnitude / 10 * 0.9))

    return apply


def _affine(picture: Image.Image, *coefficients: float) -> Image.Image:
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        coefficients,
        Image.Resampling.BICUBIC,
        fillcolor=FILL,
    )


def _rotate(picture: Image.Image, magnitude: float, sign: float) -> Image.Image:
    return picture.rotate(
        sign * magnitude / 10 * 30, resample=Image.Resampling.BICUBIC, fillcolor=FILL
    )


def _solarise_add(picture: Image.Image, magnitude: float, sign: float) -> Image.Image:
    del sign
    amount = min(128, int(magnitude / 10 * 110))
    table = [min(255, value + amount) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda picture, m, s: ImageOps.autocontrast(picture),
    "equalise": lambda picture, m, s: ImageOps.equalize(picture),
    "invert": lambda picture, m, s: ImageOps.invert(picture),
    "rotate": _rotate,
    "posterise": lambda picture, m, s: ImageOps.posterize(picture, max(1, 4 - int(m / 10 * 4))),
    "solarise": lambda picture, m, s: ImageOps.solarize(picture, 256 - min(256, int(m / 10 * 256))),
    "solarise_add": _solarise_add,
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda picture, m, s: _affine(picture, 1, s * m / 10 * 0.3, 0, 0, 1, 0),
    "shear_y": lambda picture, m, s: _affine(picture, 1, 0, 0, s * m / 10 * 0.3, 1, 0),
    "translate_x": lambda picture, m, s: _affine(
        picture, 1, 0, s * m / 10 * 0.45 * picture.width, 0, 1, 0
    ),
    "translate_y": lambda picture, m, s: _affine(
        picture, 1, 0, 0, 0, 1, s * m / 10 * 0.45 * picture.height
    ),
}
