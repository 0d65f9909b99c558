"""Which model a run's directory belongs to.

The settings that checkpoints depend on lie beside them as `model_fingerprint.json`, written with
the first one; a run with other settings is refused before it reads or overwrites anything.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import jax

from ofa_jax import schema
from ofa_jax.atomic import write_text
from ofa_jax.checkpoint.bucket import AnyPath, is_remote
from ofa_jax.checkpoint.errors import CheckpointError, ModelMismatchError
from ofa_jax.model.config import TuningConfig

FINGERPRINT_FILE = "model_fingerprint.json"
_SHOWN = 4


def flatten_settings(settings: object, prefix: str = "") -> dict[str, object]:
    """Nested settings as {"model.width": 768, ...}, in JSON's types.

    Args:
      settings: nested mappings of JSON-able values.
      prefix: path so far.

    Returns:
      Flat mapping; sequences stay values.
    """
    if isinstance(settings, Mapping):
        flat = {}
        for key, value in settings.items():
            flat.update(flatten_settings(value, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: json.loads(json.dumps(settings))}


# Settings that older directories lack, with the value that they imply there.
_LATER_SETTINGS = {
    "model.decoder_ffn_dim": None,
    "model.image_mean": [0.5, 0.5, 0.5],
    "model.image_std": [0.5, 0.5, 0.5],
    **flatten_settings(dataclasses.asdict(TuningConfig()), "model.tuning"),
}


# How the model is computed, which no checkpoint depends on.
_COMPUTATION = ("model.remat", "model.attention", "model.conv")


def check_fingerprint(directory: AnyPath, config: Mapping[str, object]) -> None:
    """Compares with the settings in a directory, where there are some.

    Args:
      directory: the run's directory.
      config: nested, JSON-able settings of model and vocabulary.

    Raises:
      ModelMismatchError: naming the settings that differ.
      CheckpointError: the file is no JSON object.
    """
    path = directory / FINGERPRINT_FILE
    if not path.exists():
        return
    remedy = "where the checkpoints beside it are of this model, delete it, and it is written again"
    saved = flatten_settings(
        schema.read_json(path, lambda say: CheckpointError(f"{say}; {remedy}"), expected=dict)
    )
    wanted = flatten_settings(config)
    for name, default in _LATER_SETTINGS.items():
        if name in wanted:
            saved.setdefault(name, default)
    absent = object()
    names = [
        name
        for name in dict.fromkeys((*saved, *wanted))
        if name not in _COMPUTATION and saved.get(name, absent) != wanted.get(name, absent)
    ]
    if names:
        shown = ", ".join(
            f"{name} is {saved.get(name, 'absent')} there and {wanted.get(name, 'absent')} here"
            for name in names[:_SHOWN]
        )
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ModelMismatchError(
            f"{directory} holds checkpoints of another model: {shown}{more}; "
            "choose another directory, or the model of this one"
        )


def write_fingerprint(
    directory: AnyPath, config: Mapping[str, object], *, replace: bool = False
) -> None:
    """Writes the settings of a run, once for all of its processes.

    Args:
      directory: the run's directory.
      config: see `check_fingerprint`.
      replace: whether those that are there belong to no checkpoint.
    """
    path = directory / FINGERPRINT_FILE
    if jax.process_index() != 0 or (path.exists() and not replace):
        return
    # In a bucket a file appears at once and whole.
    text = json.dumps(config, indent=1) + "\n"
    if is_remote(path):
        path.write_text(text, encoding="utf-8")
    else:
        write_text(path, text)
