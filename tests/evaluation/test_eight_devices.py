"""Weights are evaluated as they are sharded: the same answers, and never a whole copy of them."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.compiling import QUICK_TO_COMPILE

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def report():
    finished = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.eight_devices"],
        cwd=ROOT,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            # Half the time: the code of a program is not optimized, its arrays are the same.
            "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {QUICK_TO_COMPILE}",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize("recipe", ["beam", "candidates"])
def test_answers_equal_those_of_one_device(report, recipe):
    answers = report["answers"][recipe]
    assert len(answers["one"]["tokens"]) == 13, "what fills the batch up is no answer"
    assert answers["one"]["tokens"] == answers["eight"]["tokens"]
    np.testing.assert_allclose(answers["one"]["scores"], answers["eight"]["scores"], atol=1e-5)


@pytest.mark.parametrize("program", ["encode", "decode"])
def test_no_device_ever_holds_all_weights(report, program):
    """Matrices are gathered one at a time, inside the loop over the layers."""
    assert report["device_bytes"] < 0.15 * report["parameter_bytes"]
    found = report["programs"][program]
    assert found["gathered"] <= report["largest"] / 8, "a whole stack of eight layers is gathered"
    assert found["arguments"] < 0.15 * report["parameter_bytes"]
    assert found["temporary"] < 0.75 * report["parameter_bytes"]
