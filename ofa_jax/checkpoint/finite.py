"""Weights are finite numbers: checked where they come in and where they are written."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import ml_dtypes
import numpy as np

from ofa_jax.checkpoint.names import to_state_dict
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.model.config import OFAConfig

_SHOWN = 4


def check_finite(variables: Mapping[str, object], config: OFAConfig, source: str) -> None:
    """Refuses weights with NaN or infinite values.

    Args:
      variables: {"params", "batch_stats"} of arrays, in the layout of `config`.
      source: where they come from, for the message.

    Raises:
      CheckpointFileError: names the tensors, officially, and how many of their values are no
        numbers.
    """
    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
        return
    found = []
    for name, array in to_state_dict(variables, config).items():
        if array.dtype.kind == "f" and (bad := int((~np.isfinite(array)).sum())):
            found.append(f"{name} ({bad} of {array.size} values)")
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise CheckpointFileError(
        f"{source}: {len(found)} tensors have values that are NaN or infinite: "
        f"{', '.join(found[:_SHOWN])}{more}; its training diverged or the file is damaged, so take "
        "an earlier checkpoint"
    )


def check_range(name: str, array: np.ndarray, dtype: np.dtype) -> None:
    """Refuses values that become infinite in the type that they are about to be written in.

    Args:
      name: of the tensor.
      array: float32 values.
      dtype: of the file.

    Raises:
      ValueError: names the tensor, its largest value and the largest of the type.
    """
    if not array.size:
        return
    extremes = np.array([array.min(), array.max()])
    with np.errstate(over="ignore"):
        written = extremes.astype(dtype)
    if not np.isfinite(written.astype(np.float32)).all():
        raise ValueError(
            f"{name} has values up to {np.abs(extremes).max():.6g}, but {dtype} ends at "
            f"{float(ml_dtypes.finfo(dtype).max):.6g}; write it as float32 or bfloat16 (--dtype)"
        )
