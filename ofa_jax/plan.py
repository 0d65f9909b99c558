"""`python -m ofa_jax.plan --gin_file=FILE --mesh=data=64,model=4`: what a step on a mesh needs.

Compiles the training step ahead of time for a mesh of simulated devices, or of a TPU topology where
the package libtpu is installed. Nothing is allocated, no data is read, nothing is trained.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import sys
from collections.abc import Sequence

from ofa_jax.cli import shell

# The largest pods have 9,216 chips.
_MOST_DEVICES = 1 << 16


def parser() -> argparse.ArgumentParser:
    """The command line; `--gin.NAME=VALUE` is taken out before."""
    result = argparse.ArgumentParser(
        prog="python -m ofa_jax.plan",
        description="Memory, collectives, operations and expected time of a training step.",
        epilog="Any gin binding can be given as --gin.NAME=VALUE, as for python -m ofa_jax.train.",
    )
    result.add_argument("--gin_file", action="append", required=True, help="may be repeated")
    result.add_argument("--engine", choices=("native", "t5x"), default="native")
    result.add_argument(
        "--mesh", help="for example data=64,model=4; default: that of the gin files"
    )
    result.add_argument("--dcn_mesh", help="axes between slices, for example replica=2")
    result.add_argument(
        "--devices", type=shell.whole, help="devices; default: the product of the mesh"
    )
    result.add_argument("--chip", default="v5e", help="for the expected time: v4, v5e, h100, ...")
    result.add_argument(
        "--efficiency",
        type=shell.real,
        help="reachable share of the chip's peak; default: that of the table, or 0.5",
    )
    result.add_argument(
        "--efficiency_table",
        default="benchmarks/efficiency.json",
        help='measured shares by chip, {"v5e": 0.41}, where there are some (%(default)s)',
    )
    result.add_argument(
        "--topology",
        help="compile for a TPU such as v5e:16x16 instead (needs the libtpu of the extra tpu)",
    )
    result.add_argument("--json", help="write the numbers to this file as well")
    return result


def device_count(options: argparse.Namespace) -> int:
    """Devices to simulate: as asked for, or as many as the meshes multiply to.

    Raises:
      ValueError: neither says it.
    """
    if options.devices is not None:
        if not 1 <= options.devices <= _MOST_DEVICES:
            raise ValueError(
                f"--devices must be from 1 to {_MOST_DEVICES:,}, got {options.devices}"
            )
        return options.devices
    sizes = [
        int(size)
        for spec in (options.mesh, options.dcn_mesh)
        for size in re.findall(r"=\s*(-?\d+)", spec or "")
    ]
    if not options.mesh or min(sizes, default=-1) < 1:
        raise ValueError("give all sizes in --mesh (such as data=64,model=4), or --devices=256")
    return math.prod(sizes)


def simulate_devices(count: int) -> None:
    """Makes JAX's CPU backend have this many devices; before JAX is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = [
        os.environ.get("XLA_FLAGS", ""),
        f"--xla_force_host_platform_device_count={count}",
        # The program never runs: its code need not be fast, and its memory is planned before.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    # A libtpu that is installed must not look for its chips.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    from ofa_jax.cli import gin_files

    others, bindings = gin_files.split_overrides(arguments)
    options = parser().parse_args(others)

    def run() -> None:
        simulate_devices(1 if options.topology else device_count(options))
        from ofa_jax.cli import engines

        engines.check_files(options.gin_file, options.engine)
        if options.engine == "t5x":
            if importlib.util.find_spec("t5x") is None:
                raise ValueError("--engine=t5x: t5x is not installed; see docs/t5x.md")
            from ofa_jax.t5x.planning import run_plan
        else:
            run_plan = _plan_native_run

        run_plan(options, bindings)

    return shell.run(run)


def _plan_native_run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Parses gin files and overrides as training does, then plans instead."""
    shell.set_up_process()
    from ofa_jax.cli.entry import configured
    from ofa_jax.runs import plan

    # What a plan does not depend on need not be given.
    bindings = ["MODEL_DIR = 'planned'", "TRAIN_STEPS = 1_000_000", *overrides]
    for name in ("mesh", "dcn_mesh"):
        if getattr(options, name) is not None:
            bindings.append(f"partitioning.Partitioner.{name} = {getattr(options, name)!r}")
    plan.check_options(options)
    found: list[plan.StepPlan] = []
    configured(plan.planner(options, found), options.gin_file, bindings)()
    plan.report(found[0], options)


if __name__ == "__main__":
    sys.exit(main())
