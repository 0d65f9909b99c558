"""The two tokenizers of `scenes`: a small BPE trained on its grammar, a codebook of its patches.

Both are made from nothing in seconds, are pure functions of the preset, and are cached per
process; a run saves them beside its checkpoints.
"""

from __future__ import annotations

import functools

import numpy as np

from ofa_jax.data.ops.image_tokenizer import PatchCodebook
from ofa_jax.scenes.presets import preset
from ofa_jax.scenes.source import ScenesSource, corpus
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout

# Two pixels per bin; the prototype's 16 bins on 32 pixels.
PIXELS_PER_BIN = 2
CODEBOOK_IMAGES = 512


@functools.lru_cache(maxsize=8)
def scenes_tokenizer(name: str, instructions: tuple[str, ...] = ()) -> Tokenizer:
    """The tokenizer of a preset: its words, its codes, its bins.

    Args:
      name: preset of `ofa_jax.scenes.presets`.
      instructions: further lines whose words shall be single tokens.

    Returns:
      The tokenizer; equal for equal arguments on every machine.
    """
    config = preset(name)
    lines = corpus(config, instructions)
    layout_of = functools.partial(
        VocabLayout,
        num_codes=config.num_codes,
        num_bins=config.pixels // PIXELS_PER_BIN,
        max_image_size=config.pixels,
    )
    text = TrainedBPE.train(lines, num_merges=512)
    return Tokenizer(text, layout_of(num_text=text.num_text))


@functools.lru_cache(maxsize=8)
def scenes_codebook(name: str) -> PatchCodebook:
    """The patch codebook of a preset, fitted to the centers of its first training images.

    Args:
      name: preset of `ofa_jax.scenes.presets`.

    Returns:
      The codebook; equal on every machine up to the last bit of floating point.
    """
    config = preset(name)
    source = ScenesSource(config.name, "train")
    low, high = config.pixels // 4, config.pixels // 4 * 3
    centers = np.stack(
        [source[index]["image"][low:high, low:high] for index in range(CODEBOOK_IMAGES)]
    )
    return PatchCodebook.fit(centers, num_codes=config.num_codes, patch=config.patch)
