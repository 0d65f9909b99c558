"""The official vocabulary as a cached function, the form in which tasks name their tokenizer."""

from __future__ import annotations

import functools

from ofa_jax.data.sources import locations
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer


def official_tokenizer(folder: str) -> Tokenizer:
    """Loads the vocabulary files of a folder, each folder once per process.

    Args:
      folder: path of GPT-2 or BERT vocabulary files; may hold `{VOCAB_DIR}`.

    Returns:
      The tokenizer with the official layout of ids.

    Raises:
      ValueError: the folder is not set or lacks its files.
    """
    return _load(locations.resolve(folder))


@functools.lru_cache(maxsize=4)
def _load(folder: str) -> Tokenizer:
    return load_tokenizer(folder)
