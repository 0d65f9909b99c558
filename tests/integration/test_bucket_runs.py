"""A run whose MODEL_DIR is a bucket: the same numbers, and nothing lost when it is killed.

The bucket is that of a server of the Cloud Storage protocol in this process.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from ofa_jax.checkpoint import bucket
from ofa_jax.checkpoint.errors import CheckpointError
from ofa_jax.checkpoint.imports import import_checkpoint
from tests.compiling import QUICK_TO_COMPILE
from tests.distributed.two_processes import SETTINGS
from tests.storage_server import StorageServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 8
# Two batches of the loss evaluation come before. Checkpoint 3 is complete then, since the sixth
# step ends with waiting for it.
SEVENTH_STEP = 9

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def storage():
    """Environment in which gs:// means the server here."""
    pytest.importorskip("gcsfs", reason="pip install gcsfs")
    with StorageServer("bucket") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server.storage


class Runs:
    def __init__(self, directory):
        self.directory = directory
        self.count = 0

    def start(self, model_dir, *arguments, hosts=1, kill=None):
        """Starts the processes of a session; returns (process, log) pairs."""
        self.count += 1
        address = f"localhost:{free_port()}"
        started = []
        for host in range(hosts):
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // hosts} "
                + QUICK_TO_COMPILE,
                "PYTHONPATH": str(ROOT),
            }
            if hosts > 1:
                environment |= {
                    "COORDINATOR_ADDRESS": address,
                    "NUM_PROCESSES": str(hosts),
                    "PROCESS_ID": str(host),
                }
            if kill is not None:
                environment["OFA_TEST_KILL_STEP"] = str(kill)
            log = self.directory / f"session_{self.count}.{host}.log"
            command = [
                sys.executable,
                "-m",
                "tests.distributed.host",
                *SETTINGS,
                "--gin.log.LogConfig.tensorboard=True",
                f"--gin.TRAIN_STEPS={STEPS}",
                f"--gin.MODEL_DIR='{model_dir}'",
                *arguments,
            ]
            with log.open("w") as file:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=file, stderr=file
                )
            started.append((process, log))
        return started

    def session(self, *arguments, status=0, **options):
        """Waits for a session to end with a status; returns what its first host said."""
        started = self.start(*arguments, **options)
        try:
            for process, log in started:
                assert process.wait(900) == status, log.read_text()[-3000:]
        finally:
            for process, _ in started:
                process.kill()
        return started[0][1].read_text()


@pytest.fixture(scope="module")
def runs(storage, tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def alone(runs):
    """The same run in a directory of this machine."""
    runs.session(runs.directory / "alone")
    return runs.directory / "alone"


@pytest.fixture(scope="module")
def killed_and_restarted(runs):
    """The run in the bucket, killed and started again."""
    address = "gs://bucket/runs/one"
    runs.session(address, kill=SEVENTH_STEP, status=-signal.SIGKILL)
    text = runs.session(address)
    assert re.search(f"going on from the checkpoint at step [36] in {address}", text), text
    assert "report: gs://bucket/runs/one/report" in text
    return address


def read(address):
    return bucket.file_system().cat_file(address).decode()


def numbers(text, key):
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def steps(address):
    found = (path.rpartition("/")[2] for path in bucket.file_system().ls(address, detail=False))
    return sorted(int(m[1]) for top in found if (m := re.fullmatch(r"checkpoint_(\d+)", top)))


def check_equal_run(address, alone):
    for key in ("loss", "eval_loss"):
        expected = numbers((alone / "metrics.jsonl").read_text(), key)
        found = numbers(read(f"{address}/metrics.jsonl"), key)
        assert found.keys() == expected.keys()
        assert len(found) == (STEPS if key == "loss" else 2)
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)


def test_nothing_is_lost_by_a_kill(killed_and_restarted, alone):
    check_equal_run(killed_and_restarted, alone)
    assert steps(killed_and_restarted) == [6, 8]


