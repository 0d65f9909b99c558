"""`python launch/tpu.py --tpu_type=v5litepod-256 --zone=... --gin_file=...`: Cloud TPU VMs.

Makes the TPU (as a queued resource, or at once with --direct), copies the committed checkout to all
of its hosts, installs it, mounts a bucket, and trains. Given again, the same command uses the TPU
that is there, or asks for a new one after a preemption, and the run goes on from its bucket.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time

import commands
from commands import Command, File
from tpu_types import TpuType, tpu_type

# Of process 0; also JAX's own choice on TPUs.
_PORT = 8476
_POLL = 60
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes"


# A run needs Python 3.11 to 3.13; TPU images bring 3.10. What fails three times here will not mend
# itself on a new machine: the status says that it is a mistake.
_SETUP = f"""\
#!/bin/bash
set -u
fail() {{ echo "setup: $*" >&2; exit {commands.SETTINGS_MISTAKE}; }}
again() {{ for wait in 5 20 0; do "$@" && return; sleep $wait; done; return 1; }}
fits() {{
  "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
}}
with_own_python() {{
  for python in python3.13 python3.12 python3.11 python3; do
    if command -v "$python" >/dev/null && fits "$python" 2>/dev/null; then
      "$python" -m venv .venv && return
    fi
  done
  return 1
}}
with_uv() {{
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || python3 -m pip install --quiet --user uv \\
    || {{ curl -LsSf https://astral.sh/uv/install.sh | sh; }}
  rm -rf .venv
  uv venv --quiet --seed --python 3.12 .venv
}}
with_apt() {{
  sudo apt-get -qq update && sudo apt-get -qq install -y python3.11-venv \\
    && python3.11 -m venv .venv
}}
mkdir -p ~/ofa_jax && tar -xzf ~/ofa_jax.tar.gz -C ~/ofa_jax && cd ~/ofa_jax \\
  || fail "the checkout cannot be unpacked to ~/ofa_jax: is the disk full?"
if ! fits .venv/bin/python 2>/dev/null; then
  rm -rf .venv
  with_own_python || again with_uv || with_apt \\
    || fail "no Python 3.11 to 3.13 here ($(python3 --version 2>&1)); neither uv nor apt has one"
  fits .venv/bin/python || fail "the Python of .venv is not 3.11 to 3.13"
fi
again .venv/bin/python -m pip install --quiet -c constraints.txt -e '.[train,tpu,gs]' \\
  || fail "pip could not install ofa_jax (see above)"
"""


# Upstream t5x is not on PyPI; these are the commits of docs/t5x.md.
_T5X = {
    "google-research/t5x": "cc342d419ec3e3e9c4bf1df33c82330cafdc1e16",
    "google/airio": "69897df7d9a427b947a9f7bb4164c7782b43e601",
    "google-research/jestimator": "326824a477feef6d92e6f44175000907a72899ca",
}


def setup_script(bucket: str, engine: str) -> str:
    """What every host runs once: unpack, install, mount the bucket; harmless when repeated.

    Args:
      bucket: name of a Cloud Storage bucket, mounted at /mnt/<bucket>; "" mounts none.
      engine: that trains; t5x is installed as well.
    """
    lines = _SETUP.splitlines()
    if engine == "t5x":
        pip = "again .venv/bin/python -m pip install --quiet"
        sources = " ".join(f"git+https://github.com/{name}@{at}" for name, at in _T5X.items())
        lines += [
            f"{pip} -c constraints.txt cached_property fiddle jaxtyping && \\",
            f"{pip} --no-deps {sources} \\",
            '  || fail "pip could not install t5x (see above)"',
        ]
    if bucket:
        directory = f"/mnt/{bucket}"
        lines += [
            "install_gcsfuse() {",
            '  list="deb https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main"',
            '  echo "$list" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null',
            "  curl -s https://packages.cloud.google.com/apt/doc/apt-key.gpg "
            "| sudo tee /etc/apt/trusted.gpg.d/google-cloud.asc >/dev/null",
            "  sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse",
            "}",
            "command -v gcsfuse >/dev/null || again install_gcsfuse \\",
            '  || fail "gcsfuse cannot be installed (see above)"',
            f'sudo mkdir -p {directory} && sudo chown "$(id -u)" {directory} \\',
            f'  || fail "{directory} cannot be made"',
            f"mountpoint -q {directory} || gcsfuse --implicit-dirs {bucket} {directory} \\",
            f'  || fail "gs://{bucket} cannot be mounted; may the TPU\'s service account read it?"',
        ]
    return "\n".join(lines) + "\n"


def train_script(gin: list[str], tpu: TpuType, slices: int, max_restarts: int, engine: str) -> str:
    """What every host runs: tell the processes of each other, then train.

    TPU VMs say who they are through Google's metadata only; `ofa_jax.runs.hosts` reads the
    environment.

    Args:
      gin: arguments of training.
      tpu: type of slice.
      slices: how many.
      max_restarts: on the hosts, for a host that was lost for a moment.
      engine: that trains.
    """
    python = ".venv/bin/python"
    words = commands.training_words(gin, python, engine)
    command = commands.restarted_words(words, max_restarts, python)
    lines = ["#!/bin/bash", "set -eu", "cd ~/ofa_jax"]
    hosts = tpu.hosts * slices
    if hosts > 1:
        lines += [
            f'metadata() {{ curl -sf -H "Metadata-Flavor: Google" {_METADATA}/"$1"; }}',
            "worker=$(metadata agent-worker-number)",
        ]
    if slices > 1:
        lines += [
            "of_slice() { metadata tpu-env | sed -n \"s/^$1: *'\\(.*\\)'.*/\\1/p\"; }",
            f"export PROCESS_ID=$(( $(of_slice MEGASCALE_SLICE_ID) * {tpu.hosts} + worker ))",
            "first=$(of_slice MEGASCALE_COORDINATOR_ADDRESS)",
            f'export COORDINATOR_ADDRESS="${{first%%:*}}:{_PORT}"',
        ]
    elif hosts > 1:
        lines += [
            "export PROCESS_ID=$worker",
            # Each entry is an address, or name:id:address.
            "first=$(metadata worker-network-endpoints | cut -d, -f1)",
            f'export COORDINATOR_ADDRESS="${{first##*:}}:{_PORT}"',
        ]
    if hosts > 1:
        lines.append(f"export NUM_PROCESSES={hosts}")
    # Where a connection broke, the run that it started may still be there: it comes first.
    lines += ["export JAX_PLATFORMS=tpu,cpu", f"exec flock ~/ofa_jax.lock {shlex.join(command)}"]
    return "\n".join(lines) + "\n"


class Tpu:
    """The gcloud commands of one TPU.

    Attributes:
      nodes: names of its slices.
    """

    def __init__(self, options: argparse.Namespace, slice_type: TpuType) -> None:
        """Remembers the launcher's arguments."""
        self._options = options
        self._slice_type = slice_type
        name, slices = options.name, options.num_slices
        self.nodes = [name] if slices == 1 else [f"{name}-{index}" for index in range(slices)]

    def _gcloud(self, *words: str) -> Command:
        place = [f"--zone={self._options.zone}"]
        if self._options.project:
            place.append(f"--project={self._options.project}")
        return Command(("gcloud", "compute", "tpus", *words, *place))

    def _resource(self) -> str:
        return "tpu-vm" if self._options.direct else "queued-resources"

    def create(self) -> Command:
        """Asks for the TPU."""
        options, slices = self._options, self._options.num_slices
        words = [self._resource(), "create", options.name]
        if not options.direct:
            multi = ("--node-count", "--node-prefix")
            words += (
                [f"{multi[0]}={slices}", f"{multi[1]}={options.name}"]
                if slices > 1
                else [f"--node-id={options.name}"]
            )
        software = "version" if options.direct else "runtime-version"
        words += [
            f"--accelerator-type={self._slice_type.name}",
            f"--{software}={options.runtime_version or self._slice_type.generation.runtime}",
        ]
        words += [f"--{name}" for name in ("spot", "reserved") if getattr(options, name)]
        for name in ("network", "service_account"):
            if value := getattr(options, name):
                words.append(f"--{name.replace('_', '-')}={value}")
        return self._gcloud(*words)

    def describe(self) -> Command:
        """Prints the TPU's state as JSON; fails where there is none."""
        return self._gcloud(self._resource(), "describe", self._options.name, "--format=json")

    def delete(self) -> Command:
        """Gives the TPU back."""
        force = () if self._options.direct else ("--force",)
        return self._gcloud(self._resource(), "delete", self._options.name, *force, "--quiet")

    def copy(self, *files: str) -> list[Command]:
        """Copies files to the home directory of every host."""
        return [
            self._gcloud("tpu-vm", "scp", *files, f"{node}:", "--worker=all") for node in self.nodes
        ]

    def run(self, script: str) -> list[Command]:
        """Runs a script of the home directory on every host, one command per slice."""
        return [
            self._gcloud("tpu-vm", "ssh", node, "--worker=all", f"--command=bash ~/{script}")
            for node in self.nodes
        ]

    def state(self) -> str:
        """Its state in gcloud's words, "" where it does not exist."""
        found = subprocess.run(self.describe().words, capture_output=True, text=True, check=False)
        if found.returncode:
            return ""
        state = json.loads(found.stdout).get("state", "")
        return state.get("state", "") if isinstance(state, dict) else state

    def ready(self) -> None:
        """Returns when the TPU is there; one that is gone or failed is deleted and asked for again.

        Raises:
          LaunchError: gcloud refuses to make it.
        """
        while (state := self.state()) not in ("ACTIVE", "READY"):
            if state in ("SUSPENDED", "SUSPENDING", "FAILED", "PREEMPTED", "TERMINATED"):
                commands.carry_out([self.delete()], dry_run=False)
            elif not state and commands.carry_out([self.create()], dry_run=False):
                raise commands.LaunchError(f"gcloud could not make the TPU {self._options.name}")
            else:
                print(f"{self._options.name}: {state or 'asked for'}", flush=True)
            time.sleep(_POLL)


def _run_on_slices(parts: list[Command]) -> int:
    """Runs one command per slice at the same time; returns the first status that is not 0."""
    for part in parts:
        print(f"+ {part.show()}", flush=True)
    running = [subprocess.Popen(part.words) for part in parts]
    return next((status for one in running if (status := one.wait())), 0)


def launch(own: list[str], gin: list[str]) -> int:
    """Makes the TPU and trains on it, or prints the commands."""
    parser = commands.parser("tpu", "Trains on Cloud TPU VMs, one slice or several.")
    parser.add_argument("--tpu_type", required=True, help="for example v5litepod-256, v5p-128")
    parser.add_argument("--num_slices", type=int, default=1)
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", default="", help="default: that of gcloud")
    parser.add_argument("--direct", action="store_true", help="no queue: a TPU at once or not")
    parser.add_argument("--spot", action="store_true", help="cheaper, may be taken away")
    parser.add_argument("--runtime_version", default="", help="default: that of the TPU type")
    parser.add_argument("--reserved", action="store_true", help="of a reservation of the project")
    parser.add_argument("--network", default="", help="default: that of the project")
    parser.add_argument("--service_account", default="", help="default: that of Compute Engine")
    parser.add_argument("--bucket", default="", help="mounted at /mnt/BUCKET on every host")
    parser.add_argument("--max_restarts", type=int, default=20)
    parser.add_argument("--keep", action="store_true", help="do not delete the TPU at the end")
    options = parser.parse_args(own)
    slice_type = tpu_type(options.tpu_type)
    commands.check_name(options.name)
    commands.check_bucket(options.bucket)
    commands.check_positive(options, "num_slices")
    commands.check_positive(options, "max_restarts", least=0)
    commands.check_words(options, "network", "service_account")
    if options.spot and options.reserved:
        raise commands.LaunchError("a TPU is either --spot or --reserved: leave out one of them")
    if options.direct and options.num_slices > 1:
        raise commands.LaunchError("several slices need a queued resource: leave out --direct")
    commands.check_gin(
        gin, slice_type.chips * options.num_slices, engine=options.engine, shared_directory=True
    )
    tpu = Tpu(options, slice_type)
    files = {
        "setup.sh": setup_script(options.bucket, options.engine),
        "train.sh": train_script(
            gin, slice_type, options.num_slices, options.max_restarts, options.engine
        ),
    }
    directory = commands.SCRIPTS / options.name
    archive = str(directory / "ofa_jax.tar.gz")
    prepare: list[commands.Step] = [File(directory / name, text) for name, text in files.items()]
    prepare.append(Command(("git", "archive", "--format=tar.gz", f"--output={archive}", "HEAD")))
    install = [*tpu.copy(archive, *(str(directory / name) for name in files)), *tpu.run("setup.sh")]
    if options.dry_run:
        steps = [*prepare, tpu.create(), tpu.describe(), *install, *tpu.run("train.sh")]
        return commands.carry_out([*steps, *([] if options.keep else [tpu.delete()])], dry_run=True)
    commands.require("gcloud", "install the Google Cloud CLI")
    status = commands.carry_out(prepare, dry_run=False)
    for _ in range(options.max_restarts + 1):
        if status:
            return status
        tpu.ready()
        ended = commands.carry_out(install, dry_run=False)
        if ended == commands.DONE:
            ended = _run_on_slices(tpu.run("train.sh"))
        # A setup that failed as one of the settings fails the same way on the next machine.
        if ended in (commands.DONE, commands.SETTINGS_MISTAKE):
            if not options.keep:
                commands.carry_out([tpu.delete()], dry_run=False)
            return ended
        time.sleep(_POLL)
    print(f"not finished after {options.max_restarts} restarts; the same command goes on")
    return commands.AGAIN


if __name__ == "__main__":
    sys.exit(commands.main(launch))
