"""Prints the table of sizes: `python -m ofa_jax.sizes [--mesh data=8,model=4]`.

Parameters and their breakdown, operations per example at usual resolutions, and the memory that
weights and optimizer take per chip. Nothing is allocated, so the largest size prints on a laptop.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterable, Sequence

import jax
from flax import linen as nn
from jax.sharding import AbstractMesh

from ofa_jax.cli import shell
from ofa_jax.errors import SettingsError
from ofa_jax.model import flops
from ofa_jax.model.config import SIZES, OFAConfig
from ofa_jax.sharding.mesh import MESH_AXES, parse_mesh, require_devices
from ofa_jax.sharding.placement import array_sharding
from ofa_jax.sharding.rules import RULES
from ofa_jax.vocab import CHINESE

SOURCE_LENGTH = 80
TARGET_LENGTH = 30
RESOLUTIONS = (32, 256, 384, 480)
_FLOAT32 = 4

# The sizes of the library, and those of the Chinese checkpoints, which differ in the vocabulary.
LISTED: dict[str, OFAConfig] = {
    **SIZES,
    **{
        f"{size}_chinese": dataclasses.replace(
            SIZES[size], vocab_size=CHINESE.size, padded_vocab_size=None
        )
        for size in ("base", "large")
    },
}


def state_bytes_per_chip(config: OFAConfig, mesh_sizes: dict[str, int], *, ema: bool) -> int:
    """Bytes of float32 weights, Adam's two moments and the moving average on one chip.

    Args:
      config: the model's configuration.
      mesh_sizes: chips per mesh axis; weights are split over `data` (FSDP) and `model`.
      ema: whether a moving average of the weights is kept.

    Returns:
      Bytes, without activations and gradients. Arrays that do not divide stay whole.
    """
    mesh = AbstractMesh(tuple(mesh_sizes.values()), tuple(mesh_sizes))
    rules = RULES["fsdp_tensor"]
    variables = flops.abstract_variables(config)
    params = 0
    for box in jax.tree.leaves(
        variables["params"], is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    ):
        shape = box.unbox().shape
        sharding = array_sharding(shape, box.names, mesh, rules)
        params += math.prod(sharding.shard_shape(shape))
    return params * _FLOAT32 * (4 if ema else 3)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def parameter_table(sizes: Sequence[str]) -> str:
    """Parameters per size with their breakdown, as text."""

    def row(name: str) -> list[str]:
        count = flops.count_parameters(LISTED[name])
        numbers = (count.total, count.embedding, count.resnet, count.encoder, count.decoder)
        return [name, *(f"{number:,}" for number in numbers)]

    header = ("size", "parameters", "embedding", "resnet", "encoder (with resnet)", "decoder")
    return _table(header, (row(name) for name in sizes))


def flops_table(sizes: Sequence[str]) -> str:
    """Operations per example, forward / training, in units of 1e9, as text."""

    def largest(config: OFAConfig) -> int:
        return config.image_bucket_size * config.resnet.stride

    def cell(config: OFAConfig, resolution: int) -> str:
        if resolution > largest(config):
            return "-"
        example = {
            "source_length": SOURCE_LENGTH,
            "target_length": TARGET_LENGTH,
            "image_size": (resolution, resolution),
        }
        forward = flops.forward_flops(config, **example)
        return f"{forward / 1e9:,.1f} / {3 * forward / 1e9:,.1f}"

    header = ("size", *(f"{resolution} px" for resolution in RESOLUTIONS))
    rows = (
        [name, *(cell(LISTED[name], resolution) for resolution in RESOLUTIONS)] for name in sizes
    )
    return _table(header, rows)


def memory_table(sizes: Sequence[str], mesh_sizes: dict[str, int]) -> str:
    """GiB per chip of weights and optimizer, without and with a moving average, as text."""

    def row(name: str) -> list[str]:
        values = (
            state_bytes_per_chip(LISTED[name], mesh_sizes, ema=ema) / 2**30 for ema in (False, True)
        )
        return [name, *(f"{value:,.3f}" for value in values)]

    return _table(("size", "Adam", "Adam + EMA"), (row(name) for name in sizes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and prints the tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ofa_jax.sizes", description=__doc__)
    parser.add_argument(
        "--mesh",
        default="data=1,model=1",
        help="chips per mesh axis, such as data=8,model=4 (axes: " + ", ".join(MESH_AXES) + ")",
    )
    parser.add_argument("--size", action="append", choices=list(LISTED), help="only this size")
    options = parser.parse_args(arguments)
    return shell.run(lambda: _print_tables(options.mesh, options.size or list(LISTED)))


def _print_tables(mesh: str, sizes: Sequence[str]) -> None:
    require_devices()
    try:
        chips = math.prod(int(part.split("=")[1]) for part in mesh.split(","))
        mesh_sizes = parse_mesh(mesh, chips)
    except (IndexError, ValueError) as error:
        raise SettingsError(f"--mesh {mesh}: {error}") from error
    print("Trainable parameters (padded vocabulary rows and batch-norm statistics not counted)")
    print(parameter_table(sizes))
    print(f"\n1e9 operations per example, forward / training, s={SOURCE_LENGTH}, t={TARGET_LENGTH}")
    print(flops_table(sizes))
    print(f"\nGiB per chip of float32 weights and optimizer on {mesh} (FSDP over data)")
    print(memory_table(sizes, mesh_sizes))


if __name__ == "__main__":
    sys.exit(main())
