"""What an official state dict looks like for a configuration, and the way back.

`expected_shapes` says the shape of every weight of SPEC 2.2 and 2.3 for an `OFAConfig`, by the
table of `names`; `repairs` compares a foreign checkpoint against it.
`config_from_state_dict` infers the configuration from the shapes alone, since the configuration
inside fairseq files may be unreadable.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ofa_jax.atomic import JsonObject
from ofa_jax.checkpoint.names import (
    FILLER_COUNT,
    OFFICIAL_TARGETS,
    RESNET_PREFIX,
    TIED_COPIES,
    TOKEN_EMBEDDING,
    entries,
)
from ofa_jax.model.config import SIZES, OFAConfig, ResNetConfig, TuningConfig
from ofa_jax.vocab import CHINESE, ENGLISH, NUM_SPECIALS

SHARED_EMBEDDING = (TOKEN_EMBEDDING, *TIED_COPIES)
# Official name of a stem -> its blocks.
RESNET_BLOCKS = {
    "resnet50": (3, 4, 6),
    "resnet101": (3, 4, 23),
    "resnet152": (3, 8, 36),
    "resnet18": (2, 2, 2),
    # Bottleneck blocks too (SPEC 1.3), hence the same network as resnet50.
    "resnet34": (3, 4, 6),
}
POSITION_INDEX = "decoder.image_position_idx"
_IGNORED = re.compile(
    r"(^|\.)(version|_float_tensor|token_rp_bucket|image_rp_bucket|image_position_idx"
    r"|num_batches_tracked)$"
)


def is_recomputed(name: str) -> bool:
    """Whether an entry of a state dict is a constant or counter that no model of ours stores."""
    return _IGNORED.search(name) is not None


def resnet_name(resnet: ResNetConfig) -> str | None:
    """The official name of a stem, or None where it has none."""
    blocks = RESNET_BLOCKS.items()
    return next((n for n, b in blocks if resnet == ResNetConfig(stage_blocks=b)), None)


def expected_shapes(config: OFAConfig) -> dict[str, tuple[int, ...]]:
    """Every weight and running statistic of the official model (SPEC 2.2, 2.3).

    Returns:
      Official name -> shape; the shared embedding under its three names, constant buffers left
      out (`is_recomputed`).
    """
    shapes = {entry.official: entry.shape for entry in entries(config)}
    return shapes | dict.fromkeys(TIED_COPIES, shapes[TOKEN_EMBEDDING])


def resnet_shapes(resnet: ResNetConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the stem's weights, without the prefix (SPEC 2.3: torchvision's names)."""
    shapes = expected_shapes(dataclasses.replace(SIZES["nano"], resnet=resnet))
    return {
        name.removeprefix(RESNET_PREFIX): shape
        for name, shape in shapes.items()
        if name.startswith(RESNET_PREFIX)
    }


def _count(names: Iterable[str], pattern: str) -> int:
    """How many numbers from 0 on stand in names; what lies behind a gap is not counted.

    A name is no reason to make room for all the numbers before its own.
    """
    found = {match.group(1) for name in names if (match := re.match(pattern, name))}
    return next(number for number in itertools.count() if str(number) not in found)


def _of_rank(shapes: Mapping[str, tuple[int, ...]], name: str, rank: int) -> tuple[int, ...] | None:
    shape = tuple(shapes.get(name, ()))
    return shape if len(shape) == rank else None


