"""Every mistake in the settings is one line that names the setting, and exit status 2.

The tests run the command in this process up to the first computation; whatever is refused there
is refused within seconds.
"""

import collections
import importlib.util
import pathlib
import shutil
import subprocess
import sys

import pytest

from ofa_jax.checkpoint.fingerprint import write_fingerprint
from ofa_jax.checkpoint.manager import CheckpointManager
from ofa_jax.runs import directory as run_directory
from ofa_jax.runs.settings import DatasetConfig
from ofa_jax.runs.story import train
from ofa_jax.sharding import placement
from ofa_jax.training.optimizer import OptimizerConfig
from ofa_jax.training.schedule import ScheduleConfig
from tests.cli.conftest import QUICKSTART, ComputationStarted

ROOT = pathlib.Path(__file__).resolve().parents[2]
PRETRAIN = "--gin_file=gin_configs/runs/pretrain.gin"
NANO = "--gin_file=gin_configs/models/nano.gin"
TRAIN = "--gin_file=gin_configs/runs/train.gin"
LENGTHS = "--gin.TASK_FEATURE_LENGTHS="


@pytest.fixture
def refused(command_line, capsys, tmp_path):
    """Runs a command that must be refused and returns its one line."""

    def run(*arguments):
        if not any(argument.startswith("--gin.MODEL_DIR") for argument in arguments):
            arguments = (*arguments, f"--gin.MODEL_DIR='{tmp_path / 'run'}'")
        status = command_line(arguments)
        captured = capsys.readouterr()
        assert status == 2
        assert captured.out == ""
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


def test_the_quickstart_is_accepted(command_line, tmp_path):
    with pytest.raises(ComputationStarted):
        command_line([QUICKSTART, f"--gin.MODEL_DIR='{tmp_path / 'run'}'"])


# Names.

NAMES = {
    "TRAIN_STPES=10": "macro TRAIN_STPES is set but nothing uses it. Did you mean TRAIN_STEPS",
    "utils.DatasetConfg.seed=1": "'utils.DatasetConfg'. Did you mean inputs.DatasetConfig",
    "train_script.train.trainer=@trainer.Traner()": "Did you mean trainer.Trainer",
    "inputs.DatasetConfig.batchsize=1": "named 'batchsize'. Did you mean batch_size",
    "train_script.train.evalperiod=1": "named 'evalperiod'. Did you mean eval_period",
    "models.OFA.dropot=0.1": "named 'dropot'. Did you mean dropout",
    "trainer.EMAConfig.decay=%EMA_DECY": "macro EMA_DECY is read but never set.",
    "models.OFA.size='giant'": "OFA.size: no size 'giant'; known: nano, tiny, medium",
    "MIXTURE_OR_TASK_NAME='scenes_quikstart'": "did you mean scenes_quickstart",
    "MIXTURE_OR_TASK_NAME='scenes_vqaa'": "did you mean scenes_vqa",
    "MIXTURE_OR_TASK_MODULE='mixtures.scnes'": "MIXTURE_OR_TASK_MODULE: no module 'mixtures.scnes'",
    "evaluation.EvaluationConfig.unseen_tasks=('scenes_grounded_vq',)": "unseen_tasks: no task or",
    "evaluation.EvaluationConfig.unseen_tasks='scenes_vqa'": "unseen_tasks must be a list of names",
    "inputs.DatasetConfig.split='trian'": "(DatasetConfig.split): unknown split 'trian'",
    "evaluation.EvaluationConfig.split='valid'": "(EvaluationConfig.split): unknown split 'valid'",
    "evaluation.EvaluationConfig.extra_splits={'tst': 8}": "EvaluationConfig.extra_splits):",
    "inputs.DatasetConfig.rates={'vqaa': 1.0}": "has no task 'vqaa'; did you mean vqa",
    "partitioning.Partitioner.rules='fdsp'": "'fdsp' are none of data_parallel, fsdp",
    "trainer.LossConfig.normalization='tokns'": "'tokns'",
    "optimizers.ScheduleConfig.shape='cosin'": "shape must be one of 'polynomial', 'cos",
}


@pytest.mark.parametrize("binding", NAMES)
def test_misspelt_names(refused, binding):
    assert NAMES[binding] in refused(QUICKSTART, f"--gin.{binding}")


