"""Runs the two engines as processes of their own, and reads what they logged."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from tests.compiling import QUICK_TO_COMPILE
from tests.t5x import checkout

ROOT = pathlib.Path(__file__).resolve().parents[2]
MESH = "data=4,model=2"
# A small model, so that compiling it does not take the whole time.
SETTINGS = {
    "MIXTURE_OR_TASK_NAME": "scenes_without_image_infilling",
    "TASK_FEATURE_LENGTHS": {"inputs": 30, "targets": 20, "image": 32},
    "BATCH_SIZE": 8,
    "TRAIN_STEPS": 50,
    "LEARNING_RATE": 1e-3,
    "WARMUP_STEPS": 10,
    "EVAL_PERIOD": 0,
    "models.OFA.encoder_layers": 2,
    "models.OFA.decoder_layers": 2,
    "partitioning.Partitioner.mesh": MESH,
    "partitioning.Partitioner.rules": "fsdp_tensor",
}


def _run(command: list[str], cache: pathlib.Path) -> str:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {QUICK_TO_COMPILE}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *checkout.directories()]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OFA_TRACEBACK": "1",
    }
    finished = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-6000:]
    return finished.stdout + finished.stderr


def _bindings(settings: dict) -> list[str]:
    return [f"--gin.{name}={value!r}" for name, value in settings.items()]


def train_natively(directory: pathlib.Path, cache: pathlib.Path, **macros) -> str:
    """Trains with `python -m ofa_jax.train`, logging every step, a checkpoint every 25 steps."""
    settings = {
        **SETTINGS,
        "MODEL_DIR": str(directory),
        "STATS_PERIOD": 1,
        "CHECKPOINT_PERIOD": 25,
        "evaluation.EvaluationConfig.final_num_examples": 0,
        "evaluation.EvaluationConfig.batch_size": 8,
        "evaluation.EvaluationConfig.extra_splits": {},
        "evaluation.EvaluationConfig.unseen_tasks": (),
        **macros,
    }
    files = ["--gin_file=gin_configs/models/nano.gin", "--gin_file=gin_configs/runs/train.gin"]
    return _run([sys.executable, "-m", "ofa_jax.train", *files, *_bindings(settings)], cache)


def train_upstream(directory: pathlib.Path, cache: pathlib.Path, *files: str, **macros) -> str:
    """Trains with `t5x/train.py` in the same way."""
    settings = {
        **SETTINGS,
        "MODEL_DIR": str(directory),
        "STATS_PERIOD": 1,
        "CHECKPOINT_PERIOD": 25,
        **macros,
    }
    names = ("t5x/train.gin", "models/nano.gin", *(f"t5x/{file}" for file in files))
    gin_files = [f"--gin_file=gin_configs/{name}" for name in names]
    command = [sys.executable, checkout.script("train"), *gin_files, *_bindings(settings)]
    return _run(command, cache)


def run_upstream(script: str, cache: pathlib.Path, **macros) -> str:
    """Runs `t5x/eval.py` or `t5x/infer.py`."""
    training = ("TRAIN_STEPS", "LEARNING_RATE", "WARMUP_STEPS", "EVAL_PERIOD")
    settings = {name: value for name, value in SETTINGS.items() if name not in training}
    gin_files = [f"--gin_file=gin_configs/{name}.gin" for name in (f"t5x/{script}", "models/nano")]
    command = [
        sys.executable,
        checkout.script(script),
        *gin_files,
        *_bindings({**settings, **macros}),
    ]
    return _run(command, cache)


def native_losses(directory: pathlib.Path) -> dict[int, float]:
    """Loss by step, from `metrics.jsonl`."""
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def upstream_values(directory: pathlib.Path, tag: str = "loss") -> dict[int, float]:
    """A logged value by step, from t5x's TensorBoard files."""
    import tensorflow as tf

    values = {}
    for path in sorted((directory / "train").glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == tag:
                    values[event.step] = float(tf.make_ndarray(value.tensor))
    return values


def copy_checkpoint(source: pathlib.Path, target: pathlib.Path, step: int) -> None:
    """Makes a run's directory that holds one checkpoint of another run."""
    target.mkdir()
    shutil.copytree(source / f"checkpoint_{step}", target / f"checkpoint_{step}")
