"""Puts the train state and the batches onto the mesh, and says what went where.

Between `rules` and the engine: boxed abstract state in, shardings out; then arrays are created
directly in their place, so that no device ever holds the whole model unless the rules say so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ofa_jax.sharding.mesh import MeshError, describe_mesh
from ofa_jax.sharding.rules import LogicalRules

BATCH_AXES = ("replica", "data")


def _mesh_axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _ways(entry: str | tuple[str, ...] | None, mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts a dimension is split."""
    return math.prod(mesh.shape[axis] for axis in _mesh_axes(entry))


def array_sharding(
    shape: tuple[int, ...],
    names: tuple[str | None, ...],
    mesh: Mesh | AbstractMesh,
    rules: LogicalRules,
) -> NamedSharding:
    """Sharding of one array with logical axis names.

    A dimension that does not divide by its mesh axes stays whole (`placement_report` shows it).

    Args:
      shape: of the array.
      names: logical name per dimension.

    Returns:
      The sharding.
    """
    wanted = tuple(nn.logical_to_mesh_axes(names, rules) or ())
    wanted += (None,) * (len(shape) - len(wanted))
    fitting = [
        entry if size % _ways(entry, mesh) == 0 else None
        for size, entry in zip(shape, wanted, strict=True)
    ]
    return NamedSharding(mesh, PartitionSpec(*fitting))


