"""Names of one engine's settings are explained under the other one, and its files noticed."""

import pathlib

import pytest

from ofa_jax.cli import engines, entry, gin_files
from ofa_jax.cli.bindings import register, registered
from ofa_jax.runs.story import train

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "gin_configs"


@pytest.mark.parametrize(
    ("name", "t5x", "told"),
    [
        ("utils.EvaluationConfig.batch_size", True, "evaluation.EvaluationConfig.batch_size"),
        ("ofa_jax.t5x.utils.DatasetConfig.rates", True, "inputs.DatasetConfig.rates"),
        ("checkpoints.CheckpointConfig.period", True, "CHECKPOINT_PERIOD"),
        ("partitioning.PjitPartitioner.num_partitions", True, "partitioning.Partitioner.mesh"),
        ("utils.DatasetConfig.rates", False, "inputs.DatasetConfig.rates"),
        ("train_script.train.locations", False, "inputs.DatasetConfig.locations"),
        ("SEED", False, "RANDOM_SEED"),
        ("train/utils.SaveCheckpointConfig.keep", False, "checkpoints.CheckpointConfig.keep"),
        ("partitioning.PjitPartitioner.num_partitions", False, "partitioning.Partitioner.mesh"),
        ("utils.create_learning_rate_scheduler.end", False, "optimizers.ScheduleConfig.end"),
        ("models.OFAModel.optimizer", False, "train_script.train.optimizer"),
    ],
)
def test_a_name_of_the_other_engine(name, t5x, told):
    hint = engines.hint(name.removeprefix("train/"), t5x=t5x)
    assert f"it is {told}" in hint
    assert hint.startswith(" Under t5x" if t5x else " Under python -m ofa_jax.train")


def test_other_names_have_no_hint():
    assert engines.hint("inputs.DatasetConfig.rates", t5x=False) == ""
    assert engines.hint("TRAIN_STPES", t5x=True) == ""


def test_files_of_t5x_are_told_apart():
    for path in CONFIGS.rglob("*.gin"):
        of_t5x = path.relative_to(CONFIGS).parts[0] == "t5x"
        assert engines.is_of_t5x(path.read_text(encoding="utf-8")) == of_t5x, path


@pytest.mark.parametrize(
    ("files", "bindings", "message"),
    [
        (["gin_configs/t5x/quickstart.gin"], [], "quickstart.gin is a gin file of t5x: give it to"),
        ([], ["SEED = 5"], "Under python -m ofa_jax.train it is RANDOM_SEED."),
        (
            [],
            ["partitioning.PjitPartitioner.num_partitions = 2"],
            "it is partitioning.Partitioner.mesh, for example 'data=-1,model=4'.",
        ),
        ([], ["utils.DatasetConfig.rates = {}"], "it is inputs.DatasetConfig."),
    ],
    ids=["file", "macro", "partitioner", "rates"],
)
def test_the_native_runner_explains_t5x(files, bindings, message):
    register(train)
    files = [entry.TRAIN_FILE, "gin_configs/runs/quickstart.gin", *files]
    with pytest.raises(gin_files.ConfigError) as error:
        gin_files.parse(files, bindings, registered(train))
    assert message in str(error.value)
