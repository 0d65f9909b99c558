"""Tensors of tuned models under official names: prefixes and adapters (SPEC 2.2), and LoRA.

The official code has no LoRA; its tensors are named as PEFT names them. Used by `layout`, which
has the shapes of everything else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ofa_jax.model.config import OFAConfig, TuningConfig

Shapes = Mapping[str, tuple[int, ...]]

# Our name of a dense layer by the official one.
OFFICIAL_TARGETS = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "output",
    "fc1": "expand",
    "fc2": "contract",
}
_TARGET = re.compile(
    r"(?:encoder|decoder)\.layers\.\d+\.(?:(?:self|encoder)_attn\.)?"
    rf"({'|'.join(OFFICIAL_TARGETS)})\.weight"
)


def tuning_shapes(config: OFAConfig, others: Shapes) -> dict[str, tuple[int, ...]]:
    """Names and shapes that `config.tuning` adds.

    Args:
      config: the model.
      others: name -> shape of all other tensors.

    Returns:
      name -> shape; {} where nothing is on.
    """
    tuning, d = config.tuning, config.width
    shapes: dict[str, tuple[int, ...]] = {}
    stacks = (
        ("encoder", config.encoder_layers, tuning.encoder_prefix),
        ("decoder", config.decoder_layers, tuning.decoder_prefix),
    )
    for stack, layers, length in stacks:
        if tuning.adapter_dim:
            for layer in range(layers):
                adapter, dim = f"{stack}.layers.{layer}.adapter", tuning.adapter_dim
                _linear(shapes, f"{adapter}.down_proj", d, dim)
                _linear(shapes, f"{adapter}.up_proj", dim, d)
        if length:
            prompt, features = f"{stack}.{stack}_prompt_encoder", 2 * layers * d
            hidden = tuning.prefix_hidden
            shapes[f"{prompt}.embedding.weight"] = (length, d if hidden else features)
            if hidden:
                _linear(shapes, f"{prompt}.trans.0", d, hidden)
                _linear(shapes, f"{prompt}.trans.2", hidden, features)
    for name, shape in others.items():
        match = _TARGET.fullmatch(name)
        low_rank = match and tuning.low_rank(OFFICIAL_TARGETS[match[1]])
        if low_rank:
            stem, rank = name.removesuffix(".weight"), low_rank[0]
            shapes[f"{stem}.lora_A.weight"] = (rank, shape[1])
            shapes[f"{stem}.lora_B.weight"] = (shape[0], rank)
    return shapes


def _linear(shapes: dict[str, tuple[int, ...]], name: str, fan_in: int, fan_out: int) -> None:
    shapes[f"{name}.weight"] = (fan_out, fan_in)
    shapes[f"{name}.bias"] = (fan_out,)


def infer_tuning(shapes: Shapes) -> TuningConfig:
    """What was added to a model, from the shapes of its state dict.

    The scale of LoRA and the dropout of prefixes leave no trace and stay at their defaults.

    Args:
      shapes: official names -> shape.
    """
    # Scalars under these names are none of the parts; the comparison of shapes names them.
    shapes = {name: shape for name, shape in shapes.items() if len(shape)}
    found: dict[str, Any] = {}
    for stack in ("encoder", "decoder"):
        prompt = f"{stack}.{stack}_prompt_encoder"
        if (table := shapes.get(f"{prompt}.embedding.weight")) is not None:
            found[f"{stack}_prefix"] = table[0]
        if (hidden := shapes.get(f"{prompt}.trans.0.weight")) is not None:
            found["prefix_hidden"] = hidden[0]
    if (down := shapes.get("encoder.layers.0.adapter.down_proj.weight")) is not None:
        found["adapter_dim"] = down[0]
    targets = set()
    for name, shape in shapes.items():
        if name.endswith(".lora_A.weight"):
            found["lora_rank"] = shape[0]
            targets.add(OFFICIAL_TARGETS.get(name.split(".")[-3:][0], ""))
    if targets - {""}:
        found["lora_targets"] = tuple(sorted(targets - {""}))
    return TuningConfig(**found)
