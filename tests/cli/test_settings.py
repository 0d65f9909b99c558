"""Every option of every settings class can be set from a gin file."""

import dataclasses

import gin
import pytest

from ofa_jax.cli import bindings, gin_files
from ofa_jax.cli.entry import TRAIN_FILE
from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.runs import story
from ofa_jax.training.ema import EMAConfig
from ofa_jax.training.scst import SCSTConfig

# A run fills these in: they follow from its tasks.
DERIVED = {("trainer.LossConfig", "task_groups")}


@pytest.fixture
def configurables():
    yield bindings.register(story.train)
    gin.clear_config()


def settings(configurables):
    return {
        name: made
        for name, made in bindings.registered(story.train).items()
        if dataclasses.is_dataclass(made)
    }


def test_every_field_can_be_bound_and_arrives(configurables):
    checked = 0
    for name, made in settings(configurables).items():
        for field in dataclasses.fields(made):
            if (name, field.name) in DERIVED:
                continue
            gin.parse_config(f"{name}.{field.name} = %gin.REQUIRED", skip_unknown=False)
            checked += 1
    assert checked > 120


def test_the_parts_of_the_loss_reach_the_trainer(configurables):
    gin_files.parse(
        [TRAIN_FILE, "gin_configs/runs/quickstart.gin"],
        [
            "trainer.LossConfig.rdrop_alpha = 0.5",
            "trainer.LossConfig.drop_best_ratio = 0.1",
            "trainer.LossConfig.ignore_prefix_size = 2",
            "trainer.LossConfig.ignore_eos = True",
            "trainer.EMAConfig.decay = 0.99",
            "trainer.Trainer.scst = @trainer.SCSTConfig()",
            "MODEL_DIR = 'runs/x'",
        ],
        bindings.registered(story.train),
    )
    trainer = configurables["trainer.Trainer"]()
    assert trainer.loss == LossConfig(
        rdrop_alpha=0.5, drop_best_ratio=0.1, ignore_prefix_size=2, ignore_eos=True
    )
    assert trainer.ema == EMAConfig(0.99)
    assert trainer.averages
    assert trainer.scst == SCSTConfig()


def test_settings_of_what_nothing_uses_are_refused(configurables):
    override = ["trainer.SCSTConfig.samples = 3", "MODEL_DIR = 'runs/x'"]
    with pytest.raises(gin_files.ConfigError, match=r"nothing uses @trainer\.SCSTConfig\(\)"):
        gin_files.parse(
            [TRAIN_FILE, "gin_configs/runs/quickstart.gin"],
            override,
            bindings.registered(story.train),
        )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("label_smoothing", "trainer.LossConfig.label_smoothing"),
        ("loss_normalisation", "trainer.LossConfig.normalization"),
        ("ema_decay", "trainer.EMAConfig.decay"),
        ("objective", "trainer.Trainer.scst = @trainer.SCSTConfig()"),
    ],
)
def test_old_names_are_refused_with_the_new_one(configurables, old, new):
    with pytest.raises(gin_files.ConfigError) as caught:
        gin_files.parse([], [f"trainer.Trainer.{old} = 0"], bindings.registered(story.train))
    assert new in str(caught.value)
