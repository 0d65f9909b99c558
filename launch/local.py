"""`python launch/local.py --processes=2 --devices_per_process=4 --gin_file=...`: hosts on one CPU.

Every process plays a host with simulated devices. This is how a mesh of several hosts is tried
before it costs anything; it is no faster than one process.
"""

from __future__ import annotations

import sys

import commands
from processes import Process, free_port, supervise


def processes(
    words: tuple[str, ...], count: int, devices: int, address: str
) -> tuple[Process, ...]:
    """The processes of a run, with the variables that `ofa_jax.runs.hosts` reads.

    Args:
      words: the training command.
      count: processes.
      devices: simulated devices of each.
      address: host:port of the first.
    """
    return tuple(
        Process(
            words,
            {
                "COORDINATOR_ADDRESS": address,
                "NUM_PROCESSES": str(count),
                "PROCESS_ID": str(index),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            },
            label=str(index),
        )
        for index in range(count)
    )


def launch(own: list[str], gin: list[str]) -> int:
    """Starts or prints the processes."""
    parser = commands.parser("local", "Trains with several processes of simulated devices.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices_per_process", type=int, default=4)
    parser.add_argument("--port", type=int, default=0, help="of process 0; 0 finds a free one")
    parser.add_argument("--max_restarts", type=int, default=3)
    parser.add_argument("--python", default=".venv/bin/python")
    options = parser.parse_args(own)
    commands.check_positive(options, "processes", "devices_per_process")
    commands.check_positive(options, "max_restarts", "port", least=0)
    devices = options.processes * options.devices_per_process
    commands.check_gin(gin, devices, engine=options.engine, shared_directory=False)
    address = f"localhost:{options.port or free_port()}"
    words = commands.training_words(gin, options.python, options.engine)
    started = processes(words, options.processes, options.devices_per_process, address)
    if options.dry_run:
        for process in started:
            print(f"{process.show()} &")
        print("wait")
        return 0
    return supervise(started, options.max_restarts)


if __name__ == "__main__":
    sys.exit(commands.main(launch))
