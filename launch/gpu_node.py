"""`python launch/gpu_node.py --gpus=8 --gin_file=...`: one machine with several GPUs.

One process drives all GPUs, which needs no coordination; --process_per_gpu starts one for each, so
that every GPU has its own input workers and Python interpreter.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import commands
from processes import Process, free_port, supervise


def gpu_indices(options: argparse.Namespace) -> tuple[int, ...]:
    """The GPUs to use.

    Raises:
      LaunchError: --devices that are no numbers or repeat, or that --gpus contradicts.
    """
    if not options.devices:
        return tuple(range(options.gpus or 8))
    words = options.devices.split(",")
    if not all(word.strip().isdigit() for word in words) or len(set(words)) != len(words):
        raise commands.LaunchError(
            f"--devices must be different numbers such as 0,1,2,3, got {options.devices!r}"
        )
    if options.gpus and options.gpus != len(words):
        raise commands.LaunchError(f"--gpus={options.gpus}, but --devices names {len(words)}")
    return tuple(int(word) for word in words)


def check_present(indices: tuple[int, ...]) -> None:
    """Fails where this machine has fewer GPUs.

    Raises:
      LaunchError: no nvidia-smi, or a GPU that is not there.
    """
    commands.require("nvidia-smi", "install the NVIDIA driver")
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    count = sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    if max(indices) >= count:
        raise commands.LaunchError(
            f"GPU {max(indices)} was asked for, but nvidia-smi lists {count} (0 to {count - 1})"
        )


def processes(
    words: tuple[str, ...], indices: tuple[int, ...], address: str | None
) -> tuple[Process, ...]:
    """The processes of a run.

    Args:
      words: the training command.
      indices: the GPUs.
      address: host:port of the first process, None for one process with all GPUs.
    """
    visible = {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, indices)),
        "JAX_PLATFORMS": "cuda",
    }
    if address is None:
        return (Process(words, visible),)
    return tuple(
        Process(
            words,
            {
                **visible,
                "COORDINATOR_ADDRESS": address,
                "NUM_PROCESSES": str(len(indices)),
                "PROCESS_ID": str(place),
                # Counted among the visible ones.
                "LOCAL_DEVICE_IDS": str(place),
            },
            label=str(place),
        )
        for place in range(len(indices))
    )


def launch(own: list[str], gin: list[str]) -> int:
    """Starts or prints the processes."""
    parser = commands.parser("gpu_node", "Trains on the GPUs of this machine.")
    parser.add_argument("--gpus", type=int, default=0, help="how many (default: 8)")
    parser.add_argument("--devices", default="", help="which ones, for example 0,1,2,3")
    parser.add_argument("--process_per_gpu", action="store_true")
    parser.add_argument("--port", type=int, default=0, help="of process 0; 0 finds a free one")
    parser.add_argument("--max_restarts", type=int, default=3)
    parser.add_argument("--python", default=".venv/bin/python")
    options = parser.parse_args(own)
    commands.check_positive(options, "gpus", "max_restarts", "port", least=0)
    indices = gpu_indices(options)
    commands.check_gin(gin, len(indices), engine=options.engine, shared_directory=False)
    address = f"localhost:{options.port or free_port()}" if options.process_per_gpu else None
    started = processes(
        commands.training_words(gin, options.python, options.engine), indices, address
    )
    if options.dry_run:
        for process in started:
            print(process.show() + (" &" if address else ""))
        if address:
            print("wait")
        return 0
    check_present(indices)
    return supervise(started, options.max_restarts)


if __name__ == "__main__":
    sys.exit(commands.main(launch))
