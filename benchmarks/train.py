"""What a training step costs, in parts, and how fast that is beside one large matrix product.

    python -m benchmarks.train [--size tiny] [--image 256] [--batch 4] [--conv auto xla]
        [--rounds 5] [--operations] [--official PYTHON CODE] [--json FILE]

Random weights and inputs; one task, cross entropy over the whole vocabulary, clipping, Adam and
weight decay. Steps of all values of `--conv` (`models.OFA.conv`: "xla" is the form that a TPU or
GPU runs) and the parts of the first one run in turns, a product of 2,048 x 2,048 matrices with
them. Loss and gradients of a part: "stem" is the ResNet, "encoder" the rest of the encoder (the
difference between the encoder and its stem), "decoder" its layers on given states, "loss" the
logits and cross entropy on given states. GFLOP are those of `ofa_jax.model.flops`, times three.
Compile seconds are those of a program that no cache holds; memory is what the compiler plans, and
the highest resident size of the process, which with several values of `--conv` belongs to all.

With `--official` the official PyTorch model takes the same step in a process of its own, in turns
with ours (`torch_official.py`).
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import platform
import re
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import PyTree

from benchmarks.peer import Peer, add_official_arguments, official_model
from benchmarks.turns import Measured, in_turns, report
from ofa_jax import vocab
from ofa_jax.losses.cross_entropy import LossConfig, token_losses
from ofa_jax.model import OFA, SIZES, OFAConfig
from ofa_jax.model.encoder import EncoderOutput
from ofa_jax.model.flops import forward_flops, patch_grid, resnet_flops
from ofa_jax.model.ofa import normalize_images
from ofa_jax.model.resnet import ResNet
from ofa_jax.ops.host_memory import give_back_freed_memory, keep_freed_memory, only_cpu
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.programs import program_memory
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import make_train_step

PRODUCT_SIDE = 2048
SHOWN_OPERATIONS = 10
OPTIMIZER = OptimizerConfig(ScheduleConfig(peak=1e-4, total_steps=10**6, warmup_steps=100))


class Work(NamedTuple):
    """A batch: examples, pixels per side, source and target tokens."""

    batch: int
    image: int
    source: int
    target: int


def random_batch(config: OFAConfig, work: Work) -> dict[str, jax.Array]:
    """Full-length texts and images of noise."""
    rng = np.random.default_rng(0)

    def tokens(length: int) -> np.ndarray:
        made = rng.integers(4, config.vocab_size, (work.batch, length)).astype(np.int32)
        made[:, 0] = vocab.BOS_ID
        return made

    pixels = rng.integers(0, 256, (work.batch, work.image, work.image, 3)).astype(np.uint8)
    return jax.device_put(
        {
            "encoder_input_tokens": tokens(work.source),
            "encoder_images": pixels,
            "decoder_input_tokens": tokens(work.target),
            "decoder_target_tokens": tokens(work.target),
            "decoder_loss_weights": np.ones((work.batch, work.target), np.float32),
        }
    )


def part_flops(config: OFAConfig, work: Work) -> dict[str, float]:
    """Operations of the parts, forward and backward."""
    sizes = {"source_length": work.source, "image_size": (work.image, work.image)}
    stem = resnet_flops(config, work.image, work.image)
    y, x = patch_grid(config, work.image, work.image)
    loss = 2 * work.target * config.width * config.vocab_size
    keys = 4 * (y * x + work.source) * config.width**2 * config.decoder_layers
    without_target = forward_flops(config, target_length=0, **sizes)
    total = forward_flops(config, target_length=work.target, **sizes)
    parts = {
        "step": total,
        "stem": stem,
        "encoder": without_target - keys - stem,
        "decoder": total - without_target - loss + keys,
        "loss": loss,
    }
    return {name: 3.0 * work.batch * flops for name, flops in parts.items()}


class Training:
    """A model in training: its state, its step, and the parts of the step as programs."""

    def __init__(self, config: OFAConfig, work: Work, batch: dict[str, jax.Array]) -> None:
        self.config, self.work, self.batch = config, work, batch
        self.model = OFA(config)
        tx, schedule = build_optimizer(OPTIMIZER)
        self._tx, key = tx, jax.random.key(0)
        shapes = {
            name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in batch.items()
        }
        create = jax.jit(lambda key: nn.unbox(TrainState.create(self.model, tx, key, shapes)))
        self.state = create(key)
        step = make_train_step(self.model, tx, schedule, LossConfig(), vocab_size=config.vocab_size)
        lowered = cast(Any, step).lower(self.state, batch, key)
        began = time.perf_counter()
        self.program = lowered.compile()
        self.compile_seconds = time.perf_counter() - began
        give_back_freed_memory()
        self._key = key

    def step(self) -> Any:
        """One step; the state moves on."""
        self.state, metrics = self.program(self.state, self.batch, self._key)
        return metrics["loss"]

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Loss and gradients of the parts, and the optimizer."""
        config, batch = self.config, self.batch
        # Its own, since a step gives the memory of its state away.
        variables = jax.tree.map(jnp.copy, self.state.variables())
        params = variables["params"]
        encoded = jax.jit(lambda v: self.model.apply(v, batch, method="encode"))(variables)
        states = jax.random.normal(
            jax.random.key(1), (*batch["decoder_input_tokens"].shape, config.width)
        )
        masks = jnp.ones(self.work.batch, bool)

        def stem(params: PyTree) -> jax.Array:
            pixels = normalize_images(batch["encoder_images"], masks, None)
            own = {"params": params, "batch_stats": variables["batch_stats"]["encoder"]["resnet"]}
            features, _ = ResNet(config).apply(own, pixels, True, mutable=["batch_stats"])
            return jnp.mean(jnp.square(features))

        def encoder(params: PyTree) -> jax.Array:
            found, _ = self.model.apply(
                {**variables, "params": params},
                batch,
                train=True,
                method="encode",
                mutable=["batch_stats"],
            )
            return jnp.mean(jnp.square(found.states))

        def decoder(params: PyTree, given: jax.Array) -> jax.Array:
            output = EncoderOutput(given, encoded.mask, encoded.positions)
            tokens = batch["decoder_input_tokens"]
            variables = {"params": params}
            found: Any = self.model.apply(variables, output, tokens, method=_decoder_states)
            return jnp.mean(jnp.square(found))

        def loss(table: jax.Array, states: jax.Array) -> jax.Array:
            logits: Any = self.model.apply(
                {"params": {"token_embedding": {"embedding": table}}}, states, method=_logits
            )
            return token_losses(
                logits,
                batch["decoder_target_tokens"],
                batch["decoder_loss_weights"],
                LossConfig(),
                vocab_size=config.vocab_size,
            ).loss_sum

        def update(gradients: PyTree, opt_state: PyTree, params: PyTree) -> Any:
            updates, opt_state = self._tx.update(gradients, opt_state, params)
            return jax.tree.map(jnp.add, params, updates), opt_state

        def called(function: Callable[..., object], *arguments: Any) -> Callable[[], Any]:
            program = jax.jit(function).lower(*arguments).compile()
            return lambda: program(*arguments)

        def gradient(function: Callable[..., object], *arguments: Any) -> Callable[[], object]:
            numbers = tuple(range(len(arguments)))
            return called(jax.value_and_grad(function, numbers), *arguments)

        optimizer = jax.jit(update, donate_argnums=(1, 2))
        held = [jax.tree.map(jnp.copy, self.state.opt_state), jax.tree.map(jnp.copy, params)]

        def optimize() -> object:
            held[1], held[0] = optimizer(params, *held)
            return held[1]

        return {
            "stem": gradient(stem, params["encoder"]["resnet"]),
            "encoder with stem": gradient(encoder, params),
            "decoder": gradient(decoder, params, encoded.states),
            "loss": gradient(loss, params["token_embedding"]["embedding"], states),
            "optimizer": optimize,
        }


