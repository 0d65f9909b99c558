"""How many examples a machine can answer at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import jax

from ofa_jax.model.config import OFAConfig
from ofa_jax.model.flops import patch_grid
from ofa_jax.sharding.layout import MeshLayout

__all__ = ["example_bytes", "fitting_batch"]

logger = logging.getLogger("ofa_jax")

# Of a device's memory, what answers may take; weights and everything else need the rest.
_SHARE = 0.5
_FLOAT = 4


def example_bytes(config: OFAConfig, lengths: Mapping[str, int]) -> int:
    """Bytes that one example needs while it is encoded, in float32, where most is held.

    Args:
      lengths: `inputs` in tokens, `image` in pixels per side (0: no image).
    """
    side, positions, image = lengths["image"], lengths["inputs"], 0
    if side:
        rows, columns = patch_grid(config, side, side)
        positions += rows * columns
        # The stem has 64 channels at half of the side, its first blocks 256 at a quarter: both are
        # as large, and a block holds its input, its output and two arrays between them.
        image = 4 * 64 * (side // 2) ** 2 * _FLOAT
    # Scores and their softmax.
    attention = 2 * config.num_heads * positions**2 * _FLOAT
    return max(image, attention)


def fitting_batch(
    batch_size: int, config: OFAConfig, lengths: Mapping[str, int], layout: MeshLayout
) -> int:
    """The most examples up to `batch_size` that fit into memory, a multiple of the layout's parts.

    Args:
      lengths: as for `example_bytes`.
      layout: the devices.
    """
    needed = example_bytes(config, lengths)
    fitting = max(1, int(_SHARE * _device_bytes(layout)) // needed) * layout.parts
    if fitting >= batch_size:
        return batch_size
    logger.info(
        "%d examples at once instead of %d: each needs about %d MiB",
        *(fitting, batch_size, needed >> 20),
    )
    return fitting


def _device_bytes(layout: MeshLayout) -> int:
    """Memory of each device; those of a CPU share that of the machine."""
    device = layout.mesh.local_devices[0]
    if device.platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return memory // max(1, len(jax.local_devices(backend="cpu")))
    return int((device.memory_stats() or {}).get("bytes_limit", 16 << 30))
