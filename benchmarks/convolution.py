"""Every convolution of an image stem, forward and with both gradients, in all our ways.

    python -m benchmarks.convolution [--size tiny] [--image 256] [--batch 4] [--rounds 5]
        [--torch_python PYTHON] [--json FILE]

The ways of `ofa_jax.ops.conv`, and torch's convolution where a Python that has torch is named: it
runs in a child process, which waits while others run. All ways of one convolution run in turns.
Milliseconds are medians, ratios those of the rounds to "xla"; "sum" counts each convolution as
often as the stem has it. Pooling and batch norm follow, in their ways.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from benchmarks.peer import Peer
from benchmarks.turns import Measured, in_turns
from ofa_jax.model import SIZES, OFAConfig
from ofa_jax.model.flops import convolved
from ofa_jax.ops.batch_norm import batch_norm
from ofa_jax.ops.conv import conv2d, max_pool, symmetric_padding

WAYS = ("xla", "matmul", "mixed")


class Convolution(NamedTuple):
    """One shape of convolution on one image."""

    y: int
    x: int
    channels: int
    features: int
    kernel: int
    stride: int

    def __str__(self) -> str:
        return (
            f"{self.y}x{self.x}x{self.channels} to {self.features}, "
            f"{self.kernel}x{self.kernel}/{self.stride}"
        )


def convolutions(config: OFAConfig, size: int) -> collections.Counter[Convolution]:
    """Those of a stem on images of `size` pixels per side, with how often it has each."""
    net = config.resnet
    found = [Convolution(size, size, 3, net.stem_width, net.stem_kernel, net.stem_stride)]
    side = convolved(size, net.stem_kernel, net.stem_stride)
    if net.stem_pool:
        side = (side + 1) // 2
    channels = net.stem_width
    for blocks, inner, first in zip(
        net.stage_blocks, net.stage_widths, net.stage_strides, strict=True
    ):
        out = net.expansion * inner
        for block in range(blocks):
            stride = first if block == 0 else 1
            if stride != 1 or channels != out:
                found.append(Convolution(side, side, channels, out, 1, stride))
            found.append(Convolution(side, side, channels, inner, 1, 1))
            found.append(Convolution(side, side, inner, inner, 3, stride))
            side = convolved(side, 3, stride)
            found.append(Convolution(side, side, inner, out, 1, 1))
            channels = out
    return collections.Counter(found)


def torch_call(torch: Peer, one: Convolution, batch: int, backward: bool) -> Callable[[], float]:
    """What takes one convolution with torch and returns its seconds."""
    asked = {
        "shape": [batch, one.y, one.x, one.channels],
        "features": one.features,
        "kernel": one.kernel,
        "stride": one.stride,
        "padding": symmetric_padding(one.kernel, one.stride),
    }
    return torch.call(convolution=asked, backward=backward)


@contextlib.contextmanager
def torch_process(python: str | None) -> Iterator[Peer | None]:
    """The child process that runs torch's convolutions, or None where no Python is named."""
    torch = None if python is None else Peer(python, "torch_convolution.py")
    try:
        yield torch
    finally:
        if torch is not None:
            torch.close()


def with_gradients(
    function: Callable[..., jax.Array], *arguments: jax.Array, first: int = 0
) -> dict[bool, Callable[[], PyTree]]:
    """Programs of the function (False), and of it with the gradients of its arguments (True)."""
    result = jax.eval_shape(function, *arguments)
    gradient = jax.random.normal(jax.random.key(7), result.shape)

    def both(gradient: jax.Array, *arguments: jax.Array) -> object:
        return jax.vjp(lambda *late: function(*arguments[:first], *late), *arguments[first:])[1](
            gradient
        )

    forward = jax.jit(function).lower(*arguments).compile()
    backward = jax.jit(both).lower(gradient, *arguments).compile()
    return {False: lambda: forward(*arguments), True: lambda: backward(gradient, *arguments)}