def _matrix(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if (found := _of_rank(shapes, name, 2)) is None:
        raise ValueError(f"{name} has shape {tuple(shapes[name])}, it must be a matrix")
    return found


def infer_resnet(
    shapes: Mapping[str, tuple[int, ...]], prefix: str = RESNET_PREFIX
) -> ResNetConfig:
    """Infers the stem from shapes; strides and pooling, which leave no trace, by known sizes.

    Args:
      shapes: name -> shape.
      prefix: of the ResNet's names ("" for torchvision files).

    Raises:
      ValueError: no bottleneck ResNet under this prefix.
    """
    stem = _of_rank(shapes, f"{prefix}conv1.weight", 4)
    blocks, widths = [], []
    for stage in (1, 2, 3):
        name = re.escape(f"{prefix}layer{stage}.")
        blocks.append(_count(shapes, name + r"(\d+)\.conv1\.weight$"))
        widths.append((_of_rank(shapes, f"{prefix}layer{stage}.0.conv1.weight", 4) or (0,))[0])
    last = _of_rank(shapes, f"{prefix}layer1.0.conv3.weight", 4)
    if stem is None or 0 in (*blocks, *widths) or last is None:
        raise ValueError(
            f"no bottleneck ResNet (50, 101, 152) under {prefix!r}: conv1, layer1 to layer3 with "
            "conv3 are needed; ResNet-18 and -34 of torchvision have basic blocks and do not fit"
        )
    seen = {
        "stage_blocks": tuple(blocks),
        "stage_widths": tuple(widths),
        "expansion": last[0] // widths[0],
        "stem_width": stem[0],
        "stem_kernel": stem[2],
    }
    for size in SIZES.values():
        if all(getattr(size.resnet, field) == value for field, value in seen.items()):
            return size.resnet
    return ResNetConfig(**seen)


def infer_tuning(shapes: Mapping[str, tuple[int, ...]]) -> TuningConfig:
    """What was added to a model, from the shapes of its state dict.

    The scale of LoRA and the dropout of prefixes leave no trace and stay at their defaults.

    Args:
      shapes: official names -> shape.
    """
    # Scalars under these names are none of the parts; the comparison of shapes names them.
    shapes = {name: shape for name, shape in shapes.items() if len(shape)}
    found: JsonObject = {}
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


def vocabulary_parts(vocab_size: int, hints: JsonObject | None = None) -> tuple[int, int]:
    """How many image codes and box bins a vocabulary of this size has (SPEC 1.2).

    Args:
      vocab_size: ids in all.
      hints: `code_dict_size` and `num_bins` of the checkpoint's arguments, where known.

    Returns:
      (image codes, box bins): from the hints, else the official 8192 and 1000 where the
      vocabulary can hold them, else (0, 0).
    """
    hints = hints or {}
    codes, bins = hints.get("code_dict_size"), hints.get("num_bins")
    if vocab_size in (ENGLISH.size, CHINESE.size):
        return ENGLISH.num_codes, ENGLISH.num_bins
    official_fits = vocab_size > NUM_SPECIALS + 1 + ENGLISH.num_codes + ENGLISH.num_bins
    if not isinstance(codes, int):
        codes = ENGLISH.num_codes if official_fits else 0
    if not isinstance(bins, int):
        bins = ENGLISH.num_bins if official_fits else 0
    if NUM_SPECIALS + 1 + codes + bins > vocab_size:
        return 0, 0
    return codes, bins


def config_from_state_dict(
    shapes: Mapping[str, tuple[int, ...]],
    hints: JsonObject | None = None,
    **overrides: Any,
) -> OFAConfig:
    """Infers the whole configuration from the shapes of a state dict in official names.

    Args:
      shapes: name -> shape (`StateDict.shapes()`).
      hints: arguments of the checkpoint, best effort; only what shapes cannot tell is taken from
        them (code_dict_size, orig_patch_image_size, interpolate_position, sync_bn,
        freeze_resnet).
      **overrides: fields of `OFAConfig` that win over everything.

    Returns:
      The configuration, with rates and implementation choices at their defaults.

    Raises:
      ValueError: the names are not those of an OFA model.
    """
    hints = hints or {}

    def shape(*names: str) -> tuple[int, ...]:
        for name in names:
            if name in shapes:
                return _matrix(shapes, name)
        raise ValueError(
            f"not an OFA state dict: it has no {names[0]} (found {len(shapes)} entries such as "
            f"{', '.join(list(shapes)[:3]) or 'none'})"
        )

    vocab_size, width = shape(*SHARED_EMBEDDING)
    heads_from_scale = shapes.get("encoder.layers.0.self_attn.c_attn") or ()
    text_rows, heads = shape("encoder.token_rel_pos_table_list.0.weight")
    image_rows = shape("encoder.embed_image_positions.weight")[0]
    positions = shape("encoder.embed_positions.weight")[0] - 2
    fields: JsonObject = {
        "vocab_size": vocab_size,
        "num_codes": vocabulary_parts(vocab_size, hints)[0],
        "width": width,
        "ffn_dim": shape("encoder.layers.0.fc1.weight")[0],
        "decoder_ffn_dim": shape("decoder.layers.0.fc1.weight")[0],
        "num_heads": heads_from_scale[0] if heads_from_scale else heads,
        "encoder_layers": _count(shapes, r"encoder\.layers\.(\d+)\."),
        "decoder_layers": _count(shapes, r"decoder\.layers\.(\d+)\."),
        "resnet": infer_resnet(shapes),
        "token_bucket_size": (text_rows + 1) // 2,
        "token_bucket_range": (*shapes.get("encoder.token_rp_bucket", ()), positions)[0],
        "max_positions": positions,
        "image_bucket_size": round(max(0, image_rows - 1) ** 0.5),
        "scale_resids": "encoder.layers.0.w_resid" in shapes,
        "tuning": infer_tuning(shapes),
    }
    for size in SIZES.values():
        official = (size.image_bucket_size, size.max_positions)
        if official == (fields["image_bucket_size"], positions):
            for field in ("code_image_size", "code_stride", "orig_patch_image_size"):
                fields[field] = getattr(size, field)
            break
    # The official 128 pixels, unless the position grid is too small for them.
    side = OFAConfig.code_stride * fields["image_bucket_size"]
    fields.setdefault("code_image_size", min(OFAConfig.code_image_size, side))
    index = shapes.get(POSITION_INDEX)
    if index and index[0] > 1 + FILLER_COUNT:
        window = round((index[0] - 1 - FILLER_COUNT) ** 0.5)
        fields["code_image_size"] = window * fields.get("code_stride", 8)
    for name in ("orig_patch_image_size", "interpolate_position"):
        if type(hints.get(name)) is type(getattr(OFAConfig, name)):
            fields[name] = hints[name]
    if hints.get("sync_bn") is True:
        fields["batch_norm_eps"] = 1e-3  # SPEC 1.3: another eps than without synchronization
    if hints.get("freeze_resnet") is True:
        fields["batch_norm"] = "frozen"
    return OFAConfig(**{**fields, **overrides})