def test_names_in_files(refused, tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text(
        'include "gin_configs/runs/quickstart.gin"\ninputs.DatasetConfig.btch_size = 5\n'
    )
    assert "named 'btch_size'. Did you mean batch_size" in refused(f"--gin_file={path}")
    path.write_text('include "gin_configs/runs/quikstart.gin"\n')
    line = refused(f"--gin_file={path}")
    assert f"{path}: there is no gin file gin_configs/runs/quikstart.gin; did you mean" in line
    path.write_text('include "gin_configs/runs/quickstart.gin"\nTRAIN_STEPS = = 5\n')
    line = refused(f"--gin_file={path}")
    assert str(path) in line
    assert "line 2" in line
    line = refused("--gin_file=gin_configs/runs/quikstart.gin")
    assert "--gin_file: there is no gin file gin_configs/runs/quikstart.gin; did you mean" in line
    assert "gin_configs/runs/quickstart.gin" in line


# Values.

VALUES = {
    "BATCH_SIZE=10**9": "--gin.BATCH_SIZE=10**9: Expected newline",
    "BATCH_SIZE=1000000000": "BATCH_SIZE must be a whole number from 1 to 1,048,576, got 1000000",
    "RANDOM_SEED=99999999999999999999": "RANDOM_SEED must be a whole number",
    "MIXTURE_OR_TASK_MODULE=3": "MIXTURE_OR_TASK_MODULE: no module '3'",
    "inputs.DatasetConfig.num_workers=1000000": "num_workers must be a whole number",
    "models.OFA.encoder_layers=1000000000": "encoder_layers must be a whole number from 1 to 1,024",
    "optimizers.OptimizerConfig.frozen=('(a|a|a)*b(',)": "is not a regular expression",
    "optimizers.OptimizerConfig.frozen=('^(([a-z]|[a-z_/0-9])*)*[A-Z]$',)": "takes more than 1",
    "TRAIN_STEPS=(": "TRAIN_STEPS=(: ",
    "TRAIN_STEPS=" + "(" * 5000: "brackets are nested too deeply",
    "TRAIN_STEPS=0": "TRAIN_STEPS must be a whole number from 1 to 1,000,000,000, got 0",
    "TRAIN_STEPS='many'": "TRAIN_STEPS must be a whole number from 1 to 1,000,000,000, got 'many'",
    "TRAIN_STEPS=1e3": "TRAIN_STEPS must be a whole number from 1 to 1,000,000,000, got 1000.0",
    "BATCH_SIZE='64'": "BATCH_SIZE must be a whole number from 1 to 1,048,576, got '64'",
    "RANDOM_SEED=-1": "RANDOM_SEED must be a whole number from 0 to 4,294,967,295, got -1",
    "EVAL_PERIOD=-5": "EVAL_PERIOD must be a whole number from 0 to 1,000,000,000",
    "LEARNING_RATE='big'": "LEARNING_RATE must be a number from 0 to 1,000, got 'big'",
    "MODEL_DIR=''": "MODEL_DIR must be a text of 1 to 4,096 characters or entries, got ''",
    "checkpoints.CheckpointConfig.period='5'": "CheckpointConfig.period must be a whole number fro",
    "checkpoints.CheckpointConfig.keep=0": "CheckpointConfig.keep must be a whole number from 1 to",
    "inputs.DatasetConfig.num_workers=-1": "DatasetConfig.num_workers must be a whole number",
    "evaluation.EvaluationConfig.beam_size=0": "EvaluationConfig.beam_size must be a whole number",
    "inputs.DatasetConfig.rates={'vqa': -1.0}": "rates['vqa'] must be",
    "inputs.DatasetConfig.rates={'vqa': '2.0'}": "rates['vqa'] must be",
    "inputs.DatasetConfig.rates={'vqa': None}": "rates['vqa'] must be",
    "inputs.DatasetConfig.rates={'vqa': True}": "rates['vqa'] must be",
    "inputs.DatasetConfig.rates='vqa=2'": "rates must be",
    "inputs.DatasetConfig.rates=None": "rates must be",
    "inputs.DatasetConfig.rate_schedule=None": "rate_schedule must be a dictionary {a whole num",
    "inputs.DatasetConfig.rate_schedule='0:vqa'": "rate_schedule must be",
    "inputs.DatasetConfig.rate_schedule={'0': {'vqa': 1}}": "a key of DatasetConfig.rate_sche",
    "inputs.DatasetConfig.rate_schedule={0: {'vqa': '2'}}": "rate_schedule[0]['vqa'] must be a",
    "inputs.DatasetConfig.rate_schedule={0: {'vqa': None}}": "rate_schedule[0]['vqa'] must be a",
    "inputs.DatasetConfig.rate_schedule={0: None}": "rate_schedule[0] must be a dictionary {a text",
    "inputs.DatasetConfig.buckets='vqa'": "buckets must be a dictionary {a text: a dictionary {",
    "inputs.DatasetConfig.temperature='2'": "DatasetConfig.temperature must be a number from 1e-09",
    "inputs.DatasetConfig.temperature=None": "DatasetConfig.temperature must be",
    "train/inputs.DatasetConfig.batch_size=3": "nothing uses the scope 'train'; write inputs.Data",
    "partitioning.Partitioner.mesh='data=8'": "mesh data=8 has 8 devices",
    "trainer.Trainer.num_microbatches=5": "5 microbatches",
    "trainer.Trainer.num_microbatches=0": "Trainer.num_microbatches must be a whole number",
    "trainer.Trainer.profile_steps=-1": "Trainer.profile_steps must be a whole number from",
    "trainer.EMAConfig.decay=1.5": "EMAConfig.decay must be a number from 0 to 0.9999999, got 1.5",
    "partitioning.Partitioner.dcn_mesh='replica=2'": "has 2 slices, over which 1 devices do",
    "partitioning.Partitioner.additional_rules=(('embed', 'dta'),)": "none of the mesh axes ",
    "log.LogConfig.wandb_mode='of'": "wandb_mode must be one of 'online', 'offline', got 'of'",
    "checkpoints.CheckpointConfig.best_mode='least'": "best_mode must be",
    "INITIAL_CHECKPOINT_PATH='/nowhere/at/all'": "INITIAL_CHECKPOINT_PATH: /nowhere/at/all: no",
}


@pytest.mark.parametrize("binding", VALUES)
def test_values_that_cannot_work(refused, binding):
    assert VALUES[binding] in refused(QUICKSTART, f"--gin.{binding}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NANO, TRAIN), "MIXTURE_OR_TASK_NAME has no value: add a run file such as --gin_file="),
        (
            (PRETRAIN, "--gin.TRAIN_STEPS=3", "--gin.BATCH_SIZE=2"),
            "models.OFA.size has no value: include a model file, for example --gin_file=",
        ),
        (
            (NANO, PRETRAIN, "--gin.TRAIN_STEPS=3", "--gin.BATCH_SIZE=2"),
            "DATA_DIR has no value: add --gin.DATA_DIR=...",
        ),
    ],
)
def test_macros_without_value(refused, arguments, message):
    assert message in refused(*arguments)


