"""`ofa_jax.load`: a model from wherever it is, with its tokenizer and the tasks that it knows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

from ofa_jax.checkpoint.vocabulary import open_vocabulary
from ofa_jax.data.ops.image_tokenizer import CODEBOOK_FILE, ImageTokenizer, PatchCodebook
from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.inference.predictor import OFAPredictor
from ofa_jax.inference.weights import find_checkpoint, load_weights, trained_cards
from ofa_jax.sharding.layout import MeshLayout

__all__ = ["load"]


def load(
    source: str | os.PathLike = "",
    *,
    vocabulary: str | os.PathLike | None = None,
    image_size: int | None = None,
    decoding: BeamConfig | SamplingConfig | None = None,
    dtype: str | None = None,
    ema: bool | None = None,
    revision: str | None = None,
    code_image_size: int | None = None,
    image_tokenizer: ImageTokenizer | None = None,
    ignore_extra_rows: bool = False,
    cards: Sequence[TaskCard] = (),
    devices: int | None = 1,
    progress: Callable[[str], None] | None = None,
) -> OFAPredictor:
    """Loads a model from wherever it is.

    Args:
      source: a fairseq `.pt`, a HuggingFace directory or repository id ("OFA-Sys/ofa-base"), a
        directory of ours (converted or trained), or a gs:// address; "" is the quickstart's run.
      vocabulary: directory or hub repository with the vocabulary files; None = those beside the
        weights.
      image_size: side in pixels of the model's input; None = as the run or the checkpoint says,
        see `OFAPredictor`.
      decoding: of free instructions, see `OFAPredictor`.
      dtype: type of the computation, "float32" or "bfloat16"; None = as configured.
      ema: take the moving average of the weights; None = where a run of ours keeps one, and where
        the official scripts take it.
      revision: of a hub repository.
      code_image_size: side in pixels of the images that the model makes of codes; None = as the
        checkpoint says (256 for the released text-to-image model, 128 for the others).
      image_tokenizer: turns codes into pixels, see
        `ofa_jax.data.ops.image_tokenizer.load_image_tokenizer`; None = the codebook beside the
        vocabulary, if there is one.
      ignore_extra_rows: the embedding has up to 1,023 rows more than the vocabulary, as padding.
      cards: tasks that can be asked by name besides those of the run.
      devices: of this process, over which batches are split; None takes all.
      progress: called with one line per stage.

    Returns:
      The predictor.

    Raises:
      FileNotFoundError: no such source, or no vocabulary beside it.
      ValueError: unreadable files, or a vocabulary of another model.
    """
    found = find_checkpoint(os.fspath(source))
    imported = load_weights(found, ema=ema, dtype=dtype or "", revision=revision, progress=progress)
    tokenizer, imported = open_vocabulary(imported, vocabulary, ignore_extra_rows=ignore_extra_rows)
    config = imported.config
    if code_image_size is not None:
        config = dataclasses.replace(config, code_image_size=code_image_size)
    beside = [path.with_name(CODEBOOK_FILE) for path in imported.vocabulary_files[:1]]
    if image_tokenizer is None and beside and beside[0].is_file():
        image_tokenizer = PatchCodebook.load(beside[0])
    return OFAPredictor(
        config,
        imported.variables,
        tokenizer,
        image_size=image_size or imported.task.image_size,
        decoding=decoding,
        cards=(*trained_cards(found), *cards),
        decoder_prompt=imported.task.decoder_prompt or "",
        image_tokenizer=image_tokenizer,
        layout=MeshLayout.local(devices),
    )
