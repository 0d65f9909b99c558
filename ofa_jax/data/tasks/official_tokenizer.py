"""The official vocabulary as a cached function, the form in which tasks name their tokenizer."""

from __future__ import annotations

import functools

from ofa_jax.data.sources import locations
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer


def official_tokenizer(directory: str) -> Tokenizer:
    """Loads the vocabulary files of a directory, each directory once per process.

    Args:
      directory: path of GPT-2 or BERT vocabulary files; may hold `{VOCAB_DIR}`.

    Returns:
      The tokenizer with the official layout of ids.

    Raises:
      ValueError: the directory is not set or lacks its files.
    """
    return _load(locations.resolve(directory))


@functools.lru_cache(maxsize=4)
def _load(directory: str) -> Tokenizer:
    return load_tokenizer(directory)
