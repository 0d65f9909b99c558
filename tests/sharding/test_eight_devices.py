"""One step on 8 simulated devices equals the step on one, for every table of rules."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def report():
    """Runs the comparison in a process of its own, since device counts are fixed at start."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Unoptimised code compiles in half the time, which is all that this test spends.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        [sys.executable, "-m", "tests.sharding.eight_devices"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


CASES = (
    "standin data_parallel",
    "standin fsdp",
    "standin tensor_parallel",
    "standin fsdp_tensor",
    "nano fsdp_tensor",
)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_update_equal_one_device(report, case):
    assert set(report) == set(CASES)
    result = report[case]
    assert result["loss"] == pytest.approx(result["reference_loss"], rel=1e-5)
    assert result["second_loss"] == pytest.approx(result["reference_second_loss"], rel=1e-4)
    assert result["gradient_norm"] == pytest.approx(result["reference_gradient_norm"], rel=1e-4)


def test_memory_per_device(report):
    assert report["standin data_parallel"]["share"] == pytest.approx(1.0)
    assert report["standin fsdp"]["share"] < 0.3
    assert report["standin tensor_parallel"]["share"] < 0.6
    assert report["standin fsdp_tensor"]["share"] < 0.2
    assert report["nano fsdp_tensor"]["share"] < 0.3


def test_report_text(report):
    text = report["nano fsdp_tensor"]["report"]
    assert text.startswith("mesh: replica=1, data=4, model=2 (8 devices)")
    row = next(line for line in text.splitlines() if "token_embedding" in line)
    assert "(vocab:model, embed:data)" in row
    assert "MiB per device" in text.splitlines()[-1]
