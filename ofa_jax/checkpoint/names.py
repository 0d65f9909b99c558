"""Parameter names: official PyTorch state dict on one side, our tree on the other (SPEC 2).

Pure functions over numpy arrays. The readers of files and the repairs of old checkpoints build on
them. What differs beside the names: dense kernels are transposed, convolutions go from OIHW to
HWIO, rows 0 and 1 of the embedding are swapped (bos and pad), the vocabulary is padded or cropped,
batch-norm statistics live in their own collection, tied copies and integer buffers exist on the
official side only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from flax import traverse_util

from ofa_jax.model import positions
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.stacking import stack_layers, unstack_layers

Path = tuple[str, ...]
StateDict = Mapping[str, np.ndarray]

TOKEN_EMBEDDING = "encoder.embed_tokens.weight"
TIED_COPIES = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
_IMAGES = "encoder.embed_images"
# Official length of decoder.image_position_idx beyond the window (SPEC 1.9).
_FILLER_COUNT = 769
_FILLER_ID = 1024


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor under both names.

    Attributes:
      official: name in the PyTorch state dict.
      path: path in our variables in layout "loop", collection first.
      kind: "same", "dense" (transposed), "conv" (OIHW to HWIO) or "tokens" (embedding rows).
    """

    official: str
    path: Path
    kind: str = "same"


def entries(config: OFAConfig) -> list[Entry]:
    """All tensors of a model, each tied group once, buffers of integers left out.

    Args:
      config: the model's configuration; depth, `scale_resids` and `tuning` decide what exists.

    Returns:
      Entries whose official names and whose paths are both unique.
    """
    result = [Entry(TOKEN_EMBEDDING, ("params", "token_embedding", "embedding"), "tokens")]
    layers = _encoder(config) + _decoder(config)
    result += layers + _low_rank(config, layers)
    result += _prefix("encoder", config.tuning.encoder_prefix, config)
    result += _prefix("decoder", config.tuning.decoder_prefix, config)
    result += _resnet(config)
    return result


def _norm(official: str, *path: str) -> list[Entry]:
    return [
        Entry(f"{official}.weight", ("params", *path, "scale")),
        Entry(f"{official}.bias", ("params", *path, "bias")),
    ]


def _dense(official: str, *path: str) -> list[Entry]:
    return [
        Entry(f"{official}.weight", ("params", *path, "kernel"), "dense"),
        Entry(f"{official}.bias", ("params", *path, "bias")),
    ]


def _table(official: str, *path: str) -> list[Entry]:
    return [Entry(f"{official}.weight", ("params", *path, "embedding"))]


def _attention(official: str, *path: str) -> list[Entry]:
    result = [Entry(f"{official}.c_attn", ("params", *path, "head_scale"))]
    for theirs, ours in (
        ("q_proj", "query"),
        ("k_proj", "key"),
        ("v_proj", "value"),
        ("out_proj", "output"),
    ):
        result += _dense(f"{official}.{theirs}", *path, ours)
    return result


def _shared_layer_part(stack: str, layer: int, config: OFAConfig) -> list[Entry]:
    official, path = f"{stack}.layers.{layer}", (stack, f"layers_{layer}")
    result = _norm(f"{official}.final_layer_norm", *path, "feedforward_norm")
    result += _dense(f"{official}.fc1", *path, "feedforward", "expand")
    result += _norm(f"{official}.ffn_layernorm", *path, "feedforward", "norm")
    result += _dense(f"{official}.fc2", *path, "feedforward", "contract")
    for kind in ("token", "image"):
        ours = "text" if kind == "token" else "image"
        result += _table(f"{stack}.{kind}_rel_pos_table_list.{layer}", *path, "relative", ours)
    if config.scale_resids:
        result.append(Entry(f"{official}.w_resid", ("params", *path, "residual_scale")))
    if config.tuning.adapter_dim:
        for theirs, ours in (("down_proj", "down"), ("up_proj", "up")):
            result += _dense(f"{official}.adapter.{theirs}", *path, "adapter", ours)
    return result


def _low_rank(config: OFAConfig, layers: list[Entry]) -> list[Entry]:
    """LoRA beside the kernels that have it; the official code has none, so names follow PEFT."""
    kernels = {("feedforward", "expand"), ("feedforward", "contract")}
    kernels |= {
        (a, p)
        for a in ("attention", "self_attention", "cross_attention")
        for p in ("query", "key", "value", "output")
    }
    result = []
    for entry in layers:
        *path, owner, target, leaf = entry.path
        if leaf == "kernel" and (owner, target) in kernels and config.tuning.low_rank(target):
            for theirs, ours in (("lora_A", "lora_down"), ("lora_B", "lora_up")):
                name = f"{entry.official.removesuffix('.weight')}.{theirs}.weight"
                result.append(Entry(name, (*path, owner, target, ours), "dense"))
    return result


