"""What a training step needs on a mesh, found out by compiling it: behind `python -m ofa_jax.plan`.

Takes the same gin files as training. Sources are not read; without the files of a vocabulary the
model keeps the vocabulary of its size.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import inspect
import json
import logging
import math
import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax

from ofa_jax import schema, vocab
from ofa_jax.checkpoint.manager import readable_size
from ofa_jax.data.sources import locations as data_locations
from ofa_jax.data.tasks import features
from ofa_jax.data.tasks.registration import import_modules, lookup
from ofa_jax.data.tasks.task import TaskSet
from ofa_jax.model.vqgan.config import VQGANConfig
from ofa_jax.runs.engine import Engine
from ofa_jax.runs.settings import DatasetConfig, PartitionerConfig, TrainerConfig
from ofa_jax.runs.story import train
from ofa_jax.sharding import placement
from ofa_jax.sharding.chips import CHIPS, Chip
from ofa_jax.sharding.collectives import Collective, program_collectives, summarise
from ofa_jax.training.operations import count_operations
from ofa_jax.training.optimizer import OptimizerConfig
from ofa_jax.training.programs import program_memory

logger = logging.getLogger("ofa_jax")

_GIB = 2**30
# Share of the peak where nothing was measured.
ASSUMED_EFFICIENCY = 0.5


@dataclasses.dataclass(frozen=True)
class VocabularyOnly:
    """Stands in for a tokenizer whose files are not there: a plan needs only the sizes."""

    layout: vocab.VocabLayout


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """What one training step needs. Bytes and operations are per device unless named otherwise.

    Attributes:
      model: name of its size.
      parameters: trainable numbers of the whole model, padded vocabulary included.
      mesh: size by axis.
      batch_size: global examples.
      compiler: "cpu" for simulated devices, else the topology.
      compile_seconds: of this machine.
      memory: bytes by part, see `program_memory`; "state" besides.
      collectives: of the compiled program.
      model_operations: of the mathematical model on the whole batch.
      executed_operations: with recomputation, on the whole batch.
    """

    model: str
    parameters: int
    mesh: Mapping[str, int]
    batch_size: int
    compiler: str
    compile_seconds: float
    memory: Mapping[str, int]
    collectives: Sequence[Collective]
    model_operations: int
    executed_operations: int

    @property
    def devices(self) -> int:
        """Devices of the mesh."""
        return math.prod(self.mesh.values())

    def times(
        self, chip: Chip, efficiency: float, *, slices: int = 1, sides: Sequence[int] = ()
    ) -> dict[str, float]:
        """Expected seconds of a step.

        Args:
          chip: the accelerator.
          efficiency: share of its peak that products and convolutions reach.
          slices: TPU slices; a collective over more chips than a domain of the fast network has,
            or across slices, is charged to the slow one.
          sides: of a slice's torus; () takes those of `Chip.topology`.

        Returns:
          "compute", "memory" (state and temporary arrays read and written once), "network",
          and the "step": the largest of the three (all overlap) as "best", their sum as "worst".
        """
        compute = self.executed_operations / self.devices / (chip.flops * efficiency)
        moved = 2 * (self.memory["arguments"] + self.memory["temporary"])
        domain = min(chip.domain, self.devices // slices)
        sides = sides or chip.topology(domain)

        def speed(one: Collective) -> float:
            if one.group > domain:
                return chip.slow_network
            # A permutation passes everything on to one neighbor.
            return chip.bandwidth(2 if one.operation == "collective-permute" else one.group, sides)

        network = sum(one.wire_bytes / speed(one) for one in self.collectives)
        parts = {"compute": compute, "memory": moved / chip.memory_bandwidth, "network": network}
        return {**parts, "best": max(parts.values()), "worst": sum(parts.values())}


def planner(options: argparse.Namespace, results: list[StepPlan]) -> Callable[..., None]:
    """A function with the settings of `train` that plans instead, for gin.

    Args:
      options: of the command line.
      results: receives the plan.
    """

    def plan(**settings: Any) -> None:
        results.append(_plan(options, **settings))

    plan.__signature__ = inspect.signature(train)  # type: ignore[attr-defined]
    plan.__doc__ = train.__doc__
    return plan


def _plan(
    options: argparse.Namespace,
    *,
    model: Any,
    train_dataset_cfg: DatasetConfig,
    optimizer: OptimizerConfig,
    partitioner: PartitionerConfig,
    trainer: TrainerConfig,
    locations: Mapping[str, str] | None = None,
    **others: object,
) -> StepPlan:
    del others
    for name, path in (locations or {}).items():
        if path:
            data_locations.assign(name, path)
    if isinstance(model, VQGANConfig):
        raise ValueError("a plan is of OFA's steps; those of an image tokenizer cannot be planned")
    train_dataset_cfg.configure_buckets()
    devices = _topology_devices(options.topology) if options.topology else None
    tasks = _tasks(train_dataset_cfg, model)
    layout = tasks.tokenizer.layout
    config = model.build(
        vocab_size=layout.size, padded_vocab_size=layout.padded_size, num_codes=layout.num_codes
    )
    # What a CPU would choose for itself is not what an accelerator runs.
    for name in ("conv", "attention"):
        if getattr(config, name) == "auto":
            config = dataclasses.replace(config, **{name: "xla"})
    Engine.check(config, tasks, trainer)
    engine = Engine.build(
        config,
        tasks,
        optimizer=optimizer,
        trainer=trainer,
        partitioner=partitioner,
        batch_size=train_dataset_cfg.batch_size,
        devices=devices,
    )
    batch = {
        name: jax.ShapeDtypeStruct(
            (train_dataset_cfg.batch_size, *value.shape),
            value.dtype,
            sharding=placement.batch_sharding(engine.mesh),
        )
        for name, value in features.empty_row(tasks.lengths).items()
    }
    abstract = engine.abstract_state(batch)
    for line in placement.placement_summary(abstract, engine.mesh, engine.rules):
        logger.info("%s", line)
    shardings = placement.state_shardings(abstract, engine.mesh, engine.rules)
    state = placement.abstract_arrays(abstract, shardings)
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = engine.train_step(shardings)
    if not hasattr(step, "trace"):
        raise ValueError(
            "only steps of cross entropy can be planned, not self-critical ones (SCSTConfig)"
        )
    started = time.perf_counter()
    traced = engine.on_mesh(step.trace)(state, batch, key)
    executed = count_operations(traced.jaxpr)
    program = engine.on_mesh(lambda: traced.lower().compile())()
    seconds = time.perf_counter() - started
    entries = placement.placements(abstract, engine.mesh, engine.rules)
    memory = {"state": sum(entry.device_bytes for entry in entries), **program_memory(program)}
    mesh = {axis: int(size) for axis, size in engine.mesh.shape.items()}
    one_example = engine.operations_per_example(tasks.lengths)
    assert one_example is not None, "only OFA is planned"
    return StepPlan(
        model=model.size,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        mesh=mesh,
        batch_size=train_dataset_cfg.batch_size,
        compiler=options.topology or "cpu",
        compile_seconds=seconds,
        memory=memory,
        collectives=program_collectives(program.as_text(), mesh),
        model_operations=int(one_example) * train_dataset_cfg.batch_size,
        executed_operations=executed,
    )


def _tasks(dataset: DatasetConfig, model: Any) -> TaskSet:
    """The tasks of a mixture without their data, and with their vocabulary where it is there."""
    import_modules(dataset.modules)
    found = lookup(dataset.mixture_or_task_name)
    tasks = tuple(task for task, _ in found)
    try:
        tokenizer: Any = tasks[0].tokenizer()
    except (OSError, ValueError) as error:
        config = model.build()
        logger.info("no vocabulary files (%s): planned with %d ids", error, config.vocab_size)
        texts = config.vocab_size - vocab.NUM_SPECIALS - 1 - config.num_codes - 1000
        tokenizer = cast(Any, VocabularyOnly(vocab.VocabLayout(texts, config.num_codes)))
    rates = tuple(rate for _, rate in found)
    return TaskSet(tasks, rates, (), dataset.task_feature_lengths, tokenizer)


def _topology_devices(name: str) -> list[object]:
    """Devices of a TPU that is not there.

    Raises:
      ValueError: libtpu is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology {name} needs the TPU compiler: pip install 'jax[tpu]', or leave it out to "
            "plan with simulated devices"
        )
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(topology_name=name, platform="tpu").devices)
    except Exception as error:
        raise ValueError(f"--topology {name}: {str(error).splitlines()[0]}") from error


