"""Peak numbers of accelerators, from their data sheets.

For model-FLOPs utilization in the log, and for the expected step time of a plan.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator as JAX counts devices.

    Attributes:
      flops: dense bfloat16 operations per second.
      memory: bytes of high-bandwidth memory.
      memory_bandwidth: bytes per second to and from that memory.
      fast_network: bytes per second that a chip can send inside its domain (ICI, NVLink), over all
        of its links together.
      slow_network: bytes per second per chip between domains (data-center network, InfiniBand).
      domain: chips in the fast network.
      known_as: parts of `jax.Device.device_kind` by which it is known, in lower case.
      torus: dimensions of the torus that the fast network is, two links each; 0 is a switch, by
        which every chip reaches every other with all it has.
      cube: sides of a slice are rings where all of them are multiples of it (v4, v5p); 0 where a
        side is a ring at 16 chips, the whole length of a pod, and a line below (v5e, v6e).
    """

    flops: float
    memory: float
    memory_bandwidth: float
    fast_network: float
    slow_network: float
    domain: int
    known_as: tuple[str, ...]
    torus: int = 0
    cube: int = 0

    def topology(self, chips: int) -> tuple[int, ...]:
        """Sides of a slice, the most even ones; those that Google offers for powers of two.

        Args:
          chips: of the slice.

        Returns:
          `torus` numbers in increasing order; () for chips on a switch.
        """
        sides, left = [], chips
        for axis in range(self.torus, 1, -1):
            root = left ** (1 / axis) + 1e-9
            side = max(one for one in range(1, int(root) + 1) if left % one == 0)
            sides.append(side)
            left //= side
        return tuple(sorted([*sides, left])) if self.torus else ()

    def bandwidth(self, group: int, sides: Sequence[int] = ()) -> float:
        """Bytes per second that each chip of a group can send to the others of it.

        A group fills the longest sides of the torus first. A whole side that is a ring has the
        links of both directions, a line or a part of a side half as much.

        Args:
          group: chips that take part together, inside the domain.
          sides: of the slice; () takes all links.
        """
        if not self.torus or not sides:
            return self.fast_network
        links, left = 0, group
        for side in sorted(sides, reverse=True):
            if left > 1:
                links += 2 if left >= side and self._is_ring(side, sides) else 1
                left = math.ceil(left / side)
        return self.fast_network * max(links, 1) / (2 * self.torus)

    def _is_ring(self, side: int, sides: Sequence[int]) -> bool:
        if self.cube:
            return all(one % self.cube == 0 for one in sides)
        return side == 16


_GB = 1e9
_GIB = 2**30

CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "v4": Chip(275e12, 32 * _GIB, 1228 * _GB, 300 * _GB, 6 * _GB, 4096, ("tpu v4",), 3, 4),
        "v5e": Chip(
            197e12,
            16 * _GIB,
            819 * _GB,
            200 * _GB,
            3 * _GB,
            256,
            ("tpu v5 lite", "tpu v5e"),
            2,
        ),
        "v5p": Chip(
            459e12, 95 * _GIB, 2765 * _GB, 600 * _GB, 6 * _GB, 8960, ("tpu v5p", "tpu v5"), 3, 4
        ),
        "v6e": Chip(
            918e12,
            32 * _GIB,
            1640 * _GB,
            448 * _GB,
            6 * _GB,
            256,
            ("tpu v6 lite", "tpu v6e"),
            2,
        ),
        "a100": Chip(312e12, 80 * _GIB, 2039 * _GB, 300 * _GB, 25 * _GB, 8, ("a100",)),
        "h100": Chip(989e12, 80 * _GIB, 3350 * _GB, 450 * _GB, 50 * _GB, 8, ("h100",)),
        "h200": Chip(989e12, 141 * _GIB, 4800 * _GB, 450 * _GB, 50 * _GB, 8, ("h200",)),
        "b200": Chip(2250e12, 180 * _GIB, 8000 * _GB, 900 * _GB, 50 * _GB, 8, ("b200",)),
    }
)


def chip_of(device_kind: str) -> Chip | None:
    """The table's entry for a device, or None for a CPU or an unknown chip.

    Args:
      device_kind: `jax.devices()[0].device_kind`.
    """
    name = device_kind.lower()
    found = [(len(part), chip) for chip in CHIPS.values() for part in chip.known_as if part in name]
    return max(found, key=lambda pair: pair[0])[1] if found else None
