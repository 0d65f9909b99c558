"""The native runner's mesh and sharding rules as a t5x partitioner.

t5x's own partitioner ignores `num_partitions` on CPUs (T5X 2.1) and insists that every dimension
divides over its mesh axes. This one takes the same two settings as the native runner, builds the
same mesh, and places every array where `ofa_jax.sharding` places it.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh
from t5x import partitioning  # pyrefly: ignore[missing-import]

from ofa_jax.runs.settings import PartitionerConfig
from ofa_jax.sharding.mesh import build_mesh
from ofa_jax.sharding.placement import array_sharding
from ofa_jax.sharding.rules import build_rules

Partitioner = PartitionerConfig
"""`partitioning.Partitioner` of the gin files of both engines: mesh and rules."""


class MeshPartitioner(partitioning.PjitPartitioner):
    """A mesh with the axes replica, data and model, and a table of rules."""

    def __init__(self, settings: PartitionerConfig) -> None:
        """Builds the mesh over all devices of all processes.

        Args:
          settings: as for the native runner.

        Raises:
          MeshError: the mesh does not fit the devices.
          ValueError: no such table of rules, or no such axis.
        """
        self._mesh = build_mesh(settings.mesh, dcn_spec=settings.dcn_mesh)
        # t5x wants a number of partitions; its mesh, which would read it, is not built.
        super().__init__(
            num_partitions=1,
            logical_axis_rules=build_rules(settings.rules, settings.additional_rules),
        )

    @functools.cached_property
    def mesh(self) -> Mesh:  # pyrefly: ignore[bad-override]
        """The mesh over all devices of all processes."""
        return self._mesh

    def get_mesh_axes(self, train_state: Any) -> object:
        """Where each array of a state goes.

        Args:
          train_state: t5x state of arrays or `jax.ShapeDtypeStruct`.

        Returns:
          The same structure of `jax.sharding.PartitionSpec`; a dimension that does not divide by
          its mesh axes stays whole, as in the native runner.
        """
        logical = self.get_logical_axes(train_state)
        names = traverse_util.flatten_dict(logical.state_dict(), keep_empty_nodes=True, sep="/")
        arrays: dict[str, Any] = traverse_util.flatten_dict(
            train_state.state_dict(), keep_empty_nodes=True, sep="/"
        )

        def place(path: str, axes: object) -> Any:
            if not isinstance(axes, jax.sharding.PartitionSpec):
                return axes
            shape = arrays[path].shape
            return array_sharding(shape, tuple(axes), self._mesh, self._logical_axis_rules).spec

        placed = {path: place(path, axes) for path, axes in names.items()}
        return logical.restore_state(traverse_util.unflatten_dict(placed, sep="/"))
