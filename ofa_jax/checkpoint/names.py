"""Parameter names: official PyTorch state dict on one side, our tree on the other (SPEC 2).

Pure functions over numpy arrays. The readers of files and the repairs of old checkpoints build on
them. What differs beside the names: dense kernels are transposed, convolutions go from OIHW to
HWIO, rows 0 and 1 of the embedding are swapped (bos and pad), the vocabulary is padded or cropped,
batch-norm statistics live in their own collection, tied copies and integer buffers exist on the
official side only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import PyTree

from ofa_jax.model import positions
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.stacking import stack_layers, unstack_layers

Path = tuple[str, ...]
StateDict = Mapping[str, np.ndarray]

TOKEN_EMBEDDING = "encoder.embed_tokens.weight"
TOKENS: Path = ("params", "token_embedding", "embedding")
TIED_COPIES = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
RESNET_PREFIX = "encoder.embed_images."
# Official length of decoder.image_position_idx beyond the window (SPEC 1.9).
FILLER_COUNT = 769
_FILLER_ID = 1024


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor under both names.

    Attributes:
      official: name in the PyTorch state dict.
      path: path in our variables in layout "loop", collection first.
      shape: in the state dict.
      conversion: "same", "dense" (transposed), "conv" (OIHW to HWIO) or "tokens" (embedding rows).
    """

    official: str
    path: Path
    shape: tuple[int, ...]
    conversion: str = "same"


# Module -> its tensors: official name, our collection and name, conversion. The first
# has the shape of the module's row below, all others have its first axis.
_MODULES: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "value": (("", "params", "", "same"),),
    "norm": ((".weight", "params", "scale", "same"), (".bias", "params", "bias", "same")),
    "dense": ((".weight", "params", "kernel", "dense"), (".bias", "params", "bias", "same")),
    "table": ((".weight", "params", "embedding", "same"),),
    "conv": ((".weight", "params", "kernel", "conv"),),
}
_MODULES["batch_norm"] = (
    *_MODULES["norm"],
    (".running_mean", "batch_stats", "mean", "same"),
    (".running_var", "batch_stats", "var", "same"),
)

# The modules of a stack (SPEC 2.2): module, official name, our place, official shape in the letters
# of `_sizes`. First those of both stacks, then those of one.
_STACK = """
table embed_positions positions/text_table text_rows d
norm pos_ln positions/text_norm d
table embed_image_positions positions/image_table image_rows d
norm image_pos_ln positions/image_norm d
norm layernorm_embedding text_norm d
norm layer_norm final_norm d
"""
_OWN = {
    "encoder": """
dense pos_q_linear positions/query d d
dense pos_k_linear positions/key d d
norm patch_layernorm_embedding image_norm d
table type_embedding type 2 d
dense image_proj image_projection d stem
""",
    "decoder": """
dense self_pos_q_linear positions/self_query d d
dense self_pos_k_linear positions/self_key d d
dense cross_pos_q_linear positions/cross_query d d
dense cross_pos_k_linear positions/cross_key d d
norm code_layernorm_embedding code_norm d
""",
}
# Those of layer {i}: of each attention by its official and our name, then the others.
_ATTENTION = """
value layers.{i}.{theirs}.c_attn layers_{i}/{ours}/head_scale h
dense layers.{i}.{theirs}.q_proj layers_{i}/{ours}/query d d
dense layers.{i}.{theirs}.k_proj layers_{i}/{ours}/key d d
dense layers.{i}.{theirs}.v_proj layers_{i}/{ours}/value d d
dense layers.{i}.{theirs}.out_proj layers_{i}/{ours}/output d d
norm layers.{i}.{theirs}_layer_norm layers_{i}/{ours}_norm d
norm layers.{i}.{norm} layers_{i}/{ours}_out_norm d
"""
_ATTENTIONS = {
    "encoder": (("self_attn", "attention", "attn_ln"),),
    "decoder": (
        ("self_attn", "self_attention", "self_attn_ln"),
        ("encoder_attn", "cross_attention", "cross_attn_ln"),
    ),
}
_LAYER = """
norm layers.{i}.final_layer_norm layers_{i}/feedforward_norm d
dense layers.{i}.fc1 layers_{i}/feedforward/expand f d
norm layers.{i}.ffn_layernorm layers_{i}/feedforward/norm f
dense layers.{i}.fc2 layers_{i}/feedforward/contract d f
table token_rel_pos_table_list.{i} layers_{i}/relative/text text_buckets h
table image_rel_pos_table_list.{i} layers_{i}/relative/image image_buckets h
"""
_ADAPTER = """
dense layers.{i}.adapter.down_proj layers_{i}/adapter/down adapter d
dense layers.{i}.adapter.up_proj layers_{i}/adapter/up d adapter
"""
_PREFIX = "table {stack}_prompt_encoder.embedding prefix/table prefix prefix_width\n"
_PREFIX_PROJECTION = """
dense {stack}_prompt_encoder.trans.0 prefix/hidden prefix_hidden d
dense {stack}_prompt_encoder.trans.2 prefix/output keys_and_values prefix_hidden
"""
# Official name of a dense layer that may have LoRA -> ours.
OFFICIAL_TARGETS = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "output",
    "fc1": "expand",
    "fc2": "contract",
}


def entries(config: OFAConfig) -> list[Entry]:
    """All tensors of a model, each tied group once, buffers of integers left out.

    Args:
      config: the model's configuration; depth, `scale_resids` and `tuning` decide what exists.

    Returns:
      Entries whose official names and whose paths are both unique.
    """
    tokens = Entry(TOKEN_EMBEDDING, TOKENS, (config.vocab_size, config.width), "tokens")
    return [tokens, *_stack("encoder", config), *_stack("decoder", config), *_resnet(config)]


