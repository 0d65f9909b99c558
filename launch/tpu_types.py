"""TPU slices by name: chips, hosts, topologies, and what Google Cloud calls them.

Numbers from Cloud TPU's pages on v4, v5e, v5p and v6e: v4 and v5p count TensorCores, two per chip,
in their names, v5e and v6e count chips. JAX sees one device per chip on all of them.
"""

from __future__ import annotations

import dataclasses
import difflib

from commands import LaunchError

_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBE = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
}


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the slices of a generation have in common.

    Attributes:
      prefix: of their names.
      cores: what the name counts, per chip.
      topologies: chips to topology.
      largest_host: chips of the largest slice with a single host.
      runtime: software version of TPU VMs.
      gke: accelerator label on GKE.
    """

    prefix: str
    cores: int
    topologies: dict[int, str]
    largest_host: int
    runtime: str
    gke: str


GENERATIONS = (
    Generation("v4", 2, _CUBE, 4, "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    Generation("v5litepod", 1, _FLAT, 8, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    Generation("v5p", 2, _CUBE, 4, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    Generation("v6e", 1, _FLAT, 8, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
)


@dataclasses.dataclass(frozen=True)
class TpuType:
    """One type of slice.

    Attributes:
      name: for example "v5litepod-256".
      chips: in the slice; the devices that JAX sees.
      hosts: machines of the slice.
      topology: for example "16x16".
      generation: what it shares with its siblings.
    """

    name: str
    chips: int
    hosts: int
    topology: str
    generation: Generation

    @property
    def chips_per_host(self) -> int:
        """Chips of each machine."""
        return self.chips // self.hosts


def _types() -> dict[str, TpuType]:
    found = {}
    for generation in GENERATIONS:
        for chips, topology in generation.topologies.items():
            hosts = 1 if chips <= generation.largest_host else chips // 4
            name = f"{generation.prefix}-{chips * generation.cores}"
            found[name] = TpuType(name, chips, hosts, topology, generation)
    return found


TPU_TYPES = _types()


def tpu_type(name: str) -> TpuType:
    """The slice of a name.

    Raises:
      LaunchError: unknown; the nearest are named.
    """
    if name in TPU_TYPES:
        return TPU_TYPES[name]
    prefix = {"v5e": "v5litepod", "v5lite": "v5litepod"}.get(name.partition("-")[0])
    wanted = f"{prefix}-{name.partition('-')[2]}" if prefix else name
    near = [wanted] if wanted in TPU_TYPES else difflib.get_close_matches(wanted, TPU_TYPES, n=3)
    known = ", ".join(generation.prefix + "-N" for generation in GENERATIONS)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {known}"
    raise LaunchError(f"--tpu_type: no TPU is called {name!r}; {hint}")
