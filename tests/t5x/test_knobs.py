"""What t5x's users turn, each in a short run of t5x's `train`; what would be ignored is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.compiling import QUICK_TO_COMPILE
from tests.t5x import checkout, engines

pytestmark = [checkout.requires_t5x, pytest.mark.slow]

FILES = ("gin_configs/t5x/train.gin", "gin_configs/models/nano.gin", "tests/micro.gin")
BASE = {
    "TASK_FEATURE_LENGTHS": {"inputs": 30, "targets": 20, "image": 32},
    "MIXTURE_OR_TASK_NAME": "scenes_vqa",
    "TRAIN_STEPS": 3,
    "BATCH_SIZE": 8,
    "LEARNING_RATE": 1e-3,
    # The same whatever TRAIN_STEPS is.
    "optimizers.ScheduleConfig.shape": "constant",
    "EVAL_PERIOD": 0,
    "CHECKPOINT_PERIOD": 3,
    "STATS_PERIOD": 1,
    "models.OFA.width": 32,
    "models.OFA.ffn_dim": 64,
}

# Gin lines that name things by imports.
STOCK_OPTIMIZER = """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import adafactor
from t5x import trainer as t5x_trainer
from t5x import utils
from ofa_jax.t5x import models
from ofa_jax.t5x import optimizers
models.OFAModel.optimizer = @adafactor.Adafactor()
adafactor.Adafactor.logical_factor_rules = @optimizers.factor_rules()
train_script.train.trainer_cls = @t5x_trainer.Trainer
t5x_trainer.Trainer:
  num_microbatches = 2
  learning_rate_fn = @utils.create_learning_rate_scheduler()
utils.create_learning_rate_scheduler:
  factors = "constant"
  base_learning_rate = 0.01
"""
STOCK_SCHEDULE = """
from __gin__ import dynamic_registration
from t5x import utils
from ofa_jax.t5x import optimizers
optimizers.OptimizerConfig.schedule = @utils.create_learning_rate_scheduler()
utils.create_learning_rate_scheduler:
  factors = "constant * linear_warmup"
  base_learning_rate = 0.01
  warmup_steps = 10
"""
STOCK_PARTITIONER = """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import partitioning as t5x_partitioning
train_script.train.partitioner = @t5x_partitioning.PjitPartitioner()
t5x_partitioning.PjitPartitioner:
  num_partitions = 2
  logical_axis_rules = @t5x_partitioning.standard_logical_axis_rules()
"""
TEACHER_FORCED = """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import utils
train_script.train.train_eval_dataset_cfg = @train_eval/utils.DatasetConfig()
train_script.train.infer_eval_dataset_cfg = None
train_script.train.eval_steps = 1
train_eval/utils.DatasetConfig:
  mixture_or_task_name = %MIXTURE_OR_TASK_NAME
  task_feature_lengths = %TASK_FEATURE_LENGTHS
  split = "validation"
  batch_size = %BATCH_SIZE
  shuffle = False
  seed = %RANDOM_SEED
  pack = False
  trim_output_features = False
