"""Every size is prepared under t5x, on 8 simulated devices with model parallelism.

As `t5x/train.py` prepares it: gin files, input, state, placement and trainer; nothing is allocated.
"""

import json
import os
import subprocess
import sys

import pytest

from ofa_jax.model.config import SIZES
from tests.integration.photographs import write_official_files
from tests.shared import gpt2_dir, requires_gpt2
from tests.t5x import checkout, engines

pytestmark = [checkout.requires_t5x, pytest.mark.slow]

MESH = [
    "--gin.partitioning.Partitioner.mesh='data=4,model=2'",
    "--gin.partitioning.Partitioner.rules='fsdp_tensor'",
    "--gin.TRAIN_STEPS=10",
    "--gin.BATCH_SIZE=8",
    # Nothing is written there.
    "--gin.MODEL_DIR='nowhere'",
]


def prepare(*runs):
    """Runs `abstract_run` in a process of 8 devices."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(engines.ROOT), *checkout.directories()]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    arguments = [json.dumps([*run, *MESH]) for run in runs]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.t5x.abstract_run", *arguments],
        cwd=engines.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-6000:]
    return json.loads(finished.stdout.splitlines()[-1])


def scenes_run(size):
    """The scenes large enough for the patches of a size."""
    world, pixels = ("scenes", 32) if size == "nano" else ("scenes_base", 128)
    return [
        "--gin_file=gin_configs/t5x/train.gin",
        f"--gin_file=gin_configs/models/{size}.gin",
        f"--gin.MIXTURE_OR_TASK_NAME='{world}_without_image_infilling'",
        f"--gin.TASK_FEATURE_LENGTHS={{'inputs': 64, 'targets': 64, 'image': {pixels}}}",
        "--gin.models.OFA.layer_stack='scan'",
    ]


def test_every_size_is_prepared():
    results = dict(zip(SIZES, prepare(*map(scenes_run, SIZES)), strict=True))
    parameters = [result["parameters"] for result in results.values()]
    assert parameters == sorted(parameters)
    assert parameters[-1] > 0.8e9, "huge, with the small vocabulary of the scenes"
    for size, result in results.items():
        assert result["tasks"] == 7
        assert result["trainer"] == "StepTrainer"
        assert result["batch"]["encoder_input_tokens"] == [8, 64]
        # The image stem is split over the data axis alone, in four parts.
        assert 1 / 8 <= result["share"] < 0.2, size


@requires_gpt2
def test_pretraining_on_official_files_is_prepared(tmp_path):
    write_official_files(tmp_path)
    [result] = prepare(
        [
            "--gin_file=gin_configs/t5x/pretrain.gin",
            "--gin_file=gin_configs/models/base.gin",
            "--gin.MIXTURE_OR_TASK_NAME='ofa_pretrain_tsv'",
            f"--gin.DATA_DIR='{tmp_path}'",
            f"--gin.VOCAB_DIR='{gpt2_dir()}'",
            "--gin.inputs.DatasetConfig.num_workers=0",
        ]
    )
    assert result["tasks"] == 9
    assert result["batch"]["encoder_images"] == [8, 384, 384, 3]
    # 180 M in the table of sizes, and the rows that fill up the vocabulary.
    assert 180e6 < result["parameters"] < 184e6
