"""From unpadded task features to the static-shape rows of a model batch.

The last numpy step of the input: both executors cut sequences by `cut` and pad them by `pad_row`;
`stack_rows` collates. The batch keys and shapes are those that `ofa_jax.model.OFA` reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np

from ofa_jax import vocab
from ofa_jax.data.sources.example import Example

__all__ = [
    "FeatureRow",
    "cut",
    "empty_row",
    "identifier",
    "pad_row",
    "stack_rows",
    "without_pixels",
]

FeatureRow = dict[str, np.ndarray]


def cut(features: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> FeatureRow:
    """Cuts the sequences of one example to their lengths.

    A source that is too long loses tokens before its eos, a target loses its end including eos
    (so that a model never learns to stop in the middle of a sentence).

    Args:
      features: output of `OFATask.features`.
      lengths: `inputs` and `targets` in tokens.

    Returns:
      The features; `inputs` has at most lengths["inputs"] tokens, `targets`, `decoder_inputs` and
      `loss_weights` at most lengths["targets"].
    """
    inputs = features["inputs"]
    if len(inputs) > lengths["inputs"]:
        inputs = np.concatenate([inputs[: lengths["inputs"] - 1], inputs[-1:]])
    short = {
        key: features[key][: lengths["targets"]]
        for key in ("targets", "decoder_inputs", "loss_weights")
    }
    return {**features, "inputs": inputs, **short}


def pad_row(
    features: Mapping[str, np.ndarray], lengths: Mapping[str, int], task_id: int
) -> FeatureRow:
    """Cuts or pads the features of one example to static shapes.

    Args:
      features: output of `OFATask.features`.
      lengths: `inputs`, `targets` (tokens) and `image` (pixels).
      task_id: index of the task in its mixture.

    Returns:
      encoder_input_tokens int32[s], encoder_images uint8[y, x, 3], encoder_image_masks bool[],
      encoder_image_holes int32[4], decoder_input_tokens int32[t], decoder_target_tokens int32[t],
      decoder_loss_weights float32[t], decoder_code_masks bool[], task_ids int32[].
    """
    features = cut(features, lengths)
    return {
        "encoder_input_tokens": _pad(features["inputs"], lengths["inputs"], np.int32),
        "encoder_images": features["image"],
        "encoder_image_masks": features["image_mask"][0],
        "encoder_image_holes": features["image_hole"],
        "decoder_input_tokens": _pad(features["decoder_inputs"], lengths["targets"], np.int32),
        "decoder_target_tokens": _pad(features["targets"], lengths["targets"], np.int32),
        "decoder_loss_weights": _pad(features["loss_weights"], lengths["targets"], np.float32),
        "decoder_code_masks": features["code_mask"][0],
        "task_ids": cast(np.ndarray, np.int32(task_id)),
    }


def stack_rows(rows: Iterable[FeatureRow]) -> FeatureRow:
    """Stacks rows into a batch: every array gets a leading axis b."""
    rows = list(rows)
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def empty_row(lengths: Mapping[str, int], task_id: int = 0) -> FeatureRow:
    """A row that counts nowhere: no image, bos and eos only, all loss weights zero."""
    size = lengths["image"]
    features = {
        "inputs": np.array([vocab.BOS_ID, vocab.EOS_ID], np.int32),
        "targets": np.array([vocab.EOS_ID], np.int32),
        "decoder_inputs": np.array([vocab.BOS_ID], np.int32),
        "image": np.zeros((size, size, 3), np.uint8),
        "image_mask": np.array([False]),
        "image_hole": np.zeros(4, np.int32),
        "code_mask": np.array([False]),
        "loss_weights": np.zeros(1, np.float32),
    }
    return pad_row(features, lengths, task_id)


def without_pixels(example: Example) -> Example:
    """An example without its image, which takes almost all of its memory."""
    return {
        name: value
        for name, value in example.items()
        if not (isinstance(value, bytes) or (isinstance(value, np.ndarray) and value.ndim > 2))
    }


def identifier(example: Example, index: int) -> str:
    """The name of an example in predictions: its own id, that of its image, or its number."""
    return str(example.get("example_id") or example.get("image_id") or index)


def _pad(values: np.ndarray, length: int, dtype: type) -> np.ndarray:
    padded = np.zeros(length, dtype)
    padded[: len(values)] = values
    return padded