"""
PAIR = "scenes_without_image_infilling"
# Runs that train: name -> (gin lines, settings, directory of an earlier run to go on in).
RUNS = {
    "base": ("", {}),
    "longer": ("", {"TRAIN_STEPS": 6}),
    "microbatches": ("", {"trainer.Trainer.num_microbatches": 2}),
    "dropout": ("", {"DROPOUT_RATE": 0.5}),
    "schedule": (STOCK_SCHEDULE, {}),
    "optimizer": (STOCK_OPTIMIZER, {}),
    "partitioner": (STOCK_PARTITIONER, {}),
    "teacher": (TEACHER_FORCED, {"EVAL_PERIOD": 3}),
    "rates": ("", {"MIXTURE_OR_TASK_NAME": PAIR, "inputs.DatasetConfig.rates": {"vqa": 0}}),
    "subtask": (
        "",
        {
            "MIXTURE_OR_TASK_NAME": PAIR,
            "inputs.DatasetConfig.rates": dict.fromkeys(
                ("captioning", "image_text_matching", "visual_grounding"), 0
            ),
            "EVAL_PERIOD": 3,
            "infer_eval/utils.DatasetConfig.mixture_or_task_name": "scenes_vqa",
            "infer_eval/utils.DatasetConfig.split": "test",
            "evaluation.EvaluationConfig.num_examples": 4,
        },
    ),
    # From the run "base", whose step is 3.
    "encoder alone": (
        "",
        {
            "INITIAL_CHECKPOINT_PATH": "{base}",
            "utils.RestoreCheckpointConfig.assignment_map": (
                ("state.*", None),
                ("target/decoder/.*", None),
            ),
        },
    ),
    "everything": (
        "",
        {
            "TRAIN_STEPS": 6,
            "INITIAL_CHECKPOINT_PATH": "{base}",
            "utils.RestoreCheckpointConfig.assignment_map": None,
            "utils.RestoreCheckpointConfig.fallback_to_scratch": False,
        },
    ),
    "longer again": ("", {"TRAIN_STEPS": 6, "MODEL_DIR": "{longer}"}),
}
# Settings that would be ignored, or that t5x does not have: what is said.
MISTAKES = {
    "misspelt macro": (
        {"TRAIN_STPES": 3},
        "macro TRAIN_STPES is set but nothing uses it. Did you mean TRAIN_STEPS",
    ),
    "macro of the native runner": ({"EVAL_SPLIT": "test"}, "macro EVAL_SPLIT is set but nothing"),
    "no number": ({"TRAIN_STEPS": "many"}, "TRAIN_STEPS must be a whole number"),
    "seed of t5x alone": (
        {"train.random_seed": 7},
        "train_script.train.random_seed is not 0, the seed of models.OFAModel: set RANDOM_SEED",
    ),
    "mixture of t5x alone": (
        {"train/utils.DatasetConfig.mixture_or_task_name": "scenes_captioning"},
        "set MIXTURE_OR_TASK_NAME, which both read",
    ),
    "batch of t5x alone": (
        {"train/utils.DatasetConfig.batch_size": 16},
        "train/utils.DatasetConfig.batch_size is 16, inputs.DatasetConfig.batch_size 8: set BATCH_",
    ),
    "two splits": (
        {"EVAL_PERIOD": 3, "evaluation.EvaluationConfig.split": "test"},
        "evaluation.EvaluationConfig.split is 'test', utils.DatasetConfig.split of the evaluation",
    ),
    "evaluated, not trained": (
        {
            "EVAL_PERIOD": 3,
            "infer_eval/utils.DatasetConfig.mixture_or_task_name": "scenes_captioning",
        },
        "scenes_captioning is not in MIXTURE_OR_TASK_NAME 'scenes_vqa' of the run",
    ),
    "partitions": (
        {"partitioning.MeshPartitioner.num_partitions": 2},
        "Under t5x it is partitioning.Partitioner.mesh, for example 'data=-1,model=4'.",
    ),
    "native checkpoints": (
        {"checkpoints.CheckpointConfig.keep": 4},
        "Under t5x it is CHECKPOINT_PERIOD and KEEP_CHECKPOINTS",
    ),
    "native rates": (
        {"train/utils.DatasetConfig.rates": {"vqa": 1}},
        "Under t5x it is inputs.DatasetConfig.rates.",
    ),
    "name of the files": (
        {"train_script.train.eval_steps": 7},
        "Under t5x it is train, as in --gin.train.eval_period=100.",
    ),
    "scope that nothing opens": (
        {"tarin/utils.DatasetConfig.split": "train"},
        "nothing uses the scope 'tarin'",
    ),
    "native optimizer, stock trainer": ({"trainer.StepTrainer.num_microbatches": 2}, "trainer.Tr"),
}


def environment():
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {QUICK_TO_COMPILE}",
        "PYTHONPATH": os.pathsep.join([str(engines.ROOT), *checkout.directories()]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def arguments(directory, name, lines, settings):
    own = directory / f"{name}.gin"
    own.write_text(lines)
    files = [f"--gin_file={file}" for file in (*FILES, *([own] if lines else []))]
    settings = {"MODEL_DIR": str(directory / name), **BASE, **settings}
    values = {
        key: str(directory / value[1:-1]) if str(value).startswith("{") and isinstance(value, str)
        else value for key, value in settings.items()
    }  # fmt: skip
    return [*files, *(f"--gin.{key}={value!r}" for key, value in values.items())]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("knobs")


@pytest.fixture(scope="module")
def said(directory):
    """Runs everything in one process; what each said."""
    runs = {name: arguments(directory, name, *run) for name, run in RUNS.items()}
    # A run that is killed after step 3 and started again.
    again = runs.pop("longer again")
    runs |= {
        name: arguments(directory, name, "", settings) for name, (settings, _) in MISTAKES.items()
    }
    command = [sys.executable, "-m", "tests.t5x.many_runs"]
    options = {"cwd": engines.ROOT, "env": environment(), "capture_output": True, "text": True}
    found = {}
    for part in (runs, {"longer again": again}):
        done = subprocess.run([*command, *map(json.dumps, part.values())], check=False, **options)
        assert done.returncode == 0, done.stderr[-6000:]
        found |= dict(zip(part, json.loads(done.stdout.splitlines()[-1]), strict=True))
        if "longer" in part:
            keep = directory / "longer" / "checkpoint_6"
            keep.rename(directory / "longer_6")
    return found


def losses(directory, name):
    return engines.upstream_values(directory / name)


@pytest.mark.parametrize("name", RUNS)
def test_it_trains(directory, said, name):
    assert said[name] is None
    found = losses(directory, name if name != "longer again" else "longer")
    assert found
    assert all(np.isfinite(list(found.values())))


@pytest.mark.parametrize("name", MISTAKES)
def test_it_is_refused(said, name):
    assert MISTAKES[name][1] in (said[name] or "")
    assert "\n" not in said[name]


def near(first, second):
    return first == pytest.approx(second, abs=1e-4)


def test_what_changes_the_loss_and_what_does_not(directory, said):
    base = losses(directory, "base")
    assert sorted(base) == [1, 2, 3]
    # Batch norm has the statistics of a microbatch.
    assert losses(directory, "microbatches") == pytest.approx(base, abs=0.02)
    assert near(losses(directory, "partitioner"), base)
    assert not near(losses(directory, "dropout"), base)
    # t5x's own optimizer and trainer see the same model and batch.
    own = losses(directory, "optimizer")
    assert own[1] == pytest.approx(base[1], abs=0.1)
    assert own[3] < own[1]


def test_t5x_schedule(directory, said):
    rates = engines.upstream_values(directory / "schedule", "learning_rate")
    assert rates == pytest.approx({1: 0.0, 2: 0.001, 3: 0.002}, abs=1e-7)
    own = engines.upstream_values(directory / "optimizer", "learning_rate")
    assert own == pytest.approx({1: 0.01, 2: 0.01, 3: 0.01})


def test_teacher_forced_evaluation(directory, said):
    import tensorflow as tf

    steps = {
        event.step
        for path in (directory / "teacher" / "training_eval" / "scenes_vqa").glob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "loss"
    }
    assert steps == {3}


def test_rates_by_gin(directory, said):
    assert not engines.upstream_values(directory / "rates", "loss/vqa")
    assert engines.upstream_values(directory / "rates", "loss/captioning")


def test_one_task_on_another_split(directory, said):
    [line] = (directory / "subtask/inference_eval/metrics.jsonl").read_text().splitlines()
    assert {name.split("/")[1] for name in json.loads(line) if "/" in name} == {"vqa"}


def weights(path):
    """Its parameters as nested dictionaries of whole arrays."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(path / "state").item_metadata.tree
        whole = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(path / "state", restore_args=whole)["target"]


