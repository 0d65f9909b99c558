"""The weights of an evaluation or inference, and what the run says that they come from."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ofa_jax import digest
from ofa_jax.checkpoint.bucket import is_remote, local_copy
from ofa_jax.checkpoint.imports import ImportedCheckpoint, import_checkpoint
from ofa_jax.checkpoint.orbax_weights import best_step, step_directory
from ofa_jax.checkpoint.tuned import split_source
from ofa_jax.data.tasks.card import TaskCard, read_cards, read_settings
from ofa_jax.model.config import OFAConfig
from ofa_jax.report.paper_tables import configured_methods

logger = logging.getLogger("ofa_jax")

QUICKSTART = "runs/quickstart"
_SMALL_FILE = 1 << 20


def find_checkpoint(checkpoint: str) -> str:
    """The checkpoint to use; without one that of the quickstart, of a run the best that it kept.

    Raises:
      ValueError: none was given, and there is no quickstart run.
    """
    if is_remote(checkpoint):
        return str(local_copy(checkpoint))
    if checkpoint:
        return _best_of_run(checkpoint) or checkpoint
    if pathlib.Path(QUICKSTART).is_dir():
        logger.info("no --checkpoint given, taking %s", QUICKSTART)
        return QUICKSTART
    raise ValueError(
        "no checkpoint: give --checkpoint, the directory or gs:// address of a run, a .pt file, a "
        "HuggingFace directory or a hub repository such as OFA-Sys/ofa-base; `make quickstart` "
        "trains a small one"
    )


def _best_of_run(directory: str) -> str | None:
    """The checkpoint that a finished fine-tuning run chose by its evaluations."""
    step = best_step(directory)
    if step is None:
        return None
    logger.info("taking the best checkpoint of %s, step %d", directory, step)
    return str(pathlib.Path(directory) / f"checkpoint_{step}")


def trained_cards(checkpoint: str) -> tuple[TaskCard, ...]:
    """The tasks of the run that a checkpoint comes from; () where there is no run.

    They are data in its `config.json`.

    Args:
      checkpoint: as the user gave it; the directory of a run or a checkpoint in it.

    Raises:
      ValueError: its `config.json` cannot be read.
    """
    for directory in _homes(checkpoint):
        if cards := read_cards(directory):
            return cards
    return ()


def checkpoint_identity(checkpoint: str) -> dict[str, object]:
    """What tells a checkpoint from another one, wherever it was copied to.

    Args:
      checkpoint: from `find_checkpoint`.

    Returns:
      "step" of a run's checkpoint, and "content": sizes of all of its files, and digests of the
      small ones, which hold times and ids that no two checkpoints share. {"id": ...} for a
      repository of the hub.
    """
    tuned = split_source(checkpoint)
    parts = [checkpoint] if tuned is None else [str(part) for part in tuned if part]
    content: list[list[object]] = []
    step = None
    for part in parts:
        path = step_directory(part) or pathlib.Path(part)
        if not path.exists():
            return {"id": checkpoint}
        if path.name.startswith("checkpoint_"):
            step = int(path.name.rpartition("_")[2])
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            size = file.stat().st_size
            known = size <= _SMALL_FILE or len(files) == 1
            content.append(
                [str(file.relative_to(path)), size, digest.file_identity(file) if known else None]
            )
    return {"step": step, "content": digest.fingerprint({"files": content})[:16]}


def trained_methods(checkpoint: str, config: OFAConfig) -> tuple[str, ...]:
    """The methods of parameter-efficient tuning that made a model, () where all of it was trained.

    Args:
      checkpoint: as the user gave it.
      config: the model; its parts decide where no run is known.
    """
    for directory in _homes(checkpoint):
        if settings := read_settings(directory):
            return configured_methods(settings)
    tuning = config.tuning
    parts = {
        "prefix": tuning.encoder_prefix or tuning.decoder_prefix,
        "adapter": tuning.adapter_dim,
        "LoRA": tuning.lora_rank,
        # Its file holds only arrays that every model has.
        "BitFit": split_source(checkpoint) is not None and not tuning.is_on,
    }
    return tuple(name for name, is_there in parts.items() if is_there)


def _homes(checkpoint: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Where the files of a checkpoint's run may lie."""
    tuned = split_source(checkpoint)
    home = tuned[0] if tuned is not None else pathlib.Path(checkpoint)
    return home, home.absolute().parent


def load_weights(
    checkpoint: str,
    *,
    ema: bool | None = None,
    dtype: str = "",
    settings: Mapping[str, object] | None = None,
    revision: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> ImportedCheckpoint:
    """Reads a checkpoint of any kind.

    Args:
      checkpoint: see `import_checkpoint`.
      ema: take the moving average; None = where a run of ours keeps one, as its own scores did.
      dtype: type of the computation, "" = as configured.
      settings: fields of `OFAConfig` to change, such as {"code_image_size": 256}.
      revision: of a hub repository.
      progress: called with one line per stage; None logs them.

    Raises:
      ValueError: an unknown field.
      FileNotFoundError: no such checkpoint.
    """
    imported = import_checkpoint(
        checkpoint,
        ema=ema,
        revision=revision,
        progress=progress or (lambda line: logger.info("%s", line)),
    )
    changes: dict[str, Any] = dict(settings or {}) | ({"dtype": dtype} if dtype else {})
    known = {field.name for field in dataclasses.fields(imported.config)}
    if unknown := set(changes) - known:
        raise ValueError(f"model_settings: the model has no field {', '.join(sorted(unknown))}")
    return dataclasses.replace(imported, config=dataclasses.replace(imported.config, **changes))
