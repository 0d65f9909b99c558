"""The settings of a run of seconds, and what it leaves."""

import re

TINY = [
    "--gin_file=gin_configs/models/nano.gin",
    "--gin_file=gin_configs/runs/train.gin",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 30, 'targets': 20, 'image': 32}",
    # A task without image codes: no codebook is fitted at the start.
    "--gin.MIXTURE_OR_TASK_NAME='scenes_vqa'",
    "--gin.WARMUP_STEPS=2",
    "--gin.LEARNING_RATE=1e-3",
    "--gin.BATCH_SIZE=8",
    "--gin.EVAL_PERIOD=0",
    "--gin.DROPOUT_RATE=0.1",
    "--gin_file=tests/micro.gin",
    "--gin.models.OFA.width=32",
    "--gin.models.OFA.ffn_dim=64",
    "--gin.models.OFA.sample_patch_num=8",
    "--gin.trainer.EMAConfig.decay=0.95",
    "--gin.train_script.train.stats_period=1",
    "--gin.evaluation.EvaluationConfig.final_num_examples=0",
    "--gin.log.LogConfig.tensorboard=False",
]


def checkpoints(run_dir):
    found = (re.fullmatch(r"checkpoint_(\d+)", path.name) for path in run_dir.iterdir())
    return sorted(int(match[1]) for match in found if match)