def state_shardings(
    abstract_state: PyTree, mesh: Mesh, rules: LogicalRules
) -> PyTree[NamedSharding]:
    """Shardings of a whole state.

    Args:
      abstract_state: `jax.eval_shape` of a boxed state, see `TrainState.create`. Leaves without
        a box are replicated.

    Returns:
      The unboxed structure with a NamedSharding for each array.
    """

    def of_leaf(leaf):
        if not isinstance(leaf, nn.Partitioned):
            return NamedSharding(mesh, PartitionSpec())
        # Frozen parameters leave an empty marker instead of a moment in their box.
        return jax.tree.map(
            lambda value: array_sharding(value.shape, leaf.names, mesh, rules), leaf.value
        )

    return jax.tree.map(of_leaf, abstract_state, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def create_sharded(
    create: Callable[..., PyTree], *arguments: object, mesh: Mesh, rules: LogicalRules
) -> tuple[PyTree, PyTree[NamedSharding]]:
    """Runs an initializer so that each device makes only its own part.

    Args:
      create: returns a boxed state, for example a closure over `TrainState.create`.
      *arguments: its arguments, for example the key.

    Returns:
      (unboxed state of sharded arrays, its shardings).
    """
    shardings = state_shardings(jax.eval_shape(create, *arguments), mesh, rules)
    initialize = jax.jit(lambda *args: nn.meta.unbox(create(*args)), out_shardings=shardings)
    # No mesh context here: inside it, flax would check the boxes against the mesh once more and
    # refuse the dimensions that stay whole.
    return initialize(*arguments), shardings


def abstract_arrays(abstract_state: PyTree, shardings: PyTree[NamedSharding]) -> PyTree:
    """Shapes that know their sharding, for restoring a checkpoint in place.

    Args:
      abstract_state: `jax.eval_shape` of the state, boxed or not.
      shardings: from `state_shardings`.

    Returns:
      Unboxed structure of `jax.ShapeDtypeStruct`.
    """
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.meta.unbox(abstract_state),
        shardings,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of every array [b, ...] of a batch: b over the replica and data axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch_size(batch_size: int, mesh: Mesh, num_microbatches: int = 1) -> None:
    """Fails early where a batch does not divide over the devices.

    Args:
      batch_size: global examples per step.
      num_microbatches: gradient accumulation.

    Raises:
      ValueError: with the numbers and the nearest batch sizes that fit.
    """
    parts = _ways(BATCH_AXES, mesh) * num_microbatches
    if batch_size >= parts and batch_size % parts == 0:
        return
    lower = batch_size // parts * parts
    nearest = f"{lower} or {lower + parts}" if lower else f"{parts}"
    raise ValueError(
        f"a batch of {batch_size} does not divide over {_ways(BATCH_AXES, mesh)} data-parallel "
        f"devices times {num_microbatches} microbatches = {parts}; the nearest is {nearest}"
    )


def check_axis_sizes(axis_sizes: Mapping[str, int], mesh: Mesh, rules: LogicalRules) -> None:
    """Fails early where activations do not divide over the mesh.

    Weights that do not divide stay whole; activations cannot.

    Args:
      axis_sizes: size by logical name, for example {"heads": 12, "mlp": 3072, "vocab": 59520}.

    Raises:
      ValueError: naming the first axis that does not divide.
    """
    for name, entry in rules:
        size, ways = axis_sizes.get(name), _ways(entry, mesh)
        if size is not None and size % ways:
            fits = max(number for number in range(1, ways) if size % number == 0)
            raise ValueError(
                f"the model has {name} = {size}, which does not divide over the {ways} devices of "
                f"mesh axis {'*'.join(_mesh_axes(entry))}; {fits} of them would fit"
            )


def input_share(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """Which part of each global batch a process has to read.

    Processes whose devices hold the same rows of the batch (where the model axis crosses hosts)
    read the same part.

    Args:
      process: its index; None for this process.

    Returns:
      (number of parts, index of this process's part).

    Raises:
      MeshError: processes hold overlapping or unequal parts, as no input can be split.
    """
    process = jax.process_index() if process is None else process
    size = mesh.devices.shape[-1]
    rows: dict[int, set[int]] = {}
    for number, device in enumerate(mesh.devices.flat):
        rows.setdefault(device.process_index, set()).add(number // size)
    parts = sorted({tuple(sorted(held)) for held in rows.values()})
    if len({len(part) for part in parts}) > 1 or len(set().union(*parts)) < sum(map(len, parts)):
        raise MeshError(
            f"mesh {describe_mesh(mesh)} gives the {len(rows)} hosts unequal parts of the batch; "
            f"a model axis that divides the {mesh.size // len(rows)} devices of a host would fit"
        )
    return len(parts), parts.index(tuple(sorted(rows[process])))


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a host batch onto the devices.

    Args:
      batch: arrays [b, ...]; with several processes, this process's rows of the global batch.

    Returns:
      Global arrays, split over the replica and data axes.
    """
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one array lives.

    Attributes:
      path: slash-separated.
      shape: global shape.
      names: logical name per dimension, () where the array has none.
      spec: mesh axes per dimension.
      bytes: of the whole array.
      device_bytes: of the part on one device.
      kept_whole: logical names that the rules would split but the size does not allow.
    """

    path: str
    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    spec: PartitionSpec
    bytes: int
    device_bytes: int
    kept_whole: tuple[str, ...]


def _boxed_leaves(abstract_state: PyTree) -> Iterator[tuple[str, PyTree, tuple[str | None, ...]]]:
    is_box = lambda x: isinstance(x, nn.Partitioned)  # noqa: E731
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state, is_leaf=is_box):
        keys = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", ""))) for key in path]
        name = "/".join(map(str, keys))
        if not is_box(leaf):
            yield name, leaf, ()
        elif jax.tree.leaves(leaf.value):
            yield name, leaf.value, leaf.names


def placements(abstract_state: PyTree, mesh: Mesh, rules: LogicalRules) -> list[Placement]:
    """Where each array of a state lives.

    Args:
      abstract_state: boxed, as for `state_shardings`.

    Returns:
      One entry per array, in tree order.
    """
    result = []
    for path, leaf, names in _boxed_leaves(abstract_state):
        sharding = array_sharding(leaf.shape, names, mesh, rules)
        wanted = tuple(nn.logical_to_mesh_axes(names, rules) or ())
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        result.append(
            Placement(
                path=path,
                shape=tuple(leaf.shape),
                names=tuple(names),
                spec=sharding.spec,
                bytes=size,
                device_bytes=size // math.prod(_ways(entry, mesh) for entry in sharding.spec),
                kept_whole=tuple(
                    str(name)
                    for name, entry, got in zip(names, wanted, sharding.spec, strict=False)
                    if entry is not None and got is None
                ),
            )
        )
    return result


def _row(entry: Placement, width: int) -> str:
    places = [
        f"{name}:{'*'.join(_mesh_axes(mesh_axes))}" if mesh_axes else str(name)
        for name, mesh_axes in zip(entry.names, entry.spec, strict=False)
    ]
    note = f"  not divisible: {', '.join(entry.kept_whole)}" if entry.kept_whole else ""
    shape = "x".join(map(str, entry.shape)) or "scalar"
    return f"{entry.path:<{width}}  {shape:>16}  ({', '.join(places)}){note}"


def _totals(entries: list[Placement]) -> list[str]:
    lines = []
    for title, group in (("parameters", _parameters(entries)), ("whole state", entries)):
        total = sum(entry.bytes for entry in group)
        local = sum(entry.device_bytes for entry in group)
        lines.append(
            f"{title}: {total / 2**20:,.1f} MiB, {local / 2**20:,.1f} MiB per device "
            f"({local / max(1, total):.1%})"
        )
    return lines


def _parameters(entries: list[Placement]) -> list[Placement]:
    return [entry for entry in entries if entry.path.startswith("params/")] or entries


def placement_report(abstract_state: PyTree, mesh: Mesh, rules: LogicalRules) -> str:
    """Text that shows the mesh, each parameter's place, and the memory per device.

    Args:
      abstract_state: boxed train state, as for `state_shardings`.

    Returns:
      Lines: one per parameter, then totals of parameters and of the whole state.
    """
    entries = placements(abstract_state, mesh, rules)
    parameters = _parameters(entries)
    width = max((len(entry.path) for entry in parameters), default=0)
    rows = [_row(entry, width) for entry in parameters]
    return "\n".join([f"mesh: {describe_mesh(mesh)}", *rows, *_totals(entries)])


def placement_summary(
    abstract_state: PyTree, mesh: Mesh, rules: LogicalRules, *, shown: int = 6
) -> list[str]:
    """The short form of `placement_report`: what takes most memory on a device.

    Args:
      abstract_state: boxed train state, as for `state_shardings`.
      shown: parameters shown, those that take most memory per device; none on a single device.

    Returns:
      Lines for a log.
    """
    entries = placements(abstract_state, mesh, rules)
    lines = [f"mesh: {describe_mesh(mesh)}", *_totals(entries)]
    if mesh.size > 1:
        largest = sorted(_parameters(entries), key=lambda entry: -entry.device_bytes)[:shown]
        width = max(len(entry.path) for entry in largest)
        lines += [
            f"{_row(entry, width)}  {entry.device_bytes / 2**20:,.1f} MiB" for entry in largest
        ]
    return lines
