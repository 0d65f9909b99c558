"""Tables from logical axis names of the model to mesh axes.

The model names the axes of its arrays (DESIGN: batch, vocab, embed, mlp, heads, ...); a table
here says which of them are split over which mesh axis. Names that a table leaves out are not
split. A mesh axis splits at most one axis of an array; earlier rules go first.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

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
"""data_parallel: every device holds all weights. fsdp: weights and optimiser are split over the
data axis and gathered layer by layer. tensor_parallel: matrices are split over the model axis.
fsdp_tensor: both."""


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
