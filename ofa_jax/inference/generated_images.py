"""Answers that are pictures: text to image, and the middle of a photograph, as PNG files.

The part of `infer` that needs an image tokenizer: the model writes codes, the tokenizer turns them
into pixels.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ofa_jax.data.ops.image import resize_square
from ofa_jax.data.ops.image_tokenizer import ImageTokenizer, decode_all
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.inference.code_images import code_grid, with_center
from ofa_jax.inference.predictor import OFAPredictor
from ofa_jax.metrics.generation import Extractors, best_by_clip

logger = logging.getLogger("ofa_jax")

# What stands between the instruction and the description of an image (SPEC 8.5).
_CAPTION = "caption:"


def image_settings(
    decoding: Mapping[str, Any] | None, sampling: bool
) -> BeamConfig | SamplingConfig:
    """How codes are written: drawn among the 256 likeliest (SPEC 7.9), or searched.

    Args:
      decoding: settings that differ, of `SamplingConfig` or `BeamConfig`.
      sampling: whether to draw.

    Raises:
      ValueError: a setting that there is not.
    """
    defaults: dict[str, Any] = {"top_k": 256} if sampling else {"beam": 1}
    given = defaults | dict(decoding or {})
    try:
        return SamplingConfig(**given) if sampling else BeamConfig(**given)
    except TypeError as error:
        raise ValueError(f"decoding: {error}") from error


def write_pictures(
    predictor: OFAPredictor,
    instruction: str,
    image: np.ndarray | None,
    tokenizer: ImageTokenizer,
    target: pathlib.Path,
    *,
    decoding: BeamConfig | SamplingConfig,
    extractors: Extractors | None = None,
    seed: int = 0,
) -> list[pathlib.Path]:
    """Asks for an image, or for the middle of one, and writes what comes.

    Args:
      predictor: the model.
      instruction: what to do.
      image: uint8[y, x, 3] whose middle is to be filled; None makes a whole image.
      tokenizer: of the model's codes.
      target: PNG to write; further samples get a number.
      decoding: how codes are written; several samples or beams give several images.
      extractors: where they have CLIP's embeddings, the image that fits the text best is the
        first (SPEC 7.9).
      seed: of sampling.

    Returns:
      The files, best first.

    Raises:
      ValueError: the tokenizer has codes that the model has not.
    """
    known = predictor.tokenizer.layout.num_codes
    if tokenizer.num_codes > known:
        raise ValueError(
            f"image_tokenizer has {tokenizer.num_codes} codes and the model {known}: they do not "
            "belong together"
        )
    codes, scores = predictor.generate_codes(instruction, image, decoding=decoding, seed=seed)
    pictures = decode_all(tokenizer, [code_grid(grid.reshape(-1), tokenizer) for grid in codes])
    if extractors is not None and image is None:
        caption = instruction.rpartition(_CAPTION)[2].strip()
        best, cosine = best_by_clip(pictures, caption, extractors)
        logger.info("of %d images number %d fits best, cosine %.3f", len(codes), best, cosine)
        pictures = np.concatenate([pictures[best : best + 1], np.delete(pictures, best, axis=0)])
    if image is not None:
        side = max(predictor.image_size, 2 * pictures.shape[1])
        whole = resize_square(image, side)
        pictures = np.stack([with_center(whole, picture) for picture in pictures])
    logger.info("log-probabilities of the codes: %s", ", ".join(f"{s:.1f}" for s in scores))
    target.parent.mkdir(parents=True, exist_ok=True)
    files = []
    for number, picture in enumerate(pictures):
        file = target if not number else target.with_stem(f"{target.stem}_{number}")
        Image.fromarray(picture).save(file)
        files.append(file)
    return files
