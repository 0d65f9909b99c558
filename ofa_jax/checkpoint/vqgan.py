"""Released VQGAN weights to our parameters, and back (VQGAN_SPEC 3).

Reads the Lightning checkpoint `last.ckpt` (through the reader that runs no code), a bare state
dict, or a safetensors file. What an image tokenizer needs must be there; the discriminator and the
perceptual network, which training left in the file, are passed over. Writes the same checkpoint.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np
import yaml
from flax import linen as nn
from flax import traverse_util
from jaxtyping import PyTree

from ofa_jax.checkpoint.huggingface import read_safetensors
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.checkpoint.torch_reader import StateDict, read_torch_checkpoint
from ofa_jax.checkpoint.torch_writer import write_torch_file
from ofa_jax.model.vqgan.autoencoder import VQGAN
from ofa_jax.model.vqgan.config import NORM_GROUPS, VQGANConfig

Shapes = Mapping[str, tuple[int, ...]]

DESCRIPTION = "model.yaml"
# Our own tensor: groups of the norms, where they are not the official ones. No shape tells them.
NORM_GROUPS_NAME = "norm_groups"
# What an image tokenizer consists of; everything else in a file belongs to training.
_NEEDED = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")

# Parts of our paths -> parts of official names.
_PARTS = {
    "shortcut": "nin_shortcut",
    "query": "q",
    "key": "k",
    "value": "v",
    "output": "proj_out",
    "quantizer": "quantize",
    "logits": "proj",
    "kernel": "weight",
    "scale": "weight",
}
_PLACES = (
    (re.compile(r"(down|up)_(\d+)_(block|attn)_(\d+)"), r"\1.\2.\3.\4"),
    (re.compile(r"(down|up)_(\d+)_(downsample|upsample)"), r"\1.\2.\3.conv"),
    (re.compile(r"mid_(\w+)"), r"mid.\1"),
)
_CODEBOOKS = {"gumbel": "embed.weight", "nearest": "embedding.weight"}
# Fields of a configuration that the weights tell.
_TOLD_BY_WEIGHTS = (
    "base_channels",
    "channel_multipliers",
    "blocks_per_level",
    "attention_levels",
    "latent_channels",
    "embedding_dim",
    "num_codes",
    "quantizer",
)


def official_name(path: tuple[str, ...], quantizer: str) -> str:
    """The name of a parameter in taming-transformers.

    Args:
      path: keys of our parameter, such as ("encoder", "down_0_block_1", "conv1", "kernel").
      quantizer: of the model; the codebook's name depends on it.

    Returns:
      For example "encoder.down.0.block.1.conv1.weight".
    """
    parts = []
    for part in path:
        if part == "codebook":
            parts.append(_CODEBOOKS[quantizer])
            continue
        for pattern, replacement in _PLACES:
            if match := pattern.fullmatch(part):
                parts.append(match.expand(replacement))
                break
        else:
            parts.append(_PARTS.get(part, part))
    return ".".join(parts)


@functools.lru_cache(maxsize=4)
def expected_parameters(config: VQGANConfig) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """Every parameter of a model: our path -> (official name, official shape)."""
    model = VQGAN(config)
    images = jax.ShapeDtypeStruct((1, config.patch, config.patch, 3), np.float32)
    variables: PyTree = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), images))
    shapes = jax.tree.map(lambda leaf: leaf.shape, variables["params"])
    leaves: PyTree = traverse_util.flatten_dict(shapes)
    found = {}
    for path, shape in leaves.items():
        if len(shape) == 4:
            shape = (shape[3], shape[2], shape[0], shape[1])
        found[path] = (official_name(path, config.quantizer), shape)
    return found


def config_from_shapes(shapes: Shapes, norm_groups: int = NORM_GROUPS) -> VQGANConfig:
    """Infers the configuration from the shapes of a state dict.

    Args:
      shapes: official name -> shape.
      norm_groups: which no shape tells.

    Returns:
      The configuration, with training weights at their defaults.

    Raises:
      ValueError: the names are not those of a VQGAN, or its sizes cannot be.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise ValueError(
                f"not a VQGAN of taming-transformers: it has no {name} (found {len(shapes)} "
                f"tensors such as {', '.join(list(shapes)[:3]) or 'none'})"
            )
        return tuple(shapes[name])

    def numbers(pattern: str) -> list[int]:
        matches = (re.match(pattern, name) for name in shapes)
        return sorted({int(match.group(1)) for match in matches if match})

    base, channels = shape("encoder.conv_in.weight")[:2]
    if channels != 3:
        raise ValueError(f"it encodes images of {channels} channels, not 3")
    levels = len(numbers(r"encoder\.down\.(\d+)\."))
    widths = [shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    if not widths or any(width % base for width in widths):
        raise ValueError(f"levels of {widths} channels are no multiples of the first {base}")
    quantizers = [own for own, name in _CODEBOOKS.items() if f"quantize.{name}" in shapes]
    codebook = shape(f"quantize.{_CODEBOOKS[quantizers[0] if quantizers else 'gumbel']}")
    return VQGANConfig(
        base_channels=base,
        channel_multipliers=tuple(width // base for width in widths),
        blocks_per_level=len(numbers(r"encoder\.down\.0\.block\.(\d+)\.")),
        attention_levels=tuple(numbers(r"encoder\.down\.(\d+)\.attn\.")),
        latent_channels=shape("encoder.conv_out.weight")[0],
        embedding_dim=codebook[1],
        num_codes=codebook[0],
        norm_groups=norm_groups,
        quantizer=quantizers[0] if quantizers else "gumbel",
    )


def to_params(state_dict: StateDict, config: VQGANConfig) -> dict[str, PyTree]:
    """Official tensors to our parameters.

    Args:
      state_dict: official name -> array; parts that only training has are passed over.

    Returns:
      Nested dict of float32 numpy arrays, kernels [y, x, in, out].

    Raises:
      ValueError: missing or unknown tensors, or other shapes; one line names them.
    """
    expected = expected_parameters(config)
    names = {name for name, _ in expected.values()}
    given = [name for name in state_dict if name.startswith(_NEEDED)]
    _refuse("lacks", [name for name, _ in expected.values() if name not in state_dict], len(names))
    _refuse("has unknown", [name for name in given if name not in names], len(names))
    params = {}
    for path, (name, shape) in expected.items():
        values = np.asarray(state_dict[name])
        if values.shape != shape:
            raise ValueError(f"tensor {name} is {list(values.shape)}, expected {list(shape)}")
        if not np.isfinite(values).all():
            raise ValueError(f"tensor {name} has values that are NaN or infinite")
        values = values.astype(np.float32)
        params[path] = np.ascontiguousarray(
            values.transpose(2, 3, 1, 0) if values.ndim == 4 else values
        )
    return traverse_util.unflatten_dict(params)


def to_state_dict(params: Mapping[str, PyTree], config: VQGANConfig) -> dict[str, np.ndarray]:
    """The inverse of `to_params`: official names, float32, kernels [out, in, y, x]."""
    found = {}
    for path, leaf in traverse_util.flatten_dict(dict(params)).items():
        values = np.asarray(leaf, np.float32)
        name = official_name(path, config.quantizer)
        found[name] = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values
    return found


def _discriminator_name(path: tuple[str, ...]) -> str:
    """("conv_1", "kernel") to "main.2.weight": convolutions, norms and activations are counted."""
    layer, _, number = path[0].partition("_")
    place = 3 * int(number) - (layer == "conv" and number != "0")
    parts = {"mean": "running_mean", "var": "running_var", "bias": "bias"}
    return f"main.{place}.{parts.get(path[1], 'weight')}"


def discriminator_state_dict(
    params: Mapping[str, PyTree], statistics: Mapping[str, PyTree]
) -> dict[str, np.ndarray]:
    """The official names of a discriminator (`model.vqgan.discriminator`).

    Args:
      params: its parameters.
      statistics: running statistics of its norms.

    Returns:
      "main.0.weight" and so on, float32, kernels [out, in, y, x].
    """
    leaves: PyTree = {
        **traverse_util.flatten_dict(dict(params)),
        **traverse_util.flatten_dict(dict(statistics)),
    }
    found = {_discriminator_name(path): np.asarray(leaf) for path, leaf in leaves.items()}
    return {n: v.transpose(3, 2, 0, 1) if v.ndim == 4 else v for n, v in found.items()}


def to_discriminator(
    state_dict: StateDict, params: Mapping[str, PyTree], statistics: Mapping[str, PyTree]
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """The inverse of `discriminator_state_dict`.

    Args:
      state_dict: official names, from "main." on.
      params: of the wanted structure.
      statistics: of the wanted structure.

    Returns:
      (parameters, statistics) of float32 numpy arrays.

    Raises:
      ValueError: a tensor is missing or of another shape.
    """

    def taken(tree: Mapping[str, PyTree]) -> dict[str, PyTree]:
        found = {}
        for path, leaf in traverse_util.flatten_dict(dict(tree)).items():
            name = _discriminator_name(path)
            if name not in state_dict:
                raise ValueError(f"the discriminator lacks {name}")
            values = np.asarray(state_dict[name], np.float32)
            values = values.transpose(2, 3, 1, 0) if values.ndim == 4 else values
            if values.shape != cast(Any, leaf).shape:
                raise ValueError(f"{name} of the discriminator is of another architecture")
            found[path] = values
        return traverse_util.unflatten_dict(found)

    return taken(params), taken(statistics)


def write_vqgan(
    path: str | os.PathLike,
    params: Mapping[str, PyTree],
    config: VQGANConfig,
    *,
    side: int,
    step: int = 0,
    others: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes a checkpoint as the training of taming-transformers leaves it, and its description.

    Args:
      path: a `.ckpt`; `model.yaml` is written beside it.
      params: of the tokenizer.
      config: of the model.
      side: pixels of the images that it was trained on; says which levels have attention.
      step: finished updates.
      others: further tensors of the state dict, such as "loss.discriminator.main.0.weight".
    """
    path = pathlib.Path(path)
    state_dict = {**to_state_dict(params, config), **(others or {})}
    if config.norm_groups != NORM_GROUPS:
        state_dict[NORM_GROUPS_NAME] = np.array(config.norm_groups, np.int64)
    tensors = collections.OrderedDict(
        (name, np.ascontiguousarray(value)) for name, value in state_dict.items()
    )
    content = {"epoch": 0, "global_step": step, "state_dict": tensors}
    write_torch_file(path, content)
    description = yaml.safe_dump(config.to_model_yaml(side), sort_keys=False)
    path.with_name(DESCRIPTION).write_text(description, encoding="utf-8")


def read_vqgan(path: str | os.PathLike) -> tuple[VQGANConfig, dict[str, PyTree]]:
    """Reads an image tokenizer's weights.

    Args:
      path: a `.ckpt` of taming-transformers or OFA, a state dict, or a safetensors file. A
        `model.yaml` beside it must agree with the weights.

    Returns:
      (configuration, parameters as numpy arrays).

    Raises:
      FileNotFoundError: there is no such file.
      CheckpointFileError: the file cannot be read or is no VQGAN.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        state_dict = read_safetensors(path)
    else:
        state_dict = read_torch_checkpoint(path).state_dict
    groups = state_dict.get(NORM_GROUPS_NAME, NORM_GROUPS)
    kept = {name: t for name, t in state_dict.tensors.items() if name.startswith(_NEEDED)}
    if not kept:
        found = ", ".join(list(state_dict)[:3])
        raise CheckpointFileError(f"{path}: no weights of a VQGAN, but others such as {found}")
    state_dict = StateDict(kept)
    try:
        config = config_from_shapes(state_dict.shapes(), int(np.ravel(groups)[0]))
        config = _described(path.with_name(DESCRIPTION), config)
        return config, to_params(state_dict, config)
    except CheckpointFileError:
        raise
    except ValueError as error:
        raise CheckpointFileError(f"{path}: {error}") from error


def _described(path: pathlib.Path, inferred: VQGANConfig) -> VQGANConfig:
    """Takes over what only a `model.yaml` tells, after comparing it with the weights."""
    if not path.is_file():
        return inferred
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name} holds no settings")
    told = VQGANConfig.from_model_yaml(content, inferred.norm_groups)
    for name in _TOLD_BY_WEIGHTS:
        said, seen = getattr(told, name), getattr(inferred, name)
        if said != seen:
            raise ValueError(f"{path.name} says {name} {said}, the weights have {seen}")
    return dataclasses.replace(inferred, kl_weight=told.kl_weight)


def _refuse(verb: str, names: list[str], total: int) -> None:
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise ValueError(f"{verb} {len(names)} tensors of a VQGAN ({total} expected): {shown}")
