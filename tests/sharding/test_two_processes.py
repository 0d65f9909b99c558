"""Two processes of four devices train, save and restore as one process of eight does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def launch(directory, processes):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // processes}",
    }
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.sharding.two_processes",
                str(directory),
                address,
                str(processes),
                str(process),
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        results = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, results, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in results]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    first, second = launch(tmp_path / "two", 2)
    (alone,) = launch(tmp_path / "one", 1)
    assert first == second
    np.testing.assert_allclose(first, alone, rtol=1e-5)
    dataset = tmp_path / "two" / "checkpoint_1" / "dataset"
    assert (dataset / "process_1-of-2" / "train_ds-001-of-002.json").exists()
    assert (tmp_path / "two" / "damaged_2").is_dir()