def test_model_dir_is_required(command_line, capsys):
    arguments = (NANO, TRAIN, "--gin.MIXTURE_OR_TASK_NAME='scenes_vqa'", "--gin.TRAIN_STEPS=3")
    lengths = f"{LENGTHS}{{'inputs': 28, 'targets': 20, 'image': 32}}"
    assert command_line([*arguments, lengths, "--gin.BATCH_SIZE=8"]) == 2
    assert capsys.readouterr().err == (
        "error: MODEL_DIR has no value: add --gin.MODEL_DIR=... or set it in a gin file\n"
    )


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            {"inputs": 28, "target": 20, "image": 32},
            "must give positive whole numbers for 'inputs'",
        ),
        ({"inputs": 28, "targets": 20.5, "image": 32}, "['targets'] must be a whole number from 0"),
        ({"inputs": 28, "targets": 8, "image": 32}, "['targets'] = 8 is too short for task"),
        ({"inputs": 9, "targets": 20, "image": 32}, "['inputs'] = 9 is too short for task"),
        ({"inputs": 28, "targets": 20, "image": 64}, "change TASK_FEATURE_LENGTHS['image']"),
        ({"inputs": 28, "targets": 20_000, "image": 32}, "['targets'] = 20000, but the model has"),
        (28, "TASK_FEATURE_LENGTHS must be a dictionary {a text: a whole number from 0"),
    ],
)
def test_lengths_that_do_not_fit(refused, lengths, message):
    line = refused(QUICKSTART, f"{LENGTHS}{lengths}")
    assert message in line
    assert "TASK_FEATURE_LENGTHS" in line


def test_rates_of_zero_for_all_tasks(refused):
    line = refused(
        QUICKSTART,
        "--gin.MIXTURE_OR_TASK_MODULE=('mixtures.scenes', 'tests.cli.zero_rates')",
        "--gin.MIXTURE_OR_TASK_NAME='nothing_to_train'",
    )
    assert "mixture 'nothing_to_train': every rate is zero" in line
    line = refused(
        QUICKSTART,
        "--gin.MIXTURE_OR_TASK_NAME='scenes_vqa'",
        "--gin.inputs.DatasetConfig.rates={'vqa': 0}",
    )
    assert "DatasetConfig.rates: every rate is zero; give at least one task a" in line


def test_several_vocabularies(refused, tmp_path, monkeypatch):
    line = refused(
        QUICKSTART, "--gin.evaluation.EvaluationConfig.unseen_tasks=('scenes_small_vqa',)"
    )
    assert "'scenes_captioning_apart' and 'scenes_small_vqa' use different vocabularies" in line


# The directory of the run.


def test_directory_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(QUICKSTART, f"--gin.MODEL_DIR='{tmp_path / 'file' / 'run'}'")
    assert f"MODEL_DIR: cannot write checkpoints to {tmp_path / 'file' / 'run'}: Not a dir" in line


def test_directory_of_another_model(refused, command_line, tmp_path, monkeypatch):
    configs = []

    class Remembering(CheckpointManager):
        def __init__(self, *arguments, config, **options):
            configs.append(config)
            super().__init__(*arguments, config=config, **options)

    monkeypatch.setattr(run_directory, "CheckpointManager", Remembering)
    directory = f"--gin.MODEL_DIR='{tmp_path / 'run'}'"
    with pytest.raises(ComputationStarted):
        command_line([QUICKSTART, directory])
    with pytest.raises(ComputationStarted):  # nothing is there that another model could harm
        command_line([QUICKSTART, directory, "--gin.models.OFA.encoder_layers=1"])
    (tmp_path / "run" / "checkpoint_5").mkdir()
    write_fingerprint(tmp_path / "run", configs[0])
    line = refused(QUICKSTART, directory, "--gin.models.OFA.encoder_layers=1")
    assert "MODEL_DIR: " in line
    assert "holds checkpoints of another model: model.encoder_layers is " in line
    assert "and 1 here; choose another directory" in line


def test_disk_without_space(refused, command_line, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 1 << 20))
        line = refused(QUICKSTART, f"--gin.MODEL_DIR='{directory}'")
    assert line.startswith(
        f"error: MODEL_DIR {directory} has 1.0 MiB free; 2 checkpoints and the one"
    )
    assert list(directory.iterdir()) == []
    with pytest.raises(ComputationStarted):  # a smaller model is no "other model"
        command_line([QUICKSTART, f"--gin.MODEL_DIR='{directory}'", "--gin.models.OFA.width=64"])


def test_remote_directory_without_a_driver(refused, monkeypatch):
    find = importlib.util.find_spec
    without = lambda name, *rest: None if name == "gcsfs" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    line = refused(QUICKSTART, "--gin.MODEL_DIR='gs://bucket/runs/one'")
    assert "MODEL_DIR gs://bucket/runs/one needs the package gcsfs: pip install" in line
    assert "gcsfuse bucket /mnt/bucket) and set MODEL_DIR='/mnt/bucket/runs/one'" in line
    line = refused(QUICKSTART, "--gin.MODEL_DIR='s3://bucket/runs/one'")
    assert "no driver makes s3:// a directory here; mount it on every host (mount-s3 bucket" in line
    line = refused(QUICKSTART, "--gin.MODEL_DIR='gs://bucket'")
    assert "gs://bucket is no address of a directory, such as gs://bucket/run" in line


# The process.


def test_the_command_prints_one_line_and_exits_with_2():
    finished = subprocess.run(
        [sys.executable, "-m", "ofa_jax.train", QUICKSTART, "--gin.TRAIN_STPES=10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.splitlines() == [
        "error: macro TRAIN_STPES is set but nothing uses it. Did you mean TRAIN_STEPS or "
        "RANDOM_SEED?"
    ]


def test_bugs_keep_their_traceback(command_line, monkeypatch, tmp_path, capsys):
    def broken(*arguments, **options):
        raise TypeError("a bug")

    monkeypatch.setattr(placement, "create_sharded", broken)
    assert command_line([QUICKSTART, f"--gin.MODEL_DIR='{tmp_path / 'run'}'"]) == 1
    text = capsys.readouterr().err
    assert "in broken" in text
    assert text.endswith("TypeError: a bug\n")
    monkeypatch.setenv("OFA_TRACEBACK", "1")
    assert command_line([QUICKSTART, "--gin.TRAIN_STEPS=0"]) == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last == "error: TRAIN_STEPS must be a whole number from 1 to 1,000,000,000, got 0"


def test_train_from_python_checks_its_arguments():
    lengths = {"inputs": 30, "targets": 20, "image": 32}
    given = {
        "model": None,
        "model_dir": "x",
        "total_steps": 1,
        "train_dataset_cfg": DatasetConfig("scenes_vqa", lengths, 8),
        "optimizer": OptimizerConfig(ScheduleConfig(1e-3, total_steps=1)),
    }
    for name, value, right in (
        ("total_steps", "9", "total_steps must be a whole number from 1 to 1,000,000,000, got '9'"),
        ("random_seed", -1, "random_seed must be a whole number from 0 to 4,294,967,295, got -1"),
        ("trainer", 3, "train.trainer must be a TrainerConfig, got 3"),
    ):
        with pytest.raises(ValueError, match=right):
            train(**given | {name: value})
