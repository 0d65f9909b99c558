"""Two hosts of four devices train as one host of eight; a host that dies ends the run clearly."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.compiling import QUICK_TO_COMPILE
from tests.distributed.two_processes import SETTINGS

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 8
# Statuses after which launchers start a run again.
RESTARTABLE = (1, 75)


class Hosts:
    """The processes of one session."""

    def __init__(self, directory, name, count, *, steps=STEPS, signals=None, others=None):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        self.outputs = [directory / f"{name}.{time.time_ns()}.{host}.log" for host in range(count)]
        self.processes = []
        for host, output in enumerate(self.outputs):
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count} "
                + QUICK_TO_COMPILE,
                "PYTHONPATH": str(ROOT),
            }
            if count > 1:
                environment |= {
                    "COORDINATOR_ADDRESS": address,
                    "NUM_PROCESSES": str(count),
                    "PROCESS_ID": str(host),
                }
            environment |= (signals or {}).get(host, {})
            command = [
                sys.executable,
                "-m",
                "tests.distributed.host",
                *SETTINGS,
                f"--gin.TRAIN_STEPS={steps}",
                f"--gin.MODEL_DIR='{directory / name}'",
                *(others or {}).get(host, ()),
            ]
            with output.open("w") as file:
                self.processes.append(
                    subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
                )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, timeout=1500):
        return [process.wait(timeout) for process in self.processes]

    def texts(self):
        return [output.read_text() for output in self.outputs]


def finish(*arguments, **options):
    with Hosts(*arguments, **options) as hosts:
        statuses = hosts.wait()
        assert statuses == [0] * len(statuses), "\n".join(text[-3000:] for text in hosts.texts())
        return hosts.texts()


def numbers(run_dir, key):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A finished run of one process, `one`."""
    path = tmp_path_factory.mktemp("hosts")
    finish(path, "one", 1)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "host"),
    [("save", 0), ("save", 1), ("evaluation", 0), ("evaluation", 1), ("compile", 1)],
    ids=lambda value: str(value),
)
def test_a_host_that_dies_in_the_middle_of_something(directory, place, host):
    name = f"{place}_{host}"
    with Hosts(directory, name, 2, signals={host: {"OFA_TEST_KILL_IN": place}}) as hosts:
        assert hosts.processes[host].wait(1500) == -signal.SIGKILL
        died = time.monotonic()
        status = hosts.processes[1 - host].wait(90)
        seconds = time.monotonic() - died
        text = hosts.texts()[1 - host]
    print(f"killed host {host} in {place}: the other ended after {seconds:.0f} s with {status}")
    assert status in RESTARTABLE, text[-3000:]
    assert "lost another host" in text, text[-3000:]
    assert "start all of them again with the same command" in text
    finish(directory, name, 2)
    for key in ("loss", "eval_loss"):
        alone, together = (numbers(directory / run, key) for run in ("one", name))
        assert alone.keys() == together.keys()
        np.testing.assert_allclose(list(together.values()), list(alone.values()), rtol=1e-5)


@pytest.mark.slow
def test_hosts_of_other_seeds_are_refused_by_name(tmp_path):
    with Hosts(tmp_path, "run", 2, others={1: ["--gin.RANDOM_SEED=1"]}) as hosts:
        assert hosts.wait() == [2, 2], "\n".join(text[-3000:] for text in hosts.texts())
        for text in hosts.texts():
            assert (
                "error: process 1 was started with RANDOM_SEED = 1, process 0 with RANDOM_SEED = 0"
                in text
            )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_hosts_equal_one_and_survive_the_loss_of_one(directory):
    tmp_path = directory
    # Host 1 dies before its 6th step; a checkpoint is complete by then.
    with Hosts(tmp_path, "two", 2, signals={1: {"OFA_TEST_KILL_STEP": "6"}}) as hosts:
        assert hosts.processes[1].wait(1500) == -signal.SIGKILL
        died = time.monotonic()
        assert hosts.processes[0].wait(60) != 0
        assert time.monotonic() - died < 60
        message = hosts.texts()[0]
    assert "lost another host" in message, message[-3000:]
    assert "start all of them again with the same command" in message
    first, second = finish(tmp_path, "two", 2)
    assert "going on from the checkpoint at step 3" in first
    assert "train: " not in second, "one host speaks for all"
    for key in ("loss", "eval_loss"):
        alone, together = (numbers(tmp_path / name, key) for name in ("one", "two"))
        assert alone.keys() == together.keys()
        assert len(alone) == (STEPS if key == "loss" else 2)
        np.testing.assert_allclose(list(together.values()), list(alone.values()), rtol=1e-5)
    results = [
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")
    ]
    assert results[0]["tasks"].keys() == results[1]["tasks"].keys()


@pytest.mark.slow
def test_a_signal_to_one_host_stops_all_of_them(tmp_path):
    with Hosts(tmp_path, "run", 2, steps=500, signals={1: {"OFA_TEST_STOP_STEP": "3"}}) as hosts:
        assert hosts.wait() == [75, 75], "\n".join(text[-3000:] for text in hosts.texts())
        text = hosts.texts()[0]
    stopped = max(numbers(tmp_path / "run", "loss"))
    assert 3 <= stopped < 500
    assert f"stopped at step {stopped} of 500; give the same command again" in text
    assert (tmp_path / "run" / f"checkpoint_{stopped}").is_dir()
