"""Answers that are pictures: text to image, and the middle of a photograph, as PNG files.

The part of `infer` that needs an image tokenizer: the model writes codes, the tokenizer turns them
into pixels.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from PIL import Image

from ofa_jax.data.ops.image import resize_square
from ofa_jax.data.ops.image_tokenizer import ImageTokenizer, check_codes
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.inference.code_images import decoded_images, with_center
from ofa_jax.inference.predictor import OFFICIAL_DRAWING, OFAPredictor
from ofa_jax.metrics.generation import Extractors

logger = logging.getLogger("ofa_jax")

# What stands between the instruction and the description of an image (SPEC 8.5).
_CAPTION = "caption:"


def image_settings(
    predictor: OFAPredictor, decoding: Mapping[str, Any] | None, sampling: bool, *, whole: bool
) -> BeamConfig | SamplingConfig:
    """How codes are written: drawn as `OFAPredictor.generate_codes` does, or searched.

    Args:
      predictor: the model.
      decoding: settings that differ, of `SamplingConfig` or `BeamConfig`.
      sampling: whether to draw.
      whole: whether whole images are made, or middles.

    Raises:
      ValueError: a setting that there is not.
    """
    drawing = predictor.image_decoding if whole else OFFICIAL_DRAWING
    defaults: Mapping[str, Any] = drawing if sampling else {"beam": 1}
    given = {**defaults, **(decoding or {})}
    try:
        return SamplingConfig(**given) if sampling else BeamConfig(**given)
    except TypeError as error:
        raise ValueError(f"decoding: {error}") from error


def write_images(
    predictor: OFAPredictor,
    instruction: str,
    image: np.ndarray | None,
    target: pathlib.Path,
    *,
    decoding: BeamConfig | SamplingConfig,
    extractors: Extractors | None = None,
    seed: int = 0,
) -> list[pathlib.Path]:
    """Asks for an image, or for the middle of one, and writes what comes.

    Args:
      predictor: the model, with an image tokenizer.
      instruction: what to do.
      image: uint8[y, x, 3] whose middle is to be filled; None makes a whole image.
      target: PNG to write; further samples get a number.
      decoding: how codes are written; several samples or beams give several images.
      extractors: see `OFAPredictor.generate_image`.
      seed: of sampling.

    Returns:
      The files, best first.

    Raises:
      ValueError: the tokenizer has codes that the model has not.
    """
    if image is None and isinstance(decoding, SamplingConfig):
        pictures = predictor.generate_image(
            instruction.rpartition(_CAPTION)[2],
            count=decoding.samples,
            decoding=decoding,
            extractors=extractors,
            seed=seed,
        )
    else:
        tokenizer = cast(ImageTokenizer, predictor.image_tokenizer)
        check_codes(tokenizer, predictor.tokenizer.layout.num_codes)
        codes, scores = predictor.generate_codes(instruction, image, decoding=decoding, seed=seed)
        logger.info("log-probabilities of the codes: %s", ", ".join(f"{s:.1f}" for s in scores))
        pixels = decoded_images(codes.reshape(len(codes), -1), tokenizer)
        if image is not None:
            side = max(predictor.image_size, 2 * codes.shape[1] * tokenizer.patch)
            whole = resize_square(image, side)
            pixels = (with_center(whole, picture) for picture in pixels)
        pictures = [Image.fromarray(picture) for picture in pixels]
    target.parent.mkdir(parents=True, exist_ok=True)
    files = []
    for number, picture in enumerate(pictures):
        file = target if not number else target.with_stem(f"{target.stem}_{number}")
        picture.save(file)
        files.append(file)
    return files
