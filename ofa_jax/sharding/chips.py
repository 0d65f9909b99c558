"""Peak numbers of accelerators, from their data sheets.

For model-FLOPs utilisation in the log, and for the expected step time of a plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator as JAX counts devices.

    Attributes:
      flops: dense bfloat16 operations per second.
      memory: bytes of high-bandwidth memory.
      memory_bandwidth: bytes per second to and from that memory.
      fast_network: bytes per second that a chip can send inside its domain (ICI, NVLink).
      slow_network: bytes per second per chip between domains (data-centre network, InfiniBand).
      domain: chips in the fast network.
      kinds: parts of `jax.Device.device_kind` by which it is known, in lower case.
    """

    flops: float
    memory: float
    memory_bandwidth: float
    fast_network: float
    slow_network: float
    domain: int
    kinds: tuple[str, ...]


_GB = 1e9
_GIB = 2**30

CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "v4": Chip(275e12, 32 * _GIB, 1228 * _GB, 300 * _GB, 6 * _GB, 4096, ("tpu v4",)),
        "v5e": Chip(
            197e12,
            16 * _GIB,
            819 * _GB,
            200 * _GB,
            3 * _GB,
            256,
            ("tpu v5 lite", "tpu v5e"),
        ),
        "v5p": Chip(459e12, 95 * _GIB, 2765 * _GB, 600 * _GB, 6 * _GB, 8960, ("tpu v5p", "tpu v5")),
        "v6e": Chip(
            918e12,
            32 * _GIB,
            1640 * _GB,
            448 * _GB,
            6 * _GB,
            256,
            ("tpu v6 lite", "tpu v6e"),
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
    kind = device_kind.lower()
    found = [(len(part), chip) for chip in CHIPS.values() for part in chip.kinds if part in kind]
    return max(found, key=lambda pair: pair[0])[1] if found else None
