"""How long a newcomer waits: the settings of a run, and the first answer, cold and warm.

    python -m benchmarks.start [--rounds 5] [--json FILE]

Processes in turns: `import jax` alone, `train --print_config`, and `infer` of one image by the
smallest model, with an empty cache of compiled programs (cold) and with a full one (warm). Seconds
by the clock and of the processor, medians, ratios to `import jax` in the same round. The files of
the disk are in memory after the first round, which does not count. Run it from the root of the
repository.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.load import command, prepare
from benchmarks.turns import Ratio

BASE = "import jax"


def timed(arguments: list[str], cache: pathlib.Path) -> tuple[float, float]:
    """Seconds of one process, by the clock and of the processor.

    Raises:
      SystemExit: it failed.
    """
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    with tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(arguments)}\n{log.read()[-3000:]}")
    return seconds, usage.ru_utime + usage.ru_stime


def measure(directory: pathlib.Path, rounds: int) -> dict[str, Any]:
    """All commands in turns; prints a line for each."""
    run, warm, cold = directory / "run", directory / "warm", directory / "cold"
    answer = command(
        *("infer", f"--checkpoint={run}", f"--image={directory / 'few' / '00000.jpg'}"),
        f"--output={directory / 'answers'}",
    )
    settings = command("train", "--gin_file=gin_configs/runs/quickstart.gin", "--print_config")
    commands = {
        BASE: ([sys.executable, "-c", BASE], warm),
        "train --print_config": (settings, warm),
        "infer, cold": (answer, cold),
        "infer, warm": (answer, warm),
    }
    clock: dict[str, list[float]] = {name: [] for name in commands}
    processor: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(1 + rounds):
        for name, (arguments, cache) in commands.items():
            shutil.rmtree(cold, ignore_errors=True)
            shutil.rmtree(directory / "answers", ignore_errors=True)
            seconds, of_processor = timed(arguments, cache)
            if number:
                clock[name].append(seconds)
                processor[name].append(of_processor)
    results = {}
    print(f"{'':24s}{'s, clock':>10s}{'s, processor':>14s}{'ratio':>20s}")
    for name in commands:
        ratio = Ratio.of(processor[name], processor[BASE])
        medians = statistics.median(clock[name]), statistics.median(processor[name])
        print(f"{name:24s}{medians[0]:10.2f}{medians[1]:14.2f}{ratio!s:>20s}")
        results[name] = {"clock": clock[name], "processor": processor[name], "ratio": ratio}
    return results


def main() -> None:
    """Measures and prints; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=pathlib.Path, help="kept; default a temporary one")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or pathlib.Path(temporary)
        directory.mkdir(exist_ok=True)
        if not (directory / "run").exists():
            prepare(directory, images=1, examples=8)
        results = measure(directory, arguments.rounds)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
