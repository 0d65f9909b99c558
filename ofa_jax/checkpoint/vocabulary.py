"""The vocabulary of imported weights: found, opened, and checked against them.

`load` and `convert` come here; whether the two belong together is decided by
`ofa_jax.text.layouts.fitting_layout`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

from ofa_jax.checkpoint.huggingface import fetch_repository, is_repository_id, no_such_path
from ofa_jax.checkpoint.imports import ImportedCheckpoint, vocabulary_beside
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.text.layouts import LAYOUT_FILE, fitting_layout, read_layout, stated_layout
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.vocab import ENGLISH

# Released English .pt files come without a vocabulary; this repository has that of all of them.
_RELEASED = "OFA-Sys/ofa-base"


def _released_vocabulary(imported: ImportedCheckpoint) -> pathlib.Path:
    """The vocabulary of the released English models, from the hub or its cache on this machine."""
    message = (
        f"{imported.record.name}: no vocabulary files beside the weights; give their "
        "directory or a hub repository that has them (vocabulary=...)"
    )
    if imported.config.vocab_size != ENGLISH.size:
        raise FileNotFoundError(message)
    try:
        return fetch_repository(_RELEASED, weights=False)
    except CheckpointFileError as error:
        raise FileNotFoundError(
            f"{message}; {_RELEASED}, which has that of the English models, is neither "
            "in the cache nor to be had from the hub"
        ) from error


def open_vocabulary(
    imported: ImportedCheckpoint,
    vocabulary: str | os.PathLike | None = None,
    *,
    ignore_extra_rows: bool = False,
) -> tuple[Tokenizer, ImportedCheckpoint]:
    """Opens the vocabulary of weights, and says which ids the weights have.

    Args:
      vocabulary: directory, or repository of the hub, with the vocabulary files; None = those
        beside the weights, else, for 59,457 ids, those of the released English models from the hub.
      ignore_extra_rows: see `fitting_layout`.

    Returns:
      (the tokenizer; the weights with the vocabulary's files, whose `config` has the tokenizer's
      number of ids, so that extra rows are masked).

    Raises:
      FileNotFoundError: no vocabulary there.
      ValueError: vocabulary and weights do not belong together.
    """
    if vocabulary is None:
        beside = imported.vocabulary_files
        directory = beside[0].parent if beside else _released_vocabulary(imported)
    elif is_repository_id(str(vocabulary)):
        directory = fetch_repository(str(vocabulary), weights=False)
    else:
        directory = pathlib.Path(vocabulary)
        if not directory.is_dir():
            raise no_such_path(directory)
    text = load_tokenizer(directory).text_tokenizer
    config, task = imported.config, imported.task
    beside = next((path for path in imported.vocabulary_files if path.name == LAYOUT_FILE), None)
    layout = fitting_layout(
        text.num_text,
        config.vocab_size,
        name=str(directory),
        stated=stated_layout(directory, text.num_text),
        own=None if beside is None else read_layout(beside.parent),
        num_codes=config.num_codes if task.num_codes is None else task.num_codes,
        num_bins=task.num_bins,
        max_image_size=task.max_image_size,
        ignore_extra_rows=ignore_extra_rows,
    )
    config = dataclasses.replace(config, vocab_size=layout.size, num_codes=layout.num_codes)
    files = vocabulary_beside(directory)
    return Tokenizer(text, layout), dataclasses.replace(
        imported, config=config, vocabulary_files=files
    )
