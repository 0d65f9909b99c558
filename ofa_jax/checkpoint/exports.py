"""Our variables to any checkpoint: fairseq files, HuggingFace folders, our own folders.

The counterpart of `imports`. `ofa_jax.convert` is the command line around both.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ofa_jax.checkpoint import orbax_weights
from ofa_jax.checkpoint.finite import check_range
from ofa_jax.checkpoint.huggingface import (
    SAFETENSORS_FILE,
    TORCH_FILE,
    copy_vocabulary,
    write_huggingface_folder,
)
from ofa_jax.checkpoint.imports import ImportedCheckpoint
from ofa_jax.checkpoint.layout import SHARED_EMBEDDING, vocabulary_parts
from ofa_jax.checkpoint.names import to_state_dict
from ofa_jax.checkpoint.torch_archive import numpy_dtype
from ofa_jax.checkpoint.torch_reader import StateDict
from ofa_jax.checkpoint.torch_writer import write_fairseq_checkpoint
from ofa_jax.model.config import OFAConfig

TARGET_FORMATS = ("orbax", "fairseq", "huggingface")
EXPORT_DTYPES = ("source", "float32", "float16", "bfloat16")

Progress = Callable[[str], None]


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
    cast: dict[int, Any] = {}
    tensors: dict[str, Any] = {}
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


def fairseq_arguments(config: OFAConfig) -> dict[str, Any]:
    """The `cfg` of an exported fairseq file: plain dicts with the official argument names.

    Args:
      config: the model.

    Returns:
      {"model": ..., "task": ...}; `arch` is that of the official size with the same stem and
      width, the sizes themselves are spelt out.
    """
    arch = {256: "tiny", 512: "medium", 768: "base", 1024: "large", 1280: "huge"}
    stems: dict[tuple[int, ...], str] = {
        (2, 2, 2): "resnet18",
        (3, 4, 6): "resnet50",
        (3, 4, 23): "resnet101",
        (3, 8, 36): "resnet152",
    }
    codes, bins = vocabulary_parts(config.vocab_size, {"code_dict_size": config.num_codes})
    task = {"code_dict_size": codes, **({"num_bins": bins} if bins else {})}
    sides: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        sides |= {
            f"{side}_embed_dim": config.width,
            f"{side}_ffn_embed_dim": config.ffn_width(side),
            f"{side}_attention_heads": config.num_heads,
            f"{side}_layers": getattr(config, f"{side}_layers"),
            f"{side}_drop_path_rate": getattr(config, f"{side}_drop_path"),
            f"{side}_normalize_before": True,
        }
    flags = (
        *("share_all_embeddings", "layernorm_embedding", "patch_layernorm_embedding"),
        *("code_layernorm_embedding", "add_type_embedding", "scale_attn", "scale_fc"),
        *("scale_heads", "disable_entangle"),
    )
    model = {
        "_name": f"ofa_{arch.get(config.width, 'base')}",
        "arch": f"ofa_{arch.get(config.width, 'base')}",
        **sides,
        **dict.fromkeys(flags, True),
        "scale_resids": config.scale_resids,
        "resnet_type": stems.get(config.resnet.stage_blocks),
        "resnet_drop_path_rate": config.resnet_drop_path,
        "token_bucket_size": config.token_bucket_size,
        "image_bucket_size": config.image_bucket_size,
        "max_source_positions": config.max_positions,
        "max_target_positions": config.max_positions,
        "attn_scale_factor": 2,
        "code_image_size": config.code_image_size,
        "orig_patch_image_size": config.orig_patch_image_size,
        "interpolate_position": config.interpolate_position,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
    }
    return {"model": model, "task": task}


def export_checkpoint(
    imported: ImportedCheckpoint,
    target: str | os.PathLike,
    target_format: str,
    *,
    dtype: str = "source",
    vocabulary_files: Iterable[str | os.PathLike] | None = None,
    hub_weights: Iterable[str] = (SAFETENSORS_FILE, TORCH_FILE),
    legacy: bool = False,
    progress: Progress = _silent,
) -> None:
    """Writes weights in one of the three formats.

    Args:
      imported: the weights.
      target: a `.pt` file ("fairseq") or a folder; must not hold a checkpoint yet.
      target_format: "orbax", "fairseq" or "huggingface".
      dtype: see `official_state_dict`; our own folders are always float32.
      vocabulary_files: copied into folders; None takes those that lay beside the source.
      hub_weights: weight files of a HuggingFace folder.
      legacy: write the fairseq file in the format of torch before 1.6.
      progress: called with one line per stage.

    Raises:
      FileExistsError: the target exists.
      ValueError: an unknown format or dtype.
    """
    target = pathlib.Path(target)
    if target_format not in TARGET_FORMATS:
        raise ValueError(f"target_format must be one of {TARGET_FORMATS}, got {target_format!r}")
    weights = {
        "fairseq": target,
        "huggingface": target / "config.json",
        "orbax": orbax_weights.step_folder(target) or target / "checkpoint_0",
    }[target_format]
    if weights.exists():
        raise FileExistsError(f"{weights} exists; give another target or remove it first")
    vocabulary = tuple(imported.vocabulary_files if vocabulary_files is None else vocabulary_files)
    progress(f"writing {target} ({target_format})")
    if target_format == "orbax":
        orbax_weights.write_weights(target, imported.variables, imported.config, imported.record)
        copy_vocabulary(vocabulary, target)
        return
    state_dict = official_state_dict(imported, dtype)
    if target_format == "fairseq":
        cfg = fairseq_arguments(imported.config)
        write_fairseq_checkpoint(target, state_dict.tensors, cfg=cfg, legacy=legacy)
    else:
        write_huggingface_folder(
            target, state_dict, imported.config, weights=hub_weights, vocabulary_files=vocabulary
        )
