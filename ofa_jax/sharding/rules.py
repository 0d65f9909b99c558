"""Tables from logical axis names of the model to mesh axes.

The model names the axes of its arrays (DESIGN: batch, vocab, embed, mlp, heads, ...); a table
here says which of them are split over which mesh axis. Names that a table leaves out are not
split. A mesh axis splits at most one axis of an array; earlier rules go first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

__all__ = ["MESH_AXES", "RULES", "LogicalRules", "build_rules", "rules_by_name"]

LogicalRules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

_BATCH: LogicalRules = (("batch", ("replica", "data")),)
_TENSOR: LogicalRules = (
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
)
# `embed` is the one axis that nearly every large matrix has; convolutions have `conv_out` instead.
_FSDP: LogicalRules = (("embed", "data"), ("conv_out", "data"))

RULES: Mapping[str, LogicalRules] = MappingProxyType(
    {
        "data_parallel": _BATCH,
        "fsdp": _BATCH + _FSDP,
        "tensor_parallel": _BATCH + _TENSOR,
        "fsdp_tensor": _BATCH + _TENSOR + _FSDP,
    }
)
"""data_parallel: every device holds all weights. fsdp: weights and optimizer are split over the
data axis and gathered layer by layer. tensor_parallel: matrices are split over the model axis.
fsdp_tensor: both."""


MESH_AXES = ("replica", "data", "model")


def rules_by_name(name: str) -> LogicalRules:
    """A table of `RULES`.

    Args:
      name: its name.

    Returns:
      The rules.

    Raises:
      ValueError: naming the tables there are.
    """
    if name not in RULES:
        raise ValueError(f"sharding rules {name!r} are none of {', '.join(RULES)}")
    return RULES[name]


def build_rules(name: str, additional: Sequence[Sequence[Any]] = ()) -> LogicalRules:
    """A table of `RULES` with rules of one's own before it.

    Args:
      name: of the table.
      additional: (logical name, mesh axis, tuple of mesh axes, or None) pairs. They come first, so
        that they win where both name an axis of the same array; None keeps an axis whole.

    Returns:
      The rules, and one for "lookup_batch" that follows from them.

    Raises:
      ValueError: an unknown table or mesh axis, or something that is no pair.
    """
    own: list[tuple[str, str | tuple[str, ...] | None]] = []
    for rule in additional:
        if isinstance(rule, str) or len(rule) != 2 or not isinstance(rule[0], str):
            raise ValueError(
                f"additional_rules: {rule!r} is no pair such as ('conv_in', 'model') or "
                "('heads', None)"
            )
        logical, axes = rule
        names = () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
        for axis in names:
            if axis not in MESH_AXES:
                raise ValueError(
                    f"additional_rules: {logical!r} is put on {axis!r}, which is none of the mesh "
                    f"axes {', '.join(MESH_AXES)}"
                )
        own.append((logical, axes if axes is None or isinstance(axes, str) else names))
    kept_whole = {logical for logical, axes in own if axes is None}
    table = (rule for rule in rules_by_name(name) if rule[0] not in kept_whole)
    rules = (*own, *table)
    return (*rules, ("lookup_batch", _lookup_axes(rules)))


def _lookup_axes(rules: LogicalRules) -> tuple[str, ...]:
    """How a batch is split at a look-up in a table: not over the axes that split its width."""

    def axes_of(logical: str) -> tuple[str, ...]:
        found = next((axes for name, axes in rules if name == logical), None)
        return (found,) if isinstance(found, str) else tuple(found or ())

    return tuple(axis for axis in axes_of("batch") if axis not in axes_of("embed"))