def one_convolution(
    one: Convolution, batch: int, rounds: int, torch: Peer | None
) -> dict[bool, dict[str, Measured]]:
    """All ways of one convolution in turns: forward (False), forward and backward (True)."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    images = array(batch, one.y, one.x, one.channels)
    kernel = array(one.kernel, one.kernel, one.channels, one.features)
    padding = symmetric_padding(one.kernel, one.stride)
    measured: dict[bool, dict[str, Measured]] = {False: {}, True: {}}
    for way in WAYS:

        def run(images: jax.Array, kernel: jax.Array, way: str = way) -> jax.Array:
            return conv2d(images, kernel, stride=one.stride, padding=padding, implementation=way)

        # Nobody asks for the gradient of pixels.
        for backward, call in with_gradients(
            run, images, kernel, first=int(one.channels == 3)
        ).items():
            measured[backward][way] = Measured(call)
    if torch is not None:
        for backward in measured:
            measured[backward]["torch"] = Measured(torch_call(torch, one, batch, backward))
    for settings in measured.values():
        in_turns(settings, rounds)
    return measured


def shown(settings: dict[str, Measured]) -> str:
    """Milliseconds of "xla", and the ratios of the others to it."""
    base = settings["xla"]
    others = [f"{way} {one.over(base)}" for way, one in settings.items() if way != "xla"]
    return f"{1e3 * base.median:9.2f} ms" + "".join(f"  {text:24s}" for text in others)


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Prints a line for each convolution and direction, then the sums."""
    config, batch, rounds = SIZES[arguments.size], arguments.batch, arguments.rounds
    results: dict[str, Any] = {}
    sums: dict[bool, dict[str, float]] = {
        False: collections.defaultdict(float),
        True: collections.defaultdict(float),
    }
    with torch_process(arguments.torch_python) as torch:
        for one, times in convolutions(config, arguments.image).items():
            for backward, settings in one_convolution(one, batch, rounds, torch).items():
                name = f"{times} x {one}, {'with gradients' if backward else 'forward'}"
                print(f"{name:58s}{shown(settings)}", flush=True)
                results[name] = {way: found.clock for way, found in settings.items()}
                for way, found in settings.items():
                    sums[backward][way] += times * statistics.median(found.clock)
    for backward, ways in sums.items():
        name = f"sum, {'with gradients' if backward else 'forward'}"
        print(
            f"{name:58s}"
            + ", ".join(
                f"{way} {1e3 * total:.0f} ms ({total / ways['xla']:.2f})"
                for way, total in ways.items()
            )
        )
        results[name] = dict(ways)
    results |= around_convolutions(config, arguments)
    return results


def around_convolutions(config: OFAConfig, arguments: argparse.Namespace) -> dict[str, object]:
    """Pooling, and batch norm with relu behind the widest layer of each stage, with gradients."""
    net, results = config.resnet, {}
    side = convolved(arguments.image, net.stem_kernel, net.stem_stride)
    shapes = [("max pool", side, net.stem_width), ("batch norm, relu", side, net.stem_width)]
    side = (side + 1) // 2 if net.stem_pool else side
    for width, stride in zip(net.stage_widths, net.stage_strides, strict=True):
        side = convolved(side, 3, stride)
        shapes.append(("batch norm, relu", side, net.expansion * width))
    for kind, side, channels in shapes:
        x = jax.random.normal(jax.random.key(0), (arguments.batch, side, side, channels))
        vector = jnp.ones(channels)
        settings: dict[str, Measured] = {}
        for way in ("xla", "auto"):

            def run(x: jax.Array, *parameters: jax.Array, way: str = way) -> jax.Array:
                if not parameters:
                    return max_pool(x, implementation=way)
                return jax.nn.relu(batch_norm(x, *parameters, eps=1e-5, implementation=way)[0])

            given = (x,) if kind == "max pool" else (x, vector, vector)
            settings[way] = Measured(with_gradients(run, *given)[True])
        in_turns(settings, arguments.rounds)
        name = f"{kind} of {side}x{side}x{channels}, with gradients"
        print(f"{name:58s}{shown(settings)}", flush=True)
        results[name] = {way: found.clock for way, found in settings.items()}
    return results


def main() -> None:
    """Measures and prints; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="tiny", choices=sorted(SIZES))
    parser.add_argument("--image", type=int, default=256, help="pixels per side")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch_python", help="a Python that has torch, to compare with")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    print(
        f"stem of {arguments.size}, {arguments.batch} images of {arguments.image} pixels, jax "
        f"{jax.__version__}, {jax.devices()[0].device_kind}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    results = measure(arguments)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
