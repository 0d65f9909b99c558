"""The device mesh: which devices hold copies, slices of the batch and slices of the weights.

Three axes. `replica`: whole copies of everything (slices of a multi-slice TPU). `data`: the batch
is split over it, and the weights too under FSDP rules. `model`: matrices are split over it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from ofa_jax.sharding.rules import LogicalRules

MESH_AXES = ("replica", "data", "model")
FILL = -1


class MeshError(ValueError):
    """A mesh that cannot be built from the devices at hand."""


def parse_mesh(spec: str | Mapping[str, int] | None, device_count: int) -> dict[str, int]:
    """Axis sizes from a mesh specification.

    Args:
      spec: "data=4,model=2" or the same as a mapping; axes that are not named have size 1, one
        may be -1 for all remaining devices. An empty specification puts every device on `data`.
      device_count: devices to use; the sizes must multiply to it.

    Returns:
      Size by axis, in the order of `MESH_AXES`.

    Raises:
      MeshError: naming what is wrong, with the numbers.
    """
    given = _read_spec(spec)
    if not given:
        given = {"data": FILL}
    sizes = {axis: given.get(axis, 1) for axis in MESH_AXES}
    shown = ",".join(f"{axis}={size}" for axis, size in given.items())
    wild = [axis for axis, size in sizes.items() if size == FILL]
    if len(wild) > 1:
        raise MeshError(f"mesh {shown}: only one axis may be -1")
    known = math.prod(size for size in sizes.values() if size != FILL)
    if wild:
        if device_count % known:
            raise MeshError(
                f"mesh {shown}: {device_count} devices do not divide by the {known} of the other "
                "axes"
            )
        sizes[wild[0]] = device_count // known
    elif known != device_count:
        relation = "only" if known > device_count else "all"
        raise MeshError(
            f"mesh {shown} has {known} devices, but there are {relation} {device_count} of them; "
            f"change a size, or give one axis -1 to use what is left"
        )
    return sizes


def _read_spec(spec: str | Mapping[str, int] | None) -> dict[str, int]:
    if spec is None:
        return {}
    if isinstance(spec, str):
        sizes: dict[str, int] = {}
        for part in filter(None, (part.strip() for part in spec.split(","))):
            match = re.fullmatch(r"(\w+)\s*=\s*(-?\d+)", part)
            if not match:
                raise MeshError(
                    f"mesh {spec!r}: {part!r} is not of the form axis=size, as in 'data=4,model=2'"
                )
            if match[1] in sizes:
                raise MeshError(f"mesh {spec!r}: axis {match[1]!r} is given twice")
            sizes[match[1]] = int(match[2])
    else:
        sizes = dict(spec)
    for axis, size in sizes.items():
        if axis not in MESH_AXES:
            raise MeshError(f"mesh axis {axis!r} is none of {', '.join(MESH_AXES)}")
        if size != FILL and size < 1:
            raise MeshError(f"mesh axis {axis} must be positive or -1, got {size}")
    return sizes


def arrange_devices(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """Devices as a grid whose last axes are the best connected.

    Args:
      sizes: size by axis, from `parse_mesh`.
      devices: as many as the sizes multiply to. Devices of several TPU slices are laid out so
        that only the `replica` axis crosses the slow network between slices.

    Returns:
      object[replica, data, model].

    Raises:
      MeshError: if there are several slices and `replica` is no multiple of their number.
    """
    shape = tuple(sizes[axis] for axis in MESH_AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if sizes["replica"] % slices:
        raise MeshError(
            f"the devices form {slices} slices, so mesh axis replica must be a multiple of "
            f"{slices}, got {sizes['replica']}"
        )
    within = (sizes["replica"] // slices, sizes["data"], sizes["model"])
    return mesh_utils.create_hybrid_device_mesh(
        within, (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def build_mesh(
    spec: str | Mapping[str, int] | None = None, devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh of a specification over all devices of all processes.

    Args:
      spec: see `parse_mesh`.
      devices: to use instead of `jax.devices()`.

    Returns:
      Mesh with axes replica, data, model.

    Raises:
      MeshError: see `parse_mesh` and `arrange_devices`.
    """
    devices = list(jax.devices() if devices is None else devices)
    grid = arrange_devices(parse_mesh(spec, len(devices)), devices)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


@contextlib.contextmanager
def mesh_context(mesh: Mesh, rules: LogicalRules) -> Iterator[None]:
    """What must surround calls of compiled functions, for the model's sharding constraints.

    Args:
      mesh: the mesh.
      rules: the logical axis rules.

    Yields:
      Nothing.
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield
