"""Official-format files of real photographs train all eight tasks, by gin alone."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.integration.photographs import write_official_files
from tests.shared import gpt2_dir, requires_gpt2

ROOT = pathlib.Path(__file__).resolve().parents[2]


def train(run_dir, data_dir, *overrides):
    command = [
        sys.executable,
        "-m",
        "ofa_jax.train",
        "--gin_file=gin_configs/models/tiny.gin",
        "--gin_file=gin_configs/runs/pretrain.gin",
        '--gin.MIXTURE_OR_TASK_NAME="ofa_pretrain_tsv"',
        f'--gin.MODEL_DIR="{run_dir}"',
        f'--gin.DATA_DIR="{data_dir}"',
        f'--gin.VOCAB_DIR="{gpt2_dir()}"',
        "--gin.BATCH_SIZE=4",
        "--gin.LEARNING_RATE=3e-4",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 257, 'image': 256}",
        "--gin.models.OFA.sample_patch_num=64",
        "--gin.train_script.train.stats_period=3",
        "--gin.inputs.DatasetConfig.num_workers=0",
        *overrides,
    ]
    # Steps of a real vocabulary run longer than they compile: with the compiler's full effort.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def data_dir(tmp_path, depth):
    # A fourth of the codes: the logits of a real vocabulary are most of a micro model's time.
    write_official_files(tmp_path / "official", patch=16 if depth == "micro" else 8)
    return tmp_path / "official"


# The whole of tiny computes for minutes; what reads the files is the same for any model.
DEPTHS = {
    "micro": [
        "--gin_file=tests/micro.gin",
        "--gin.models.ResNet.stage_strides=(4,)",
        "--gin.models.OFA.width=64",
        "--gin.models.OFA.ffn_dim=128",
        "--gin.models.OFA.code_stride=16",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 65, 'image': 256}",
    ],
    "whole": [],
}


@requires_gpt2
@pytest.mark.slow
@pytest.mark.parametrize("depth", ["micro", "whole"])
def test_tiny_trains_eight_tasks_from_official_files(tmp_path, data_dir, depth):
    finished = train(
        tmp_path / "run",
        data_dir,
        *DEPTHS[depth],
        "--gin.TRAIN_STEPS=12",
        "--gin.evaluation.EvaluationConfig.final_num_examples=0",
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    seen = {key for line in lines for key in line if key.startswith("loss/")}
    assert len(seen) == 9, seen  # the eight tasks; matching has two kinds of rows
    # ln(59,457) is 10.99; two groups of tasks are added, the second has weight 2.
    first, last = lines[0]["nll"], lines[-1]["nll"]
    assert np.isfinite(last)
    assert last < first
    assert (tmp_path / "run" / "checkpoint_12").is_dir()


@requires_gpt2
def test_missing_file_is_one_line(tmp_path):
    finished = train(tmp_path / "run", tmp_path / "nowhere", "--gin.TRAIN_STEPS=20")
    assert finished.returncode == 2
    message = finished.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert "vision_language_examples.tsv does not exist" in message