def _prefix(stack: str, length: int, config: OFAConfig) -> list[Entry]:
    """The prefix of a stack (SPEC 2.2)."""
    if not length:
        return []
    official = f"{stack}.{stack}_prompt_encoder"
    result = _table(f"{official}.embedding", stack, "prefix", "table")
    if config.tuning.prefix_hidden:
        result += _dense(f"{official}.trans.0", stack, "prefix", "hidden")
        result += _dense(f"{official}.trans.2", stack, "prefix", "output")
    return result


def _position_tables(stack: str) -> list[Entry]:
    result = []
    for theirs, ours in (("", "text"), ("image_", "image")):
        result += _table(f"{stack}.embed_{theirs}positions", stack, "positions", f"{ours}_table")
        result += _norm(f"{stack}.{theirs}pos_ln", stack, "positions", f"{ours}_norm")
    return result


def _encoder(config: OFAConfig) -> list[Entry]:
    result = _position_tables("encoder")
    for theirs, ours in (("pos_q_linear", "query"), ("pos_k_linear", "key")):
        result += _dense(f"encoder.{theirs}", "encoder", "positions", ours)
    result += _norm("encoder.layernorm_embedding", "encoder", "text_norm")
    result += _norm("encoder.patch_layernorm_embedding", "encoder", "image_norm")
    result += _norm("encoder.layer_norm", "encoder", "final_norm")
    result += _table("encoder.type_embedding", "encoder", "type")
    result += _dense("encoder.image_proj", "encoder", "image_projection")
    for i in range(config.encoder_layers):
        official, path = f"encoder.layers.{i}", ("encoder", f"layers_{i}")
        result += _attention(f"{official}.self_attn", *path, "attention")
        result += _norm(f"{official}.self_attn_layer_norm", *path, "attention_norm")
        result += _norm(f"{official}.attn_ln", *path, "attention_out_norm")
        result += _shared_layer_part("encoder", i, config)
    return result


def _decoder(config: OFAConfig) -> list[Entry]:
    result = _position_tables("decoder")
    for name in ("self_pos_q", "self_pos_k", "cross_pos_q", "cross_pos_k"):
        ours = name.replace("pos_q", "query").replace("pos_k", "key")
        result += _dense(f"decoder.{name}_linear", "decoder", "positions", ours)
    result += _norm("decoder.layernorm_embedding", "decoder", "text_norm")
    result += _norm("decoder.code_layernorm_embedding", "decoder", "code_norm")
    result += _norm("decoder.layer_norm", "decoder", "final_norm")
    for i in range(config.decoder_layers):
        official, path = f"decoder.layers.{i}", ("decoder", f"layers_{i}")
        result += _attention(f"{official}.self_attn", *path, "self_attention")
        result += _norm(f"{official}.self_attn_layer_norm", *path, "self_attention_norm")
        result += _norm(f"{official}.self_attn_ln", *path, "self_attention_out_norm")
        result += _attention(f"{official}.encoder_attn", *path, "cross_attention")
        result += _norm(f"{official}.encoder_attn_layer_norm", *path, "cross_attention_norm")
        result += _norm(f"{official}.cross_attn_ln", *path, "cross_attention_out_norm")
        result += _shared_layer_part("decoder", i, config)
    return result


def _conv(official: str, *path: str) -> list[Entry]:
    return [Entry(f"{official}.weight", ("params", *path, "kernel"), "conv")]


def _batch_norm(official: str, *path: str) -> list[Entry]:
    return [
        *_norm(official, *path),
        Entry(f"{official}.running_mean", ("batch_stats", *path, "mean")),
        Entry(f"{official}.running_var", ("batch_stats", *path, "var")),
    ]


def _resnet(config: OFAConfig) -> list[Entry]:
    root = ("encoder", "resnet")
    net = config.resnet
    result = _conv(f"{_IMAGES}.conv1", *root, "stem")
    result += _batch_norm(f"{_IMAGES}.bn1", *root, "stem_norm")
    channels = net.stem_width
    for stage, blocks in enumerate(net.stage_blocks):
        out = net.expansion * net.stage_widths[stage]
        for block in range(blocks):
            official = f"{_IMAGES}.layer{stage + 1}.{block}"
            path = (*root, f"stage{stage + 1}_block{block}")
            for i in (1, 2, 3):
                result += _conv(f"{official}.conv{i}", *path, f"conv{i}")
                result += _batch_norm(f"{official}.bn{i}", *path, f"norm{i}")
            if block == 0 and (net.stage_strides[stage] != 1 or channels != out):
                result += _conv(f"{official}.downsample.0", *path, "shortcut")
                result += _batch_norm(f"{official}.downsample.1", *path, "shortcut_norm")
            channels = out
    return result


def _import_tokens(rows: np.ndarray, config: OFAConfig) -> np.ndarray:
    if rows.shape[0] != config.vocab_size:
        raise ValueError(
            f"{TOKEN_EMBEDDING} has {rows.shape[0]} rows, but the configuration's vocab_size is "
            f"{config.vocab_size}"
        )
    padded = np.zeros((config.embedding_rows, rows.shape[1]), np.float32)
    padded[: config.vocab_size] = rows
    padded[[0, 1]] = rows[[1, 0]]
    return padded


