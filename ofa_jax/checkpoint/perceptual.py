"""Weights of the perceptual loss (LPIPS) from the files that the field trades them in.

VGG16 comes from torchvision (`features.0.weight`), its channel weights from `vgg.pth` of
taming-transformers (`lin0.model.1.weight`); an official training checkpoint may hold both, below
`loss.perceptual_loss.`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ofa_jax.checkpoint.huggingface import read_safetensors
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.checkpoint.torch_reader import Tensor, read_torch_checkpoint
from ofa_jax.losses.perceptual import LPIPS, VGG16_BLOCKS

_CONVOLUTION = re.compile(r"(?:^|\.)(?:features|slice\d)\.(\d+)\.(weight|bias)$")
_CHANNELS = re.compile(r"(?:^|\.)lin(\d)\.model\.1\.weight$")


def read_lpips(paths: Sequence[str | os.PathLike]) -> LPIPS:
    """Reads LPIPS over VGG16.

    Args:
      paths: `.pth`, `.ckpt` or `.safetensors` files that hold all weights together.

    Returns:
      The distance, with float32 weights.

    Raises:
      FileNotFoundError: there is no such file.
      CheckpointFileError: a file cannot be read, or weights are missing or of another shape.
    """
    tensors: dict[str, Tensor] = {}
    for path in paths:
        is_safe = str(path).endswith(".safetensors")
        found = read_safetensors(path) if is_safe else read_torch_checkpoint(path).state_dict
        tensors.update(found.tensors)
    shown = ", ".join(map(str, paths))
    return lpips_of({name: np.asarray(value) for name, value in tensors.items()}, shown)


def lpips_of(tensors: Mapping[str, np.ndarray], name: str = "LPIPS") -> LPIPS:
    """LPIPS of named tensors; see `read_lpips`.

    Args:
      tensors: official name to array; others are passed over.
      name: where they come from, for messages.

    Raises:
      CheckpointFileError: weights are missing or of another shape.
    """
    layers: dict[int, dict[str, np.ndarray]] = {}
    channels: dict[int, np.ndarray] = {}
    for key, value in tensors.items():
        if match := _CONVOLUTION.search(key):
            layers.setdefault(int(match[1]), {})[match[2]] = np.asarray(value, np.float32)
        elif match := _CHANNELS.search(key):
            channels[int(match[1])] = np.asarray(value, np.float32).ravel()
    convolutions, inputs = [], 3
    widths = [width for block in VGG16_BLOCKS for width in block]
    given = [layers[number] for number in sorted(layers) if len(layers[number]) == 2]
    for width, layer in zip(widths, given, strict=False):
        if layer["weight"].shape != (width, inputs, 3, 3):
            raise CheckpointFileError(
                f"{name}: convolution {len(convolutions)} of VGG16 must be "
                f"[{width}, {inputs}, 3, 3], got {list(layer['weight'].shape)}"
            )
        convolutions.append((layer["weight"].transpose(2, 3, 1, 0), layer["bias"]))
        inputs = width
    wanted = [block[-1] for block in VGG16_BLOCKS]
    sizes = [channels[number].size for number in sorted(channels)]
    if len(convolutions) < len(widths) or sizes != wanted:
        raise CheckpointFileError(
            f"{name}: LPIPS needs the {len(widths)} convolutions of VGG16 (features.0.weight ...) "
            f"and channel weights lin0 ... lin4 of {wanted}, found {len(convolutions)} and {sizes}"
        )
    weights: Any = tuple(channels[number] for number in sorted(channels))
    return LPIPS(tuple(convolutions), weights)
