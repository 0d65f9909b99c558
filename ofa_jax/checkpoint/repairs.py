"""Repairs between a foreign state dict and the model (SPEC 2.4).

Between reading a file and mapping its names onto our parameters: old names are renamed, fused
projections split, the embedding and the image positions lengthened, constant buffers dropped.
What then still differs is an error that names the tensor, both shapes and the likely cause; with
`tolerant=True` it is dropped or kept at initialization instead, and the report says so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ofa_jax.checkpoint.layout import SHARED_EMBEDDING, expected_shapes, is_recomputed
from ofa_jax.checkpoint.torch_reader import StateDict, Tensor
from ofa_jax.model.config import OFAConfig

_OLD_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
_OLD_NORM = re.compile(r"^(encoder|decoder)\.layers\.(\d+)\.layer_norms\.(\d)\.(weight|bias)$")
_FUSED = re.compile(r"^(.*)\.in_proj_(weight|bias)$")
_IMAGE_POSITIONS = ("encoder.embed_image_positions.weight", "decoder.embed_image_positions.weight")
_SHOWN = 5


class CheckpointMismatchError(ValueError):
    """The checkpoint does not fit the model; the message lists tensors, shapes and causes."""


@dataclasses.dataclass
class RepairReport:
    """What was changed on the way in.

    Attributes:
      renamed: (old name, new name).
      extended: (name, rows in the file, rows of the model); new rows are random.
      cropped: (name, rows in the file, rows of the model).
      kept_at_initialization: parameters that the file lacks, or has in another shape.
      dropped: entries of the file that the model has no place for.
      reasons: why, for each name of these two lists.
      batches_tracked: BatchNorm counters of the file, needed for an exact export.
    """

    renamed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    extended: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)
    cropped: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)
    kept_at_initialization: list[str] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    batches_tracked: dict[str, int] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """The changes, for people: one line per kind of renaming and per tensor otherwise."""
        found = []
        if self.renamed:
            old, new = self.renamed[0]
            found.append(f"renamed {len(self.renamed)} old names (such as {old} to {new})")
        for name, rows, wanted in self.extended:
            found.append(f"{name}: appended {wanted - rows} random rows to {rows}")
        for name, rows, wanted in self.cropped:
            found.append(f"{name}: cut {rows} rows to {wanted}")
        for what, names in (
            ("kept at initialization", self.kept_at_initialization),
            ("dropped", self.dropped),
        ):
            found += [f"{what}: {name} {self.reasons.get(name, '')}".rstrip() for name in names]
        return found


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def canonical_names(
    state_dict: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
    """Renames what older fairseq versions called differently (SPEC 2.4, item 5).

    Args:
      state_dict: name -> array-like; only fused projections are read.

    Returns:
      The state dict in today's names, and the (old, new) pairs.
    """
    source = getattr(state_dict, "tensors", state_dict)
    renamed: list[tuple[str, str]] = []
    result: dict[str, Tensor] = {}
    for name, tensor in source.items():
        new = name
        if norm := _OLD_NORM.match(new):
            side, layer, index, part = norm.groups()
            if int(index) < len(_OLD_NORMS[side]):
                new = f"{side}.layers.{layer}.{_OLD_NORMS[side][int(index)]}.{part}"
        if fused := _FUSED.match(new):
            owner, part = fused.groups()
            values = np.asarray(tensor)
            if values.shape[0] % 3:
                raise CheckpointMismatchError(
                    f"{name} has {values.shape[0]} rows, which do not split into query, key, value"
                )
            for projection, third in zip("qkv", np.split(values, 3)):
                result[f"{owner}.{projection}_proj.{part}"] = third
            renamed.append((name, f"{owner}.{{q,k,v}}_proj.{part}"))
            continue
        if new != name:
            renamed.append((name, new))
        result[new] = tensor
    return result, renamed


def _likely_cause(name: str, found: tuple[int, ...] | None, config: OFAConfig) -> str:
    if found is None:
        return "the file holds another kind of model, or was saved in parts"
    expected = expected_shapes(config)[name]
    if name in SHARED_EMBEDDING and found[-1] == config.width:
        if found[0] == config.vocab_size + 1:
            return "a dictionary without <mask> and one row too many (--dictionary_without_mask)"
        return (
            f"another vocabulary: {found[0]} ids in the file, {config.vocab_size} in the model "
            "(59457 is English, 30325 Chinese)"
        )
    if "rel_pos_table" in name and found[-1] == expected[-1]:
        return "another bucket size (token_bucket_size 256, image_bucket_size 42 officially)"
    if name.endswith("c_attn") or "rel_pos_table" in name:
        return f"another number of attention heads than {config.num_heads}"
    if "embed_images" in name:
        return f"another ResNet than {config.resnet.stage_blocks} blocks"
    if "positions" in name and found[-1] == config.width:
        return "another number of positions (max_positions, image_bucket_size)"
    ffn_dim = config.ffn_width(name.split(".")[0])
    return f"another model size than width {config.width}, ffn_dim {ffn_dim}"


def _unknown_cause(name: str) -> str:
    if ".adapter." in name:
        return "adapters (parameter-efficient tuning), which this configuration does not have"
    if "prompt_encoder" in name:
        return "tuned prompts, which this configuration does not have"
    if re.match(r"(encoder|decoder)\.layers\.\d+\.", name) or "rel_pos_table_list" in name:
        return "a layer that the configuration does not have, or a part of another OFA version"
    return "not a part of OFA"


class _Repair:
    """One pass over a state dict; see `repair_state_dict`."""

    def __init__(self, config: OFAConfig, seed: int):
        self.config = config
        self.random = np.random.default_rng(seed)
        self.report = RepairReport()

    def new_rows(self, values: np.ndarray, rows: int) -> np.ndarray:
        """Appends random rows of standard deviation d^-0.5 up to `rows`."""
        missing = self.random.standard_normal((rows - len(values), values.shape[1]))
        missing = (missing * self.config.width**-0.5).astype(values.dtype)
        return np.concatenate([values, missing])

    def tie(self, tensors: dict[str, Tensor]) -> None:
        """Fills missing copies of the shared embedding; refuses copies that differ."""
        present = [name for name in SHARED_EMBEDDING if name in tensors]
        if not present:
            return
        first = tensors[present[0]]
        for name in present[1:]:
            if not _same_values(first, tensors[name]):
                raise CheckpointMismatchError(
                    f"{name} and {present[0]} differ, but the model shares one embedding among "
                    f"{', '.join(SHARED_EMBEDDING)}; was it trained without share_all_embeddings?"
                )
        for name in SHARED_EMBEDDING:
            tensors[name] = first

    def lengthen(self, tensors: dict[str, Tensor], dictionary_has_mask: bool) -> None:
        """Adapts vocabulary rows and image positions (SPEC 2.4, items 2 and 3)."""
        vocab, width = self.config.vocab_size, self.config.width
        name = SHARED_EMBEDDING[0]
        if name in tensors and _is_table(tensors[name], width):
            rows = tensors[name].shape[0]
            table = None
            if rows < vocab:
                table = self.new_rows(np.asarray(tensors[name]), vocab)
                self.report.extended.append((name, rows, vocab))
            elif rows == vocab + 1 and not dictionary_has_mask:
                table = np.asarray(tensors[name])[:vocab]
                self.report.cropped.append((name, rows, vocab))
            if table is not None:
                tensors.update(dict.fromkeys(SHARED_EMBEDDING, table))
        wanted = self.config.image_positions
        for name in _IMAGE_POSITIONS:
            if name in tensors and _is_table(tensors[name], width):
                rows = tensors[name].shape[0]
                if rows < wanted:
                    tensors[name] = self.new_rows(np.asarray(tensors[name]), wanted)
                    self.report.extended.append((name, rows, wanted))


def _is_table(tensor: Tensor, width: int) -> bool:
    return len(tensor.shape) == 2 and tensor.shape[1] == width


def _same_values(first: Tensor, second: Tensor) -> bool:
    if first is second:
        return True
    shares = getattr(first, "shares_storage_with", None)
    if shares is not None and type(first) is type(second) and shares(second):
        return True
    if tuple(first.shape) != tuple(second.shape):
        return False
    first, second = np.asarray(first), np.asarray(second)
    return first.dtype == second.dtype and bool(np.array_equal(first, second, equal_nan=True))


def repair_state_dict(
    state_dict: Mapping[str, Tensor],
    config: OFAConfig,
    *,
    initial: Callable[[], Mapping[str, Any]] | None = None,
    tolerant: bool = False,
    dictionary_has_mask: bool = True,
    seed: int = 0,
) -> tuple[StateDict, RepairReport]:
    """Makes a foreign state dict complete and of the model's shapes (SPEC 2.4).

    Args:
      state_dict: official names -> arrays or tensors still in their file.
      config: the model to be filled.
      initial: gives a freshly initialized state dict (official names); called only when a
        parameter has to be kept at initialization. None makes every such case an error.
      tolerant: keep parameters at initialization where the file lacks them or has another shape,
        and drop unknown entries, instead of raising.
      dictionary_has_mask: False cuts an embedding that is exactly one row too long, as files
        without `<mask>` have it (SPEC 2.4, item 2).
      seed: of the random rows appended to the embedding and the image positions.

    Returns:
      All weights of `expected_shapes(config)`, tensors still lazy where untouched, and the report.

    Raises:
      CheckpointMismatchError: a tensor is missing, unknown or of another shape.
    """
    repair = _Repair(config, seed)
    report = repair.report
    tensors, report.renamed = canonical_names(state_dict)
    for name in [name for name in tensors if is_recomputed(name)]:
        value = tensors.pop(name)
        if name.endswith("num_batches_tracked"):
            report.batches_tracked[name] = int(np.asarray(value))
    # Machinery inherited from BART that no released task uses (SPEC 2.2).
    for name in [name for name in tensors if name.startswith("classification_heads.")]:
        report.dropped.append(name)
        report.reasons[name] = "(no task of OFA uses it)"
        del tensors[name]
    repair.tie(tensors)
    repair.lengthen(tensors, dictionary_has_mask)

    expected = expected_shapes(config)
    problems: list[str] = []
    for name in [name for name in tensors if name not in expected]:
        problems.append(f"{name} is unknown to the model: {_unknown_cause(name)}")
        report.dropped.append(name)
        report.reasons[name] = f"({_unknown_cause(name)})"
    for name, shape in expected.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found == shape:
            continue
        what = "is missing" if found is None else f"has shape {found}"
        problems.append(
            f"{name} {what}, the model needs {shape}: {_likely_cause(name, found, config)}"
        )
        report.kept_at_initialization.append(name)
        report.reasons[name] = f"({what} in the file, the model needs {shape})"
    missing = report.kept_at_initialization
    if problems and not tolerant:
        # A wrong shape says more than a missing name, and a missing one more than an extra one.
        problems.sort(key=lambda text: ("has shape" not in text, "is missing" not in text))
        shown = "\n  ".join(problems[:_SHOWN])
        raise CheckpointMismatchError(
            f"the checkpoint does not fit the model in {len(problems)} of {len(expected)} "
            f"tensors:\n  {shown}\nIf that is intended, load it with tolerant=True (--tolerant)."
        )
    if len(missing) == len(expected):
        raise CheckpointMismatchError("not one tensor of the checkpoint fits the model")
    if missing:
        if initial is None:
            raise CheckpointMismatchError(
                f"no initial values were given for {_listed(missing)}; pass initial="
            )
        fresh = initial()
        tensors.update({name: fresh[name] for name in missing})
    return StateDict({name: tensors[name] for name in expected}), report