def test_a_part_of_another_run(directory, said):
    import jax

    start = weights(directory / "encoder alone" / "checkpoint_0")
    trained, fresh = (weights(directory / "base" / f"checkpoint_{step}") for step in (3, 0))
    for part, expected in (("encoder", trained), ("decoder", fresh)):
        jax.tree.map(np.testing.assert_array_equal, start[part], expected[part])


def test_a_full_restore_goes_on_at_its_step_and_batch(directory, said):
    longer, everything = losses(directory, "longer"), losses(directory, "everything")
    assert sorted(everything) == [4, 5, 6]
    assert near(everything, {step: longer[step] for step in everything})


def test_events_after_the_checkpoint_are_dropped(directory, said):
    """The killed run had logged six steps; what went on from step 3 has logged three of them."""
    import tensorflow as tf

    steps = [
        event.step
        for path in (directory / "longer" / "train").glob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "loss"
    ]
    assert sorted(steps) == [1, 2, 3, 4, 5, 6]


def test_flags_of_the_script(directory):
    """Several --gin_file, --gin_search_paths and --gin_bindings, given to t5x/train.py itself."""
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.gin").write_text("TRAIN_STEPS = 2\n")
    words = arguments(directory, "flags", "", {"TRAIN_STEPS": 1})
    bindings = [word for word in words if word.startswith("--gin.")]
    command = [
        sys.executable,
        checkout.script("train"),
        f"--gin_search_paths=.,{elsewhere}",
        *(word for word in words if word.startswith("--gin_file")),
        "--gin_file=mine.gin",
        *(word for word in bindings if "TRAIN_STEPS" not in word and "BATCH_SIZE" not in word),
        "--gin_bindings=BATCH_SIZE = 4",
    ]
    done = subprocess.run(
        command, cwd=engines.ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert sorted(losses(directory, "flags")) == [1, 2]
    # A mistake is one line, and a status at which no launcher tries again.
    done = subprocess.run(
        [*command, "--gin.TRAIN_STPES=3"],
        cwd=engines.ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: macro TRAIN_STPES is set but nothing uses it." in done.stderr
