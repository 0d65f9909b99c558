"""The device mesh: which devices hold copies, slices of the batch and slices of the weights.

Three axes. `replica`: whole copies of everything (slices of a multi-slice TPU). `data`: the batch
is split over it, and the weights too under FSDP rules. `model`: matrices are split over it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from ofa_jax.errors import SettingsError
from ofa_jax.sharding.rules import MESH_AXES, LogicalRules

__all__ = [
    "FILL",
    "MeshError",
    "arrange_devices",
    "build_mesh",
    "describe_mesh",
    "device_name",
    "mesh_context",
    "parse_mesh",
    "require_devices",
]

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
            f"{_fitting_mesh(sizes, device_count)} would fit"
        )
    return sizes


def _fitting_mesh(sizes: Mapping[str, int], device_count: int) -> str:
    """The mesh nearest to the wanted one that has this many devices."""
    for axis in ("data", "replica", "model"):
        others = math.prod(size for name, size in sizes.items() if name != axis)
        if device_count % others == 0:
            fitting = {**sizes, axis: device_count // others}
            return ",".join(f"{name}={size}" for name, size in fitting.items() if size > 1) or (
                "data=1"
            )
    return f"data={device_count}"


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


def arrange_devices(
    sizes: Mapping[str, int], devices: Sequence[jax.Device], across: Mapping[str, int] | None = None
) -> np.ndarray:
    """Devices as a grid whose last axes are the best connected.

    Args:
      sizes: size by axis, from `parse_mesh`; with `across`, of one slice.
      devices: as many as the sizes multiply to.
      across: how often each axis goes on over the slow network between slices (or hosts). None
        puts devices that form several TPU slices on the `replica` axis.

    Returns:
      object[replica, data, model].

    Raises:
      MeshError: if there are several slices and `replica` is no multiple of their number, or the
        devices do not form as many slices as `across` says.
    """
    if across is not None:
        return _arrange_slices(sizes, across, devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        shape = tuple(sizes[axis] for axis in MESH_AXES)
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if sizes["replica"] % slices:
        raise MeshError(
            f"the devices form {slices} slices, so mesh axis replica must be a multiple of "
            f"{slices}, got {sizes['replica']}; or set dcn_mesh"
        )
    within = {**sizes, "replica": sizes["replica"] // slices}
    return _arrange_slices(within, {"replica": slices, "data": 1, "model": 1}, devices)


def _arrange_slices(
    within: Mapping[str, int], across: Mapping[str, int], devices: Sequence[jax.Device]
) -> np.ndarray:
    """Lays out each slice by itself, then the slices beside each other along `across`."""
    count = math.prod(across.values())
    groups: dict[int, list[jax.Device]] = {}
    for device in devices:
        groups.setdefault(getattr(device, "slice_index", 0), []).append(device)
    if len(groups) == 1:
        # Hosts of one network, or simulated devices: neighbors form a slice.
        ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
        size = len(ordered) // count
        groups = {number: ordered[number * size :][:size] for number in range(count)}
    if len(groups) != count:
        raise MeshError(
            f"dcn_mesh has {count} slices, but the devices form {len(groups)}; "
            f"replica={len(groups)} would fit"
        )
    inner = tuple(within[axis] for axis in MESH_AXES)
    blocks = [
        mesh_utils.create_device_mesh(inner, groups[number], allow_split_physical_axes=True)
        for number in sorted(groups)
    ]
    outer = tuple(across[axis] for axis in MESH_AXES)
    grid = np.stack(blocks).reshape(outer + inner)
    # Each axis: first over the slices, then inside one.
    grid = grid.transpose([number for axis in range(3) for number in (axis, axis + 3)])
    return grid.reshape([a * b for a, b in zip(outer, inner, strict=True)])


def build_mesh(
    spec: str | Mapping[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
    *,
    dcn_spec: str | Mapping[str, int] | None = None,
) -> Mesh:
    """The mesh of a specification over all devices of all processes.

    Args:
      spec: see `parse_mesh`; with `dcn_spec`, of one slice.
      devices: to use instead of `jax.devices()`.
      dcn_spec: axes over the slow network between slices, for example "replica=2"; sizes multiply
        with those of `spec`. Axes that are not named have size 1, none may be -1.

    Returns:
      Mesh with axes replica, data, model.

    Raises:
      MeshError: see `parse_mesh` and `arrange_devices`.
    """
    devices = list(jax.devices() if devices is None else devices)
    across = None
    if dcn_spec:
        given = _read_spec(dcn_spec)
        if FILL in given.values():
            raise MeshError(f"dcn_mesh {dcn_spec}: sizes must be given, -1 is not possible")
        across = {axis: given.get(axis, 1) for axis in MESH_AXES}
    slices = math.prod(across.values()) if across else 1
    if len(devices) % slices:
        raise MeshError(
            f"dcn_mesh {dcn_spec} has {slices} slices, over which {len(devices)} devices do not "
            "divide"
        )
    sizes = parse_mesh(spec, len(devices) // slices)
    grid = arrange_devices(sizes, devices, across)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def describe_mesh(mesh: Mesh) -> str:
    """The resolved mesh as "replica=1, data=4, model=2 (8 devices)"."""
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    return f"{axes} ({mesh.size} devices)"


@contextlib.contextmanager
def mesh_context(mesh: Mesh, rules: LogicalRules) -> Iterator[None]:
    """What must surround calls of compiled functions, for the model's sharding constraints.

    Yields:
      Nothing.
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield


def require_devices() -> None:
    """Fails where JAX finds none of the devices that it was told to use.

    Raises:
      SettingsError: with what was asked for.
    """
    try:
        jax.devices()
    # JAX has an assertion for a platform that nothing installed knows.
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or ["nothing installed here drives them"])[0]
        raise SettingsError(
            f"JAX_PLATFORMS={jax.config.jax_platforms} asks for devices that cannot be used: "  # pyrefly: ignore[missing-attribute]
            f"{reason}; install jax for them (see README), or set JAX_PLATFORMS=cpu"
        ) from error


def device_name() -> str:
    """The devices of this run in words."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"
