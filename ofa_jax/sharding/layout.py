"""A mesh with its rules: weights and batches are put there, results are brought back.

What evaluation and inference know of devices. In training the layout is that of the run, so weights
are evaluated as they are sharded and no device ever holds all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ofa_jax.sharding import placement
from ofa_jax.sharding.mesh import build_mesh, mesh_context, require_devices
from ofa_jax.sharding.placement import BATCH_AXES
from ofa_jax.sharding.rules import LogicalRules, build_rules

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class MeshLayout:
    """Where a model answers.

    Attributes:
      mesh: devices, of this process or of all.
      rules: logical axes to mesh axes.
    """

    mesh: Mesh
    rules: LogicalRules

    @classmethod
    def local(cls, count: int | None = None) -> MeshLayout:
        """The first devices of this process, each with all weights and its part of a batch.

        Args:
          count: of devices; None takes all.

        Raises:
          SettingsError: JAX finds none of those that it was told to use.
        """
        require_devices()
        return cls(build_mesh(devices=jax.local_devices()[:count]), build_rules("data_parallel"))

    @property
    def parts(self) -> int:
        """Into how many parts a batch is split; its size must be a multiple."""
        return int(np.prod([self.mesh.shape[axis] for axis in BATCH_AXES]))

    def check_batch(self, batch_size: int, setting: str) -> None:
        """Fails where a batch does not divide over the devices.

        Raises:
          ValueError: names the setting.
        """
        if batch_size < 1 or batch_size % self.parts:
            raise ValueError(f"{setting} {batch_size} does not divide over {self.parts} devices")

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Splits a batch over the devices.

        Args:
          batch: arrays [b, ...], the same whole batch on every process of the mesh.
        """
        sharding = placement.batch_sharding(self.mesh)
        if self.mesh.is_multi_process:
            return {
                name: jax.make_array_from_callback(np.shape(value), sharding, value.__getitem__)
                for name, value in batch.items()
            }
        return jax.device_put(dict(batch), sharding)

    def replicate(self, arrays: PyTree) -> PyTree:
        """Puts arrays, the same on every process, whole onto every device."""
        return jax.device_put(jax.device_get(arrays), NamedSharding(self.mesh, PartitionSpec()))

    def key(self, seed: int, number: int) -> jax.Array:
        """A random key on every device, a function of the two numbers."""
        key = jax.random.fold_in(jax.random.key(seed), number)
        return jax.random.wrap_key_data(self.replicate(jax.random.key_data(key)))

    def fetch(self, arrays: PyTree) -> PyTree:
        """Results as numpy arrays, whole on every process of the mesh."""
        if self.mesh.is_multi_process:
            return multihost_utils.process_allgather(arrays, tiled=True)
        return jax.device_get(arrays)

    def run(self, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Calls a function whose programs hold the model's sharding constraints."""
        with mesh_context(self.mesh, self.rules):
            return function(*arguments, **options)
