"""The planning command from end to end, in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = [
    "--gin_file=gin_configs/models/nano.gin",
    "--gin_file=gin_configs/runs/train.gin",
    "--gin.MIXTURE_OR_TASK_NAME='scenes_vqa'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 30, 'targets': 20, 'image': 32}",
    "--gin.BATCH_SIZE=16",
    "--gin.models.OFA.layer_stack='scan'",
]


def plan(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ofa_jax.plan", *SETTINGS, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )


@pytest.mark.slow
def test_a_plan_for_eight_devices(tmp_path):
    path = tmp_path / "plan.json"
    finished = plan(
        "--mesh=data=4,model=2",
        "--gin_file=gin_configs/sharding/fsdp_tensor.gin",
        "--gin.models.OFA.remat='full'",
        f"--json={path}",
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "on 8 devices (replica=1, data=4, model=2); compiled for cpu" in finished.stdout
    assert "fits into the 16 GiB of v5e" in finished.stdout
    found = json.loads(path.read_text())
    memory = found["memory"]
    assert 0 < memory["state"] <= memory["arguments"] < memory["total"]
    axes = {tuple(entry["axes"]) for entry in found["collectives"]}
    assert {("data",), ("model",)} <= axes
    assert found["executed_operations"] > 1.1 * found["model_operations"], "recomputation"


@pytest.mark.slow
def test_what_does_not_divide_is_one_line():
    finished = plan("--mesh=data=3", "--gin_file=gin_configs/sharding/fsdp.gin")
    assert finished.returncode == 2
    last = finished.stderr.strip().splitlines()[-1]
    assert "error: a batch of 16 does not divide over 3 data-parallel devices" in last
    assert "15 or 18" in last