def describe(
    plan: StepPlan,
    chip_name: str,
    efficiency: float,
    *,
    measured: bool = False,
    slices: int = 1,
    sides: Sequence[int] = (),
) -> str:
    """The plan as text.

    Args:
      plan: what was found.
      chip_name: of `CHIPS`.
      efficiency: see `Plan.times`.
      measured: whether it was, or is only assumed.
      slices: see `Plan.times`.
      sides: see `Plan.times`.
    """
    chip = CHIPS[chip_name]
    axes = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    lines = [
        f"OFA {plan.model}, {plan.parameters / 1e6:,.0f} M parameters, batch {plan.batch_size:,} "
        f"on {plan.devices} devices ({axes}); compiled for {plan.compiler} in "
        f"{plan.compile_seconds:,.0f} s",
        "",
        "memory per device",
    ]
    for name in ("state", "arguments", "results", "temporary", "total"):
        lines.append(f"  {name:<10} {readable_size(plan.memory[name]):>12}")
    fits = "fits into" if plan.memory["total"] <= chip.memory else "does not fit into"
    lines += [f"  {fits} the {chip.memory / _GIB:.0f} GiB of {chip_name}", ""]
    lines.append("collectives per device and step")
    for one in summarise(plan.collectives):
        lines.append(
            f"  {one.operation:<18} over {'*'.join(one.axes):<12} ({one.group:>3} devices) "
            f"{one.times:>6} x {readable_size(one.bytes):>11} of results, "
            f"{readable_size(one.wire_bytes):>11} sent"
        )
    if not plan.collectives:
        lines.append("  none")
    times = plan.times(chip, efficiency, slices=slices, sides=sides)
    sides = sides or chip.topology(min(chip.domain, plan.devices // slices))
    torus = f" over a torus of {'x'.join(map(str, sides))}" if sides else ""
    source = "as measured" if measured else "an assumption"
    usable = plan.model_operations / plan.devices / chip.flops
    lines += [
        "",
        "operations per step",
        f"  of the model {plan.model_operations / 1e12:12,.2f} TFLOP, executed "
        f"{plan.executed_operations / 1e12:,.2f} TFLOP (recomputation included)",
        "",
        f"expected on {plan.devices} x {chip_name} at {efficiency:.0%} of its peak, {source}",
        f"  compute {times['compute'] * 1e3:,.1f} ms, memory {times['memory'] * 1e3:,.1f} ms, "
        f"network {times['network'] * 1e3:,.1f} ms{torus}",
        f"  a step takes {times['best'] * 1e3:,.1f} ms where these overlap, "
        f"{times['worst'] * 1e3:,.1f} ms where they do not",
        f"  {plan.batch_size / times['worst']:,.0f} to {plan.batch_size / times['best']:,.0f} "
        f"examples/s; at that share of the peak MFU is at most {usable / times['best']:.0%}, "
        f"{usable / times['worst']:.0%} where nothing overlaps",
    ]
    return "\n".join(lines)


def report(plan: StepPlan, options: argparse.Namespace) -> None:
    """Prints a plan, and writes it where the command line says so."""
    print(describe(plan, options.chip, **network_and_efficiency(options)))
    if options.json:
        write_json(plan, options.json)


def write_json(plan: StepPlan, path: str) -> None:
    """Writes the numbers of a plan."""
    content = dataclasses.asdict(plan)
    content["collectives"] = [dataclasses.asdict(one) for one in summarise(plan.collectives)]
    pathlib.Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def network_and_efficiency(options: argparse.Namespace) -> dict[str, Any]:
    """What `describe` is told besides the plan and the chip.

    Args:
      options: of the command line. "v5e:4x8" is a slice of these sides, "replica=2" two slices.

    Raises:
      ValueError: see `efficiency_of`.
    """
    efficiency, measured = efficiency_of(options)
    between = re.findall(r"=\s*(\d+)", options.dcn_mesh or "")
    inside = re.findall(r"\d+", (options.topology or "").partition(":")[2])
    return {
        "efficiency": efficiency,
        "measured": measured,
        "slices": math.prod(map(int, between)),
        "sides": tuple(map(int, inside)),
    }


def efficiency_of(options: argparse.Namespace) -> tuple[float, bool]:
    """The share of the peak, and whether it was measured.

    Args:
      options: of the command line: a number, or a table by chip, or neither.

    Raises:
      ValueError: a table that is none, or that lacks a chip that was asked for.
    """
    if options.efficiency is not None:
        return options.efficiency, False
    path = pathlib.Path(options.efficiency_table)
    if path.exists():
        table = schema.read_json(path, expected=dict)
        share = table.get(options.chip)
        if isinstance(share, float) and 0 < share <= 1:
            return share, True
        if share is not None:
            raise ValueError(f"{path}: {options.chip} must have a share in (0, 1], got {share!r}")
    return ASSUMED_EFFICIENCY, False


def check_options(options: argparse.Namespace) -> None:
    """Fails where the command line names what there is not.

    Raises:
      ValueError: an unknown chip, or an efficiency that is no share.
    """
    if options.chip not in CHIPS:
        raise ValueError(f"--chip {options.chip!r} is none of {', '.join(CHIPS)}")
    if options.efficiency is not None and not 0 < options.efficiency <= 1:
        raise ValueError(f"--efficiency must be in (0, 1], got {options.efficiency}")