def _export_tokens(rows: np.ndarray, config: OFAConfig) -> np.ndarray:
    rows = rows[: config.vocab_size].copy()
    rows[[0, 1]] = rows[[1, 0]]
    return rows


_IMPORT: dict[str, Callable[[np.ndarray, OFAConfig], np.ndarray]] = {
    "same": lambda array, config: array,
    "dense": lambda array, config: array.T,
    "conv": lambda array, config: array.transpose(2, 3, 1, 0),
    "tokens": _import_tokens,
}
_EXPORT: dict[str, Callable[[np.ndarray, OFAConfig], np.ndarray]] = {
    "same": lambda array, config: array,
    "dense": lambda array, config: array.T,
    "conv": lambda array, config: array.transpose(3, 2, 0, 1),
    "tokens": _export_tokens,
}


def missing_names(state_dict: StateDict, config: OFAConfig) -> list[str]:
    """Official names that the model needs and the state dict lacks, sorted."""
    return sorted(entry.official for entry in entries(config) if entry.official not in state_dict)


def to_params(
    state_dict: StateDict, config: OFAConfig, *, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Converts an official state dict to our variables.

    Args:
      state_dict: official names to arrays of any float type.
      config: the model's configuration; its `vocab_size` must be the state dict's.
      defaults: our variables in the layout of `config`; they stand where the state dict lacks a
        name (SPEC 2.4, step 1). None makes a missing name an error.

    Returns:
      {"params", "batch_stats"}: nested dicts of float32 numpy arrays in `config.layer_stack`.

    Raises:
      KeyError: if names are missing and there are no defaults.
      ValueError: if a shape does not fit the configuration or the defaults.
    """
    missing = missing_names(state_dict, config)
    if missing and defaults is None:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise KeyError(f"{len(missing)} names are missing in the state dict: {shown}")
    fallback = {} if defaults is None else _flat(defaults)
    flat: dict[Path, np.ndarray] = {}
    for entry in entries(config):
        if entry.official in state_dict:
            array = np.asarray(state_dict[entry.official]).astype(np.float32)
            array = np.ascontiguousarray(_IMPORT[entry.kind](array, config))
            expected = fallback.get(entry.path)
            if expected is not None and expected.shape != array.shape:
                raise ValueError(
                    f"{entry.official} becomes {array.shape}, but {'/'.join(entry.path)} is "
                    f"{expected.shape}"
                )
        else:
            array = fallback[entry.path]
        flat[entry.path] = array
    tree = traverse_util.unflatten_dict(flat)
    return stack_layers(tree) if config.layer_stack == "scan" else tree


def to_state_dict(variables: Mapping[str, Any], config: OFAConfig) -> dict[str, np.ndarray]:
    """Converts our variables to a complete official state dict, a strict load away.

    Args:
      variables: {"params", "batch_stats"} in either layout, boxed or not.
      config: the model's configuration.

    Returns:
      Official names to float32 arrays; tied copies are the same array object; buffers are int64
      (`num_batches_tracked` is 0, which nothing reads at momentum 0.1).

    Raises:
      KeyError: if a variable is missing.
    """
    flat = _flat(variables)
    result: dict[str, np.ndarray] = {}
    for entry in entries(config):
        if entry.path not in flat:
            raise KeyError(f"variable {'/'.join(entry.path)} is missing")
        array = np.asarray(flat[entry.path], np.float32)
        result[entry.official] = np.ascontiguousarray(_EXPORT[entry.kind](array, config))
    for name in TIED_COPIES:
        result[name] = result[TOKEN_EMBEDDING]
    result.update(_buffers(config, result))
    return result


def _flat(variables: Mapping[str, Any]) -> dict[Path, np.ndarray]:
    tree = unstack_layers(nn.unbox(dict(variables)))
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(tree).items()}


def _buffers(config: OFAConfig, exported: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    text = positions.text_bucket_matrix(
        config.token_bucket_size, config.token_bucket_range, config.token_bucket_range
    ).astype(np.int64)
    image = positions.image_bucket_matrix(config.image_bucket_size).astype(np.int64)
    result: dict[str, np.ndarray] = {}
    for stack in ("encoder", "decoder"):
        result[f"{stack}.version"] = np.full((1,), 3.0, np.float32)
        result[f"{stack}.token_rp_bucket"] = text
        result[f"{stack}.image_rp_bucket"] = image
    window = positions.grid_position_ids(
        config.code_window, config.code_window, config.image_bucket_size
    )
    filler = np.full((_FILLER_COUNT,), _FILLER_ID)
    result["decoder.image_position_idx"] = np.concatenate([[0], window, filler]).astype(np.int64)
    for name in exported:
        if name.endswith(".running_mean"):
            counter = name.replace("running_mean", "num_batches_tracked")
            result[counter] = np.zeros((), np.int64)
    return result
