"""One step on 8 simulated devices equals the step on one, for every rule file."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

from ofa_jax.model.config import SIZES
from tests.compiling import QUICK_TO_COMPILE
from tests.sharding.eight_devices import NANO_BATCH_SIZE
from tests.sharding.rule_files import RULE_FILES

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG = ("report", "collective_shapes")
CASES = [*(f"standin {name}" for name in RULE_FILES), "shallow fsdp_tensor"]


def compare(*cases):
    """Runs the comparison in a process of its own, since device counts are fixed at start."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Unoptimized code compiles in half the time, which is all that this test spends.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {QUICK_TO_COMPILE}",
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        [sys.executable, "-m", "tests.sharding.eight_devices", *cases],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def report():
    return compare(*CASES)


def check_equal(result):
    assert result["loss"] == pytest.approx(result["reference_loss"], rel=1e-5)
    assert result["second_loss"] == pytest.approx(result["reference_second_loss"], rel=1e-5)
    assert result["gradient_norm"] == pytest.approx(result["reference_gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_update_equal_one_device(report, case):
    check_equal(report[case])


def test_memory_per_device(report):
    share = {case: result["share"] for case, result in report.items()}
    assert share["standin data_parallel"] == pytest.approx(1.0)
    assert share["standin fsdp"] <= 0.15
    assert share["standin tensor_parallel"] < 0.6
    assert share["standin fsdp_tensor"] < 0.2
    for name in ("replicated_fsdp", "multi_slice"):
        assert share[f"standin {name}"] == pytest.approx(0.25, abs=0.03)
    assert share["shallow fsdp_tensor"] <= 0.2


def check_batch_stays_split(result):
    # Rows of the whole batch may meet where each is a part of the width, as of split embeddings.
    largest_part = SIZES["nano"].width // result["batch_parts"]
    whole = [
        shape
        for shape in result["collective_shapes"]
        if shape[0] == NANO_BATCH_SIZE and len(shape) > 2 and math.prod(shape[2:]) > largest_part
    ]
    assert whole == [], "activations of the whole batch are gathered or summed on every device"


def test_activations_are_never_gathered(report):
    assert report["shallow fsdp_tensor"]["collective_shapes"]
    check_batch_stays_split(report["shallow fsdp_tensor"])


def test_report_text(report):
    text = report["shallow fsdp_tensor"]["report"]
    assert text.startswith("mesh: replica=1, data=4, model=2 (8 devices)")
    row = next(line for line in text.splitlines() if "token_embedding" in line)
    assert "(vocab:model, embed:data)" in row
    assert "MiB per device" in text.splitlines()[-1]


@pytest.mark.slow
def test_the_model_on_every_rule_file():
    results = compare(*(f"nano {name}" for name in RULE_FILES))
    assert len(results) == 7
    for case, result in results.items():
        print(case, *(f"{key} {value}" for key, value in result.items() if key not in LONG))
        check_equal(result)
        check_batch_stays_split(result)
    assert results["nano fsdp"]["share"] <= 0.15
