"""`python launch/slurm.py --nodes=4 --gpus_per_node=8 --gin_file=...`: an sbatch script.

`srun` starts one process per GPU: that is what JAX expects under SLURM, whose variables
`ofa_jax.runs.hosts` reads. Before the time limit, and at preemption, SLURM sends SIGTERM; the
run saves, and the script puts the job back into the queue.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys

import commands

_TIME = re.compile(r"\d+(:\d\d(:\d\d)?)?|\d+-\d+(:\d\d(:\d\d)?)?")


def script(options: argparse.Namespace, gin: list[str]) -> str:
    """The text of the sbatch script.

    Args:
      options: the launcher's arguments.
      gin: arguments of training.
    """
    words = commands.training_words(gin, options.python, options.engine)
    command = commands.restarted_words(words, 0, options.python)
    lines = [
        f"--job-name={options.name}",
        f"--nodes={options.nodes}",
        f"--ntasks-per-node={options.gpus_per_node}",
        f"--gpus-per-node={options.gpus_per_node}",
        f"--cpus-per-task={options.cpus_per_gpu}",
        f"--time={options.time}",
        f"--output={options.log_dir}/%x-%j.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=TERM@{options.seconds_to_save}",
        *(f"--{name}={value}" for name in ("partition", "account", "qos")
          if (value := getattr(options, name))),
        *options.sbatch,
    ]  # fmt: skip
    directives = "\n".join(f"#SBATCH {line}" for line in lines)
    # SLURM signals the processes of srun itself; the script only has to outlive the signal, at
    # which `wait` returns before srun has ended. Hosts that lose another one end by themselves, so
    # none is killed while it saves. Since version 22.05 srun does not inherit --cpus-per-task.
    return f"""#!/bin/bash
{directives}
set -u
cd {shlex.quote(options.checkout)}
export JAX_PLATFORMS=cuda

srun --cpus-per-task={options.cpus_per_gpu} --kill-on-bad-exit=0 --wait=600 \\
  {shlex.join(command)} &
step=$!
trap : TERM
status=0
while true; do
  wait $step
  status=$?
  kill -0 $step 2>/dev/null || break
done

restarts=${{SLURM_RESTART_COUNT:-0}}
if [ $status -ne 0 ] && [ $status -ne 2 ] && [ "$restarts" -lt {options.max_restarts} ]; then
  echo "exit status $status; back into the queue (restart $((restarts + 1)) of \
{options.max_restarts})"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
"""


def launch(own: list[str], gin: list[str]) -> int:
    """Submits or prints the script."""
    parser = commands.parser("slurm", "Trains as a SLURM job, one process per GPU.")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus_per_node", type=int, default=8)
    parser.add_argument("--cpus_per_gpu", type=int, default=8)
    parser.add_argument("--time", default="24:00:00", help="limit of one stretch")
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument("--qos", default="")
    parser.add_argument("--checkout", default=str(commands.CHECKOUT), help="as all nodes see it")
    parser.add_argument("--log_dir", default="runs/launch", help="for the job's log")
    parser.add_argument("--seconds_to_save", type=int, default=180, help="before the time limit")
    parser.add_argument("--max_restarts", type=int, default=50)
    parser.add_argument("--python", default=".venv/bin/python")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        help="a further option of sbatch, as in --sbatch=--exclusive",
    )
    options = parser.parse_args(own)
    commands.check_name(options.name)
    commands.check_words(options, "partition", "account", "qos", "log_dir")
    commands.check_positive(options, "nodes", "gpus_per_node", "cpus_per_gpu", "seconds_to_save")
    commands.check_positive(options, "max_restarts", least=0)
    if not _TIME.fullmatch(options.time):
        raise commands.LaunchError(
            f"--time must be minutes, hours:minutes:seconds or days-hours, got {options.time!r}"
        )
    devices = options.nodes * options.gpus_per_node
    commands.check_gin(gin, devices, engine=options.engine, shared_directory=options.nodes > 1)
    if not options.dry_run:
        commands.require("sbatch", "run this on a login node of the cluster")
    path = commands.SCRIPTS / f"{options.name}.sbatch"
    steps = [commands.File(path, script(options, gin)), commands.Command(("sbatch", str(path)))]
    return commands.carry_out(steps, dry_run=options.dry_run)


if __name__ == "__main__":
    sys.exit(commands.main(launch))