def _decoder_states(model: OFA, output: EncoderOutput, tokens: jax.Array) -> jax.Array:
    return model.decoder(model._embed(tokens), output, None, True)


def _logits(model: OFA, states: jax.Array) -> jax.Array:
    return model._logits(states)


def heaviest_operations(training: Training, steps: int = 2) -> list[tuple[str, float, int]]:
    """(name of the operation in the model, seconds per step, events per step), longest first.

    From a profile of the process; what one thread does while another waits counts once for each.
    """
    scopes = dict(
        re.findall(
            r"%?([\w.\-]+) = [^\n]*?metadata={[^}]*?op_name=\"([^\"]*)\"",
            training.program.as_text(),
        )
    )
    seconds: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(steps):
                jax.block_until_ready(training.step())
        [path] = pathlib.Path(directory).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
        for plane in profile.planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in scopes:
                        name = f"{event.name}: {scopes[event.name]}"
                        seconds[name] += event.duration_ns / 1e9 / steps
                        count[name] += 1
    return [(name, spent, count[name] // steps) for name, spent in seconds.most_common()]


def measure(arguments: argparse.Namespace, official: Peer | None) -> dict[str, object]:
    """Steps, parts and the product in turns; prints them."""
    work = Work(arguments.batch, arguments.image, arguments.source, arguments.target)
    plain = SIZES[arguments.size]
    batch = random_batch(plain, work)
    trainings = {
        conv: Training(dataclasses.replace(plain, conv=conv), work, batch)
        for conv in arguments.conv
    }
    first = trainings[arguments.conv[0]]
    steps = {f"step, conv={conv}": Measured(one.step) for conv, one in trainings.items()}
    calls = first.parts() if arguments.parts else {}
    parts = {name: Measured(call) for name, call in calls.items()}
    if official is not None:
        asked = official.call(what="step", inputs=dict(work._asdict()))
        steps["step, official"] = Measured(asked)
    matrix = jnp.ones((PRODUCT_SIDE, PRODUCT_SIDE))
    product = Measured(jax.jit(lambda m=matrix: m @ m).lower().compile())
    in_turns({**steps, **parts, "product": product}, arguments.rounds)

    results: dict[str, Any] = {}
    report("steps", steps, next(iter(steps)), results)
    for conv, training in trainings.items():
        memory = program_memory(training.program)
        print(
            f"conv={conv}: compiled in {training.compile_seconds:.1f} s; "
            + ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in memory.items())
        )
        results[f"conv={conv}"] = {"compile_seconds": training.compile_seconds, **memory}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"highest resident size of this process {peak:,.0f} MiB")
    results["peak_mib"] = peak
    if official is not None:
        results["official_peak_mib"] = official.highest_memory()
        print(f"of the official process {results['official_peak_mib']:,.0f} MiB")

    full_speed = 2 * PRODUCT_SIDE**3 / product.median / 1e9
    flops = part_flops(first.config, work)
    seconds = {"step": next(iter(steps.values())).median}
    seconds |= {name: part.median for name, part in parts.items()}
    if parts:
        seconds["encoder"] = seconds.pop("encoder with stem") - seconds["stem"]
    print(f"\nproduct of {PRODUCT_SIDE} x {PRODUCT_SIDE}: {full_speed:.0f} GFLOP/s")
    print(f"{'part':12s}{'ms':>10s}{'GFLOP':>10s}{'GFLOP/s':>10s}{'of product':>12s}")
    for name in ("step", "stem", "encoder", "decoder", "loss", "optimizer"):
        if name not in seconds:
            continue
        line, count = f"{name:12s}{1e3 * seconds[name]:10.1f}", flops.get(name)
        if count is not None:
            speed = count / 1e9 / seconds[name]
            line += f"{count / 1e9:10.1f}{speed:10.0f}{speed / full_speed:12.2f}"
        print(line)
        results[f"part: {name}"] = {"seconds": seconds[name], "flops": count}
    results["product_gflops"] = full_speed
    if arguments.operations:
        print(f"\n{'ms per step':>12s}{'events':>8s}  operation")
        for name, spent, events in heaviest_operations(first)[:SHOWN_OPERATIONS]:
            print(f"{1e3 * spent:12.1f}{events:8d}  {name}")
    return results


def main() -> None:
    """Measures and prints; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="tiny", choices=sorted(SIZES))
    parser.add_argument("--image", type=int, default=256, help="pixels per side")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--source", type=int, default=80, help="source tokens")
    parser.add_argument("--target", type=int, default=30, help="target tokens")
    parser.add_argument(
        "--conv", nargs="+", default=["auto"], choices=["auto", "mixed", "matmul", "xla"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-parts", dest="parts", action="store_false", help="only whole steps")
    parser.add_argument("--operations", action="store_true", help="also the ten heaviest")
    add_official_arguments(parser)
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    if only_cpu():
        # As `ofa_jax.train` does.
        keep_freed_memory()
    print(
        f"OFA {arguments.size}, {arguments.batch} images of {arguments.image} pixels, jax "
        f"{jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores "
        f"({platform.machine()}), load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    with official_model(arguments.official, arguments.size, arguments.image) as official:
        results = measure(arguments, official)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
