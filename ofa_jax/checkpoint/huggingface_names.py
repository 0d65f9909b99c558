"""OFA in HuggingFace's format: names of tensors and fields of config.json, both ways (SPEC 2.5).

Pure functions; `huggingface` reads and writes the directories that use them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from ofa_jax import schema
from ofa_jax.atomic import JsonObject
from ofa_jax.checkpoint.layout import RESNET_BLOCKS, resnet_name
from ofa_jax.checkpoint.task_facts import TaskFacts
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.model.config import OFAConfig, ResNetConfig

# Whole parts of a dotted name. Renaming parts instead of substrings avoids the trap of SPEC 2.5,
# where `attn_ln` is a piece of `self_attn_ln` and `cross_attn_ln`.
_PARTS = {
    "ffn_layernorm": "ffn_layer_norm",
    "encoder_attn": "cross_attn",
    "encoder_attn_layer_norm": "cross_attn_layer_norm",
    "cross_attn_ln": "cross_attn_mid_layer_norm",
}
_NORM_AFTER_ATTENTION = {"encoder": "attn_ln", "decoder": "self_attn_ln"}
_HF_NORM_AFTER_ATTENTION = "self_attn_mid_layer_norm"

# OFAConfig field -> config.json fields; the first is read, all are written.
CONFIG_FIELDS = {
    "vocab_size": ("vocab_size",),
    "width": ("d_model",),
    "ffn_dim": ("encoder_ffn_dim",),
    "decoder_ffn_dim": ("decoder_ffn_dim",),
    "num_heads": ("encoder_attention_heads", "decoder_attention_heads"),
    "encoder_layers": ("encoder_layers",),
    "decoder_layers": ("decoder_layers",),
    "token_bucket_size": ("token_bucket_size",),
    "image_bucket_size": ("image_bucket_size",),
    "max_positions": ("max_position_embeddings",),
    "code_image_size": ("code_image_size",),
    "orig_patch_image_size": ("orig_patch_image_size",),
    "interpolate_position": ("interpolate_position",),
    "dropout": ("dropout",),
    "attention_dropout": ("attention_dropout",),
    "activation_dropout": ("activation_dropout",),
    "encoder_drop_path": ("encoder_drop_path_rate",),
    "decoder_drop_path": ("decoder_drop_path_rate",),
    "resnet_drop_path": ("resnet_drop_path_rate",),
}
# Fields that the shapes of the weights tell as well.
INFERABLE_FIELDS = (
    *("vocab_size", "width", "ffn_dim", "decoder_ffn_dim", "num_heads"),
    *("encoder_layers", "decoder_layers"),
    *("token_bucket_size", "image_bucket_size", "resnet"),
)
# What every released model has (SPEC 1.1); another value is another model.
_FIXED = {
    "activation_function": "gelu",
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
    "normformer": True,
    "layernorm_embedding": True,
    "patch_layernorm_embedding": True,
    "code_layernorm_embedding": True,
    "add_type_embedding": True,
    "share_decoder_input_output_embed": True,
    "attn_scale_factor": 2.0,
    "entangle_position_embedding": False,
    "scale_embedding": False,
}
_WRITTEN_ONLY = {
    "architectures": ["OFAModel"],
    "model_type": "ofa",
    "is_encoder_decoder": True,
    "use_cache": True,
    "init_std": 0.02,
    "classifier_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "disable_entangle": True,
    "resnet_model_path": None,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": 2,
}
# Fields that only matter to us, kept so that our own exports come back exactly.
_OWN_SECTION = "ofa_jax"
_OWN_FIELDS = (
    *("num_codes", "token_bucket_range", "code_stride", "scale_resids", "resnet"),
    *("image_mean", "image_std", "batch_norm_eps"),
)


def to_huggingface_name(name: str) -> str:
    """Official name -> HuggingFace name."""
    side, *parts = name.split(".")
    if parts and parts[0] == "layers":
        after = _NORM_AFTER_ATTENTION.get(side)
        parts = [_HF_NORM_AFTER_ATTENTION if p == after else _PARTS.get(p, p) for p in parts]
    return ".".join([side, *parts])


def from_huggingface_name(name: str) -> str:
    """HuggingFace name -> official name."""
    side, *parts = name.split(".")
    if parts and parts[0] == "layers":
        back = {theirs: ours for ours, theirs in _PARTS.items()}
        back[_HF_NORM_AFTER_ATTENTION] = _NORM_AFTER_ATTENTION.get(side, _HF_NORM_AFTER_ATTENTION)
        parts = [back.get(p, p) for p in parts]
    return ".".join([side, *parts])


def is_huggingface_naming(names: Iterable[str]) -> bool:
    """Whether a state dict uses HuggingFace's names of the layers' parts."""
    return any(from_huggingface_name(name) != name for name in names)


def config_from_huggingface(fields: JsonObject, name: object = "config.json") -> OFAConfig:
    """Reads OFA's config.json.

    Args:
      fields: the parsed JSON object.
      name: of the file, for messages.

    Returns:
      The configuration; `num_codes` is the official 8192 where the file does not tell.

    Raises:
      CheckpointFileError: a required field is missing or of another type, or the file describes a
        variant that does not exist here.
    """
    for field, wanted in _FIXED.items():
        if field in fields and fields[field] != wanted:
            raise CheckpointFileError(
                f"{name}: {field} is {schema.shown(fields[field])}, but only {wanted!r} is "
                "supported (all released OFA models have it)"
            )
    for first, second in ((v[0], v[1]) for v in CONFIG_FIELDS.values() if len(v) > 1):
        if second in fields and fields.get(first) != fields[second]:
            raise CheckpointFileError(
                f"{name}: {first} is {schema.shown(fields.get(first))} and {second} is "
                f"{schema.shown(fields[second])}, but OFA has the same in encoder and decoder"
            )
    values: JsonObject = {}
    for ours, (theirs, *_) in CONFIG_FIELDS.items():
        if theirs in fields:
            values[ours] = fields[theirs]
        elif ours in ("vocab_size", "width", "ffn_dim", "num_heads", "encoder_layers"):
            raise CheckpointFileError(f"{name}: the field {theirs} is missing")
    resnet = fields.get("resnet_type")
    if resnet is not None:
        if not isinstance(resnet, str) or resnet not in RESNET_BLOCKS:
            known = ", ".join(RESNET_BLOCKS)
            raise CheckpointFileError(
                f"{name}: resnet_type is {schema.shown(resnet)}, known are {known}"
            )
        values["resnet"] = dataclasses.asdict(ResNetConfig(stage_blocks=RESNET_BLOCKS[resnet]))
    own = fields.get(_OWN_SECTION)
    if isinstance(own, Mapping):
        for field in _OWN_FIELDS:
            if field in own:
                values[field] = own[field]
    return schema.build(OFAConfig, values, name, CheckpointFileError)


def task_from_huggingface(fields: JsonObject, name: object = "config.json") -> TaskFacts:
    """What `config_to_huggingface` wrote about the task; nothing where another program wrote.

    Args:
      fields: the parsed config.json.
      name: of the file, for messages.
    """
    own = fields.get(_OWN_SECTION)
    task = own.get("task") if isinstance(own, Mapping) else None
    return TaskFacts() if task is None else TaskFacts.from_json(task, f"{name}, its task")


def config_to_huggingface(config: OFAConfig, task: TaskFacts | None = None) -> dict[str, object]:
    """Writes OFA's config.json fields; the inverse of `config_from_huggingface`.

    Args:
      task: what is known about its task.

    Returns:
      A JSON-able dict. `resnet_type` is None where HuggingFace has no name for the stem; only
      this library can then read the directory.

    Raises:
      ValueError: a model with tuned parts.
    """
    fields: JsonObject = {**_WRITTEN_ONLY, **_FIXED}
    for ours, theirs in CONFIG_FIELDS.items():
        fields.update(dict.fromkeys(theirs, getattr(config, ours)))
    fields["decoder_ffn_dim"] = config.ffn_width("decoder")
    fields["resnet_type"] = resnet_name(config.resnet)
    if config.tuning.is_on:
        raise ValueError(
            "a HuggingFace directory has no place for prefixes, adapters or LoRA; write "
            "--target_format fairseq, or merge LoRA first (ofa_jax.model.tuning.merge_low_rank)"
        )
    own = {name: getattr(config, name) for name in _OWN_FIELDS}
    fields[_OWN_SECTION] = {**own, "resnet": dataclasses.asdict(config.resnet)}
    if task is not None:
        # The directory has one set of weights.
        alone = dataclasses.replace(task, has_ema=False, is_ema=False)
        fields[_OWN_SECTION]["task"] = alone.to_json()
    return fields