def test_every_file_of_a_run_is_there(killed_and_restarted, alone):
    def names(paths):
        # Event files are named by time and process, and there is one per start.
        tops = {path.split("/")[0] for path in paths}
        return {top for top in tops if not top.startswith((".", "checkpoint_"))}

    root = killed_and_restarted.removeprefix("gs://")
    files = bucket.file_system().find(root)
    there = names(path.removeprefix(f"{root}/") for path in files)
    here = names(path.relative_to(alone).as_posix() for path in alone.rglob("*") if path.is_file())
    assert there == here
    assert {"config.gin", "metrics.json", "report.html", "tensorboard", "vocabulary"} <= there
    events = [path for path in files if "/tensorboard/" in path]
    assert len(events) == 2
    assert json.loads(read(f"{killed_and_restarted}/metrics.json"))["run"]["name"] == "one"
    sessions = json.loads(read(f"{killed_and_restarted}/goodput.json"))["sessions"]
    assert len(sessions) == 2


def test_a_run_is_read_from_the_bucket(killed_and_restarted, alone):
    there, here = (import_checkpoint(str(path)) for path in (killed_and_restarted, alone))
    assert there.config == here.config
    assert there.vocabulary_files
    for one, other in zip(*(jax.tree.leaves(x.variables) for x in (there, here)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    step = import_checkpoint(f"{killed_and_restarted}/checkpoint_6/")
    assert step.config == here.config
    with pytest.raises(FileNotFoundError, match="gs://bucket/runs/none: no such"):
        import_checkpoint("gs://bucket/runs/none")


def test_a_run_starts_from_another_in_the_bucket(killed_and_restarted, runs):
    text = runs.session(
        runs.directory / "second", f"--gin.INITIAL_CHECKPOINT_PATH='{killed_and_restarted}'"
    )
    assert f"starting from the weights of {killed_and_restarted}" in text


def test_an_unfinished_checkpoint_does_not_count(runs, killed_and_restarted):
    address = "gs://bucket/runs/unfinished"
    files = bucket.file_system()
    files.copy(killed_and_restarted, address, recursive=True)
    files.rm_file(f"{address}/checkpoint_8/commit_success.txt")
    files.pipe_file(f"{address}/notes/of_the_user.txt", b"kept")
    with pytest.raises(CheckpointError, match=r"checkpoint_8: .*finished"):
        import_checkpoint(f"{address}/checkpoint_8")
    text = runs.session(address)
    assert f"removing {address}/checkpoint_8, which was never finished" in text
    assert f"going on from the checkpoint at step 6 in {address}" in text
    assert read(f"{address}/notes/of_the_user.txt") == "kept"
    assert steps(address)[-1] == 8
    assert files.exists(f"{address}/checkpoint_8/commit_success.txt")


def test_a_damaged_checkpoint_is_set_aside(runs, killed_and_restarted):
    address = "gs://bucket/runs/damaged"
    files = bucket.file_system()
    files.copy(killed_and_restarted, address, recursive=True)
    data = max(
        files.find(f"{address}/checkpoint_8/state", detail=True).values(), key=lambda f: f["size"]
    )
    files.pipe_file(data["name"], b"no such data")
    text = runs.session(address)
    assert "checkpoint 8 is damaged and set aside" in text
    assert f"going on from the checkpoint at step 6 in {address}" in text
    tops = [path.rpartition("/")[2] for path in files.ls(address, detail=False)]
    assert "damaged_8" in tops
    assert "checkpoint_8" in tops


def test_another_model_is_refused(runs, killed_and_restarted):
    text = runs.session(killed_and_restarted, "--gin.models.OFA.ffn_dim=48", status=2)
    assert "ffn_dim is 64 there and 48 here" in text.splitlines()[-1]


def test_two_hosts_write_to_one_bucket(runs, alone):
    address = "gs://bucket/runs/two"
    runs.session(address, hosts=2, kill=SEVENTH_STEP, status=-signal.SIGKILL)
    text = runs.session(address, hosts=2)
    assert re.search(f"going on from the checkpoint at step [36] in {address}", text), text
    check_equal_run(address, alone)


def test_no_bucket_is_one_line(runs):
    text = runs.session("gs://no_such_bucket/run", status=2)
    last = text.strip().splitlines()[-1]
    assert last.startswith("error: MODEL_DIR: cannot write checkpoints to gs://no_such_bucket/run")
    with contextlib.suppress(FileNotFoundError):
        assert not bucket.file_system().ls("no_such_bucket")
