"""Only what was trained: the small file of a run that froze the rest of its model (SPEC 8.11).

A `.safetensors` file with the trained parameters under our paths, in layer layout "loop", and a
header that says which parts they are (`TuningConfig`) and on which model they sit: the name of its
checkpoint, its settings, and a digest of every weight that the file does not have. Weights of
another model are refused. `import_checkpoint` reads such a file like any other checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util
from jaxtyping import PyTree

from ofa_jax import schema
from ofa_jax.atomic import JsonObject, replacing
from ofa_jax.checkpoint.huggingface import read_safetensors
from ofa_jax.checkpoint.repairs import CheckpointMismatchError
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.model.config import OFAConfig, TuningConfig
from ofa_jax.model.stacking import stack_layers, unstack_layers
from ofa_jax.training.optimizer import compiled

TUNED_FILE = "tuned.safetensors"
_FORMAT = "ofa_jax tuned 1"
_HEADER = {"tuning", "batch_norm", "base", "settings", "digest"}
# What two models must share beside their weights.
_SETTINGS = (
    "vocab_size",
    "num_codes",
    "width",
    "num_heads",
    "encoder_layers",
    "decoder_layers",
    "token_bucket_size",
    "token_bucket_range",
    "image_bucket_size",
    "code_image_size",
    "image_mean",
    "image_std",
)

_EMBEDDING = "params/token_embedding/embedding"

Flat = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TunedWeights:
    """What such a file holds.

    Attributes:
      arrays: "params/<path>" or "batch_stats/<path>" to float32 array, in layout "loop".
      tuning: the parts that were added to the model.
      batch_norm: mode that the model was trained in.
      base: the checkpoint that training started from, as it was given; "" where there was none.
      settings: of the base model.
      digest: of all its weights that `arrays` does not have.
    """

    arrays: Flat
    tuning: TuningConfig
    batch_norm: Literal["batch", "frozen"]
    base: str
    settings: JsonObject
    digest: str


def write_tuned(
    path: str | os.PathLike,
    variables: Mapping[str, PyTree],
    config: OFAConfig,
    *,
    frozen: Sequence[str],
    base: str,
) -> int:
    """Writes the parameters that were trained; batch statistics too, where they moved.

    Args:
      variables: {"params", "batch_stats"} after training, unboxed, in either layer layout.
      frozen: expressions of `OptimizerConfig.frozen`.
      base: the checkpoint that training started from.

    Returns:
      How many numbers the file holds.

    Raises:
      ValueError: everything is frozen.
    """
    flat = _flat(variables)
    patterns = [compiled(pattern) for pattern in frozen]

    def trained(name: str) -> bool:
        collection, path = name.split("/", 1)
        if collection == "batch_stats":
            return config.batch_norm == "batch"
        return not any(is_match(path) for is_match in patterns)

    arrays = {name: np.ascontiguousarray(a) for name, a in flat.items() if trained(name)}
    if not any(name.startswith("params/") for name in arrays):
        raise ValueError(f"OptimizerConfig.frozen {tuple(frozen)} leaves no parameter to save")
    header = {
        "format": _FORMAT,
        "tuning": json.dumps(dataclasses.asdict(config.tuning)),
        "batch_norm": config.batch_norm,
        "base": base,
        "settings": json.dumps(_settings(config)),
        "digest": _digest(flat, arrays, config),
    }
    with replacing(path) as unfinished:
        unfinished.write_bytes(safetensors.numpy.save(arrays, metadata=header))
    return sum(array.size for array in arrays.values())


def split_source(source: str | os.PathLike) -> tuple[pathlib.Path, str] | None:
    """Recognizes a file of trained parts, written FILE or FILE@BASE.

    Args:
      source: of a checkpoint.

    Returns:
      (file, base or ""), or None where the source is something else.
    """
    file, _, base = str(source).partition("@")
    path = pathlib.Path(file)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "numpy") as handle:
            header = handle.metadata() or {}
    except safetensors.SafetensorError:
        return None
    return (path, base) if header.get("format") == _FORMAT else None


def read_tuned(path: str | os.PathLike) -> TunedWeights:
    """Reads a file of `write_tuned`.

    Raises:
      CheckpointFileError: its header is not one of ours.
    """
    arrays = {name: np.asarray(tensor) for name, tensor in read_safetensors(path).tensors.items()}
    with safetensors.safe_open(path, "numpy") as handle:
        header = handle.metadata() or {}
    if missing := _HEADER - header.keys():
        raise CheckpointFileError(f"{path}: its header lacks {min(missing)}")
    place = f"{path}, its header"

    def parsed(name: str) -> JsonObject:
        return schema.parse_json(header[name], f"{place}, {name}", CheckpointFileError)

    if not isinstance(settings := parsed("settings"), dict):
        raise CheckpointFileError(f"{place}, settings: must be an object")
    tuning = schema.build(TuningConfig, parsed("tuning"), f"{place}, tuning", CheckpointFileError)
    if header["batch_norm"] not in ("batch", "frozen"):
        raise CheckpointFileError(f"{place}, batch_norm: must be 'batch' or 'frozen'")
    return TunedWeights(
        arrays, tuning, header["batch_norm"], header["base"], settings, header["digest"]
    )


def apply_tuned(
    variables: Mapping[str, PyTree], config: OFAConfig, tuned: TunedWeights, name: str
) -> tuple[dict[str, PyTree], OFAConfig]:
    """Puts trained parts onto the model that they were trained on.

    Args:
      variables: {"params", "batch_stats"} of the base model, in the layout of `config`.
      config: the base model.
      tuned: from `read_tuned`.
      name: of the file, for messages.

    Returns:
      (variables, config) of the tuned model.

    Raises:
      CheckpointMismatchError: another base model.
    """
    here = _settings(config)
    different = [key for key, value in tuned.settings.items() if here.get(key) != value]
    if different:
        shown = ", ".join(
            f"{k} is {tuned.settings[k]} there, {here.get(k)} here" for k in different
        )
        raise CheckpointMismatchError(f"{name} was trained on another model: {shown}")
    flat = _flat(variables)
    if _digest(flat, tuned.arrays, config) != tuned.digest:
        base = f" ({tuned.base})" if tuned.base else ""
        raise CheckpointMismatchError(
            f"{name} was trained on a model of this size{base} with other weights; give its own, "
            f"{name}@BASE"
        )
    nested = traverse_util.unflatten_dict({**flat, **tuned.arrays}, sep="/")
    if config.layer_stack == "scan":
        nested = stack_layers(nested)
    return nested, dataclasses.replace(config, tuning=tuned.tuning, batch_norm=tuned.batch_norm)


def with_new_parts(variables: PyTree, initial: PyTree) -> dict[str, PyTree]:
    """Weights of a model without tuned parts, in a model that has them.

    Args:
      variables: {"params", "batch_stats"} of the base model.
      initial: of the tuned model, in the same layer layout; only what is missing is taken.

    Returns:
      The tree of `initial` with all leaves that `variables` has.
    """
    return {
        key: with_new_parts(variables.get(key, {}), value)
        if isinstance(value, Mapping)
        else variables.get(key, value)
        for key, value in initial.items()
    }


def _flat(variables: Mapping[str, PyTree]) -> Flat:
    tree = unstack_layers({name: variables.get(name, {}) for name in ("params", "batch_stats")})
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: np.asarray(leaf, np.float32) for name, leaf in flat.items()}


def _settings(config: OFAConfig) -> dict[str, object]:
    return json.loads(json.dumps({name: getattr(config, name) for name in _SETTINGS}))


def _digest(flat: Mapping[str, np.ndarray], without: Iterable[str], config: OFAConfig) -> str:
    digest = hashlib.sha256()
    for name in sorted(set(flat) - set(without)):
        array = flat[name]
        if name == _EMBEDDING:
            # Rows that only fill up the table mean nothing, and are zero after a conversion.
            array = array[: config.vocab_size]
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
