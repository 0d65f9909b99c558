"""Training over buckets, changing rates and skipped records, by the command of a user."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
STEPS = 40


@pytest.mark.slow
def test_a_run_over_three_buckets(tmp_path):
    command = [
        sys.executable,
        "-m",
        "ofa_jax.train",
        "--gin_file=gin_configs/runs/quickstart.gin",
        f"--gin.MODEL_DIR='{tmp_path / 'run'}'",
        # Without image infilling no codebook is fitted at the start.
        "--gin.MIXTURE_OR_TASK_NAME='scenes_without_image_infilling'",
        f"--gin.TRAIN_STEPS={STEPS}",
        "--gin.WARMUP_STEPS=5",
        "--gin.BATCH_SIZE=8",
        "--gin.EVAL_PERIOD=0",
        "--gin.models.OFA.encoder_layers=1",
        "--gin.models.OFA.decoder_layers=1",
        "--gin.models.OFA.width=32",
        "--gin.models.OFA.ffn_dim=64",
        "--gin.train_script.train.stats_period=1",
        "--gin.evaluation.EvaluationConfig.final_num_examples=0",
        "--gin.inputs.DatasetConfig.buckets={'text_infilling': {'image': 0},"
        " 'visual_grounding': {'targets': 8}, 'vqa': {'targets': 8}}",
        "--gin.inputs.DatasetConfig.rate_schedule={0: {'text_infilling': 3.0},"
        f" {STEPS}: {{'text_infilling': 0.0}}}}",
        "--gin.inputs.DatasetConfig.on_bad_record='skip'",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert np.isfinite([line["loss"] for line in steps]).all()
    texts = [number for number, line in enumerate(steps) if "loss/text_infilling" in line]
    short = [number for number, line in enumerate(steps) if "loss/vqa" in line]
    assert texts
    assert short
    # A batch of texts holds nothing else; and texts become rare.
    for number in texts:
        assert not any(key in steps[number] for key in ("loss/vqa", "loss/captioning"))
    assert np.median(texts) < STEPS / 2