def _module(module: str, official: str, path: Path, shape: tuple[int, ...]) -> Iterator[Entry]:
    for number, (theirs, collection, ours, transformed) in enumerate(_MODULES[module]):
        place = (collection, *path, ours) if ours else (collection, *path)
        yield Entry(official + theirs, place, shape[:1] if number else shape, transformed)


def _sizes(stack: str, config: OFAConfig) -> dict[str, int]:
    tuning = config.tuning
    keys_and_values = 2 * getattr(config, f"{stack}_layers") * config.width
    return {
        "d": config.width,
        "f": config.ffn_width(stack),
        "h": config.num_heads,
        "stem": config.resnet.out_channels,
        "text_rows": config.text_positions,
        "image_rows": config.image_positions,
        "text_buckets": config.text_relative_buckets,
        "image_buckets": config.image_relative_buckets,
        "adapter": tuning.adapter_dim,
        "prefix": getattr(tuning, f"{stack}_prefix"),
        "prefix_width": config.width if tuning.prefix_hidden else keys_and_values,
        "prefix_hidden": tuning.prefix_hidden,
        "keys_and_values": keys_and_values,
    }


def _stack(stack: str, config: OFAConfig) -> Iterator[Entry]:
    tuning, rows, sizes = config.tuning, _STACK + _OWN[stack], _sizes(stack, config)
    for i in range(getattr(config, f"{stack}_layers")):
        for theirs, ours, norm in _ATTENTIONS[stack]:
            rows += _ATTENTION.format(i=i, theirs=theirs, ours=ours, norm=norm)
        rows += _LAYER.format(i=i)
        if config.scale_resids:
            rows += f"value layers.{i}.w_resid layers_{i}/residual_scale d\n"
        if tuning.adapter_dim:
            rows += _ADAPTER.format(i=i)
    if sizes["prefix"]:
        rows += _PREFIX.format(stack=stack)
        if tuning.prefix_hidden:
            rows += _PREFIX_PROJECTION.format(stack=stack)
    for row in filter(None, rows.split("\n")):
        module, name, ours, *letters = row.split()
        official, path = f"{stack}.{name}", (stack, *ours.split("/"))
        shape = tuple(sizes.get(letter, 2) for letter in letters)
        yield from _module(module, official, path, shape)
        # LoRA; the official code has none, so names follow PEFT.
        if path[1].startswith("layers_") and (low_rank := tuning.low_rank(path[-1])):
            (out, into), rank = shape, low_rank[0]
            where = ("params", *path)
            yield Entry(f"{official}.lora_A.weight", (*where, "lora_down"), (rank, into), "dense")
            yield Entry(f"{official}.lora_B.weight", (*where, "lora_up"), (out, rank), "dense")


def _resnet(config: OFAConfig) -> Iterator[Entry]:
    """The image stem (SPEC 2.3: torchvision's names)."""
    net, root = config.resnet, ("encoder", "resnet")

    def convolution(official: str, norm: str, path: Path, ours: str, our_norm: str, shape):
        yield from _module("conv", RESNET_PREFIX + official, (*path, ours), shape)
        yield from _module("batch_norm", RESNET_PREFIX + norm, (*path, our_norm), shape[:1])

    kernel = (net.stem_kernel, net.stem_kernel)
    into = net.stem_width
    yield from convolution("conv1", "bn1", root, "stem", "stem_norm", (into, 3, *kernel))
    stages = zip(net.stage_blocks, net.stage_widths, net.stage_strides)
    for stage, (blocks, width, stride) in enumerate(stages, 1):
        out = net.expansion * width
        for block in range(blocks):
            official, path = f"layer{stage}.{block}", (*root, f"stage{stage}_block{block}")
            shapes = ((width, into, 1, 1), (width, width, 3, 3), (out, width, 1, 1))
            for i, shape in enumerate(shapes, 1):
                theirs = f"{official}.conv{i}", f"{official}.bn{i}"
                yield from convolution(*theirs, path, f"conv{i}", f"norm{i}", shape)
            if block == 0 and (stride != 1 or into != out):
                theirs = f"{official}.downsample.0", f"{official}.downsample.1"
                shape = (out, into, 1, 1)
                yield from convolution(*theirs, path, "shortcut", "shortcut_norm", shape)
            into = out


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
    state_dict: StateDict, config: OFAConfig, *, defaults: Mapping[str, object] | None = None
) -> dict[str, PyTree]:
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
            array = np.ascontiguousarray(_IMPORT[entry.conversion](array, config))
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


def to_state_dict(variables: Mapping[str, PyTree], config: OFAConfig) -> dict[str, np.ndarray]:
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
        result[entry.official] = np.ascontiguousarray(_EXPORT[entry.conversion](array, config))
    for name in TIED_COPIES:
        result[name] = result[TOKEN_EMBEDDING]
    result.update(_buffers(config, result))
    return result


def _flat(variables: Mapping[str, PyTree]) -> dict[Path, np.ndarray]:
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
    filler = np.full((FILLER_COUNT,), _FILLER_ID)
    result["decoder.image_position_idx"] = np.concatenate([[0], window, filler]).astype(np.int64)
    for name in exported:
        if name.endswith(".running_mean"):
            counter = name.replace("running_mean", "num_batches_tracked")
            result[counter] = np.zeros((), np.int64)
    return result
