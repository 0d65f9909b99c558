"""Two processes under t5x are one run, started by `launch/local.py --engine=t5x`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.compiling import QUICK_TO_COMPILE
from tests.t5x import checkout, engines

pytestmark = [checkout.requires_t5x, pytest.mark.slow]

STEPS = 4
SETTINGS = [
    "--gin_file=gin_configs/t5x/train.gin",
    "--gin_file=gin_configs/sharding/fsdp_tensor.gin",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 30, 'targets': 20, 'image': 32}",
    "--gin.MIXTURE_OR_TASK_NAME='scenes_vqa'",
    "--gin.WARMUP_STEPS=2",
    "--gin.BATCH_SIZE=8",
    "--gin.CHECKPOINT_PERIOD=2",
    "--gin.EVAL_PERIOD=2",
    "--gin.STATS_PERIOD=1",
    "--gin.evaluation.EvaluationConfig.num_examples=4",
    "--gin.evaluation.EvaluationConfig.batch_size=4",
    "--gin_file=tests/micro.gin",
    "--gin.models.OFA.width=32",
    "--gin.models.OFA.ffn_dim=64",
]


def train(directory, processes, *more):
    """Trains with `launch/local.py`; returns the finished process."""
    command = [
        sys.executable,
        "launch/local.py",
        "--engine=t5x",
        f"--python={sys.executable}",
        f"--processes={processes}",
        f"--devices_per_process={8 // processes}",
        "--max_restarts=0",
        *SETTINGS,
        f"--gin.TRAIN_STEPS={STEPS}",
        f"--gin.MODEL_DIR='{directory}'",
        *more,
    ]
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(directory.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
        "XLA_FLAGS": QUICK_TO_COMPILE,
        "PYTHONPATH": os.pathsep.join([str(engines.ROOT), *checkout.directories()]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return subprocess.run(
        command, cwd=engines.ROOT, env=environment, capture_output=True, text=True, check=False
    )


def evaluations(directory):
    lines = (directory / "inference_eval" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_train_as_one(tmp_path):
    for processes in (1, 2):
        done = train(tmp_path / str(processes), processes)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    one, two = (engines.upstream_values(tmp_path / name) for name in ("1", "2"))
    assert sorted(one) == sorted(two) == list(range(1, STEPS + 1))
    difference = np.abs([one[step] - two[step] for step in one]).max()
    print(f"{STEPS} steps, largest difference of the loss {difference:.2e}")
    assert difference < 1e-4
    assert evaluations(tmp_path / "1") == evaluations(tmp_path / "2")
    # The checkpoints are whole: one process goes on from what two have written.
    checkpoints = [tmp_path / name / f"checkpoint_{STEPS}" for name in ("1", "2")]
    assert all((path / "state").is_dir() for path in checkpoints)
    done = train(tmp_path / "2", 1, f"--gin.TRAIN_STEPS={STEPS + 1}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert STEPS + 1 in engines.upstream_values(tmp_path / "2")
