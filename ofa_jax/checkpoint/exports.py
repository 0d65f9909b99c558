"""Our variables to any checkpoint: fairseq files, HuggingFace directories, our own directories.

The counterpart of `imports`. `ofa_jax.convert` is the command line around both.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from ofa_jax.checkpoint import orbax_weights
from ofa_jax.checkpoint.fairseq_cfg import fairseq_cfg
from ofa_jax.checkpoint.finite import check_range
from ofa_jax.checkpoint.huggingface import (
    SAFETENSORS_FILE,
    TORCH_FILE,
    copy_vocabulary,
    write_huggingface_directory,
)
from ofa_jax.checkpoint.imports import ImportedCheckpoint
from ofa_jax.checkpoint.layout import SHARED_EMBEDDING
from ofa_jax.checkpoint.names import to_state_dict
from ofa_jax.checkpoint.task_facts import AVERAGED
from ofa_jax.checkpoint.torch_archive import numpy_dtype
from ofa_jax.checkpoint.torch_reader import StateDict, Tensor
from ofa_jax.checkpoint.torch_writer import write_fairseq_checkpoint
from ofa_jax.errors import started

__all__ = [
    "EXPORT_DTYPES",
    "TARGET_FORMATS",
    "ReportStage",
    "export_checkpoint",
    "official_state_dict",
]

TARGET_FORMATS = ("orbax", "fairseq", "huggingface")
EXPORT_DTYPES = ("source", "float32", "float16", "bfloat16")

ReportStage = Callable[[str], None]


def _silent(line: str) -> None:
    del line


@dataclasses.dataclass(frozen=True, eq=False)
class _Cast:
    """An array to be written in another dtype, converted when it is its turn."""

    array: np.ndarray
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy
        return self.array.astype(self.dtype if dtype is None else dtype)


def official_state_dict(imported: ImportedCheckpoint, dtype: str = "source") -> StateDict:
    """The complete official state dict of our variables, in the wanted dtypes.

    Args:
      imported: weights and record.
      dtype: "source" gives each tensor the dtype it had where it came from (float32 where that
        is unknown); or one dtype for all floating-point tensors.

    Returns:
      Official names -> arrays, converted one at a time; tied entries are the same object.

    Raises:
      ValueError: an unknown dtype, or a value that becomes infinite in it.
    """
    if dtype not in EXPORT_DTYPES:
        raise ValueError(f"dtype must be one of {EXPORT_DTYPES}, got {dtype!r}")
    record = imported.record
    arrays = to_state_dict(imported.variables, imported.config)
    known = Counter(d for d in record.dtypes.values() if "float" in d).most_common(1)
    default = known[0][0] if known else "float32"
    cast: dict[int, _Cast] = {}
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        if name in record.batches_tracked:
            array = np.array(record.batches_tracked[name], array.dtype)
        # Tied names are one tensor, so they have the dtype of the first.
        key = SHARED_EMBEDDING[0] if name in SHARED_EMBEDDING else name
        wanted = record.dtypes.get(key, default) if dtype == "source" else dtype
        if array.dtype.kind != "f" or wanted == array.dtype.name:
            tensors[name] = array
            continue
        if id(array) not in cast:
            check_range(name, array, numpy_dtype(wanted))
            cast[id(array)] = _Cast(array, numpy_dtype(wanted))
        tensors[name] = cast[id(array)]
    return StateDict(tensors)


def export_checkpoint(
    imported: ImportedCheckpoint,
    target: str | os.PathLike,
    target_format: str,
    *,
    dtype: str = "source",
    vocabulary_files: Iterable[str | os.PathLike] | None = None,
    hub_weights: Iterable[str] = (SAFETENSORS_FILE, TORCH_FILE),
    legacy: bool = False,
    task: str = "",
    progress: ReportStage = _silent,
) -> None:
    """Writes weights in one of the three formats.

    Args:
      target: a `.pt` file ("fairseq") or a directory; must not hold a checkpoint yet.
      target_format: "orbax", "fairseq" or "huggingface".
      dtype: see `official_state_dict`; our own directories are always float32.
      vocabulary_files: copied into directories; None takes those that lay beside the source.
      hub_weights: weight files of a HuggingFace directory.
      legacy: write the fairseq file in the format of torch before 1.6.
      task: official task of the fairseq file (`fairseq_cfg.OFFICIAL_TASKS`); "" is what the source
        says, else pretraining.
      progress: called with one line per stage.

    Raises:
      FileExistsError: the target exists.
      ValueError: an unknown format, dtype or task, or a value that the dtype cannot hold.
    """
    target = pathlib.Path(target)
    if target_format not in TARGET_FORMATS:
        raise ValueError(f"target_format must be one of {TARGET_FORMATS}, got {target_format!r}")
    weights = {
        "fairseq": target,
        "huggingface": target / "config.json",
        "orbax": orbax_weights.step_directory(target) or target / "checkpoint_0",
    }[target_format]
    if weights.exists():
        raise FileExistsError(f"{weights} exists; give another target or remove it first")
    vocabulary = tuple(imported.vocabulary_files if vocabulary_files is None else vocabulary_files)
    cfg = fairseq_cfg(imported.config, imported.task, imported.cfg, task)
    progress(f"writing {target} ({target_format})")
    if target_format == "orbax":
        started()
        orbax_weights.write_weights(target, imported.variables, imported.config, imported.record)
        copy_vocabulary(vocabulary, target)
        return
    state_dict = official_state_dict(imported, dtype)
    started()
    if target_format == "fairseq":
        name, tensors = cfg["task"]["_name"], state_dict.tensors
        known = task or imported.task.name
        progress(f"  for the official task {name}" + ("" if known else "; --task says another"))
        # The official scripts of this task evaluate the average and fail where a file has none.
        ema = tensors if name == AVERAGED else None
        write_fairseq_checkpoint(target, tensors, cfg=cfg, ema=ema, legacy=legacy)
    else:
        write_huggingface_directory(
            target,
            state_dict,
            imported.config,
            weights=hub_weights,
            vocabulary_files=vocabulary,
            task=imported.task,
        )
