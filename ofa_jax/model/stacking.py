"""Lossless conversion between the two layouts of the layer stack.

Layout "loop" has subtrees `layers_0`, `layers_1`, ...; layout "scan" has one subtree `layers`
with a leading layer axis (see `ofa_jax.model.stack`). Works on parameters and on whatever holds
trees of the same structure: gradients, optimizer moments, moving averages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import linen as nn
from flax.core import meta
from jaxtyping import PyTree

_LAYER = re.compile(r"layers_(\d+)")
_STACKED = "layers"


def stack_layers(tree: PyTree) -> PyTree:
    """Converts layout "loop" to "scan".

    Args:
      tree: nested dicts, tuples or lists with arrays at the leaves (numpy, jax, or boxed with
        logical axis names).

    Returns:
      The same containers; each group `layers_0` .. `layers_{l-1}` becomes `layers`, arrays
      [l, ...]. Trees without such a group come back equal.

    Raises:
      ValueError: if the layer numbers of a group have a gap.
    """
    return _walk(tree, _stack_group)


def unstack_layers(tree: PyTree) -> PyTree:
    """Converts layout "scan" to "loop": the inverse of `stack_layers`."""
    return _walk(tree, _unstack_group)


def _walk(tree: PyTree, convert: Callable[[dict[str, PyTree]], dict[str, PyTree]]) -> PyTree:
    if isinstance(tree, Mapping):
        return convert({key: _walk(value, convert) for key, value in tree.items()})
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_walk(value, convert) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_walk(value, convert) for value in tree)
    return tree


def _stack_group(group: dict[str, PyTree]) -> dict[str, PyTree]:
    numbers = {int(match[1]) for key in group if (match := _LAYER.fullmatch(key))}
    if not numbers:
        return group
    if numbers != set(range(len(numbers))):
        raise ValueError(f"layers must be numbered 0 to {len(numbers) - 1}, got {sorted(numbers)}")
    layers = [group[f"layers_{i}"] for i in range(len(numbers))]
    others = {key: value for key, value in group.items() if not _LAYER.fullmatch(key)}
    stacked = jax.tree.map(lambda *leaves: _stack(leaves), *layers, is_leaf=_is_box)
    return {**others, _STACKED: stacked}


def _unstack_group(group: dict[str, PyTree]) -> dict[str, PyTree]:
    if _STACKED not in group:
        return group
    leaves = jax.tree.leaves(group[_STACKED])
    count = leaves[0].shape[0]
    others = {key: value for key, value in group.items() if key != _STACKED}
    layers = {
        f"layers_{i}": jax.tree.map(
            lambda leaf, i=i: _unstack(leaf, i), group[_STACKED], is_leaf=_is_box
        )
        for i in range(count)
    }
    return {**others, **layers}


def _is_box(leaf: object) -> bool:
    return isinstance(leaf, meta.AxisMetadata)


def _stack(leaves: tuple[PyTree, ...]) -> PyTree:
    if _is_box(leaves[0]):
        box = leaves[0].add_axis(0, {nn.PARTITION_NAME: _STACKED})
        return box.replace_boxed(_stack(tuple(leaf.unbox() for leaf in leaves)))
    if all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return np.stack(leaves)
    return jax.numpy.stack(leaves)


def _unstack(leaf: PyTree, index: int) -> PyTree:
    if _is_box(leaf):
        return leaf.remove_axis(0, {nn.PARTITION_NAME: _STACKED}).replace_boxed(leaf.unbox()[index])
    return leaf[index]
