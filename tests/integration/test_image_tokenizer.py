"""A run that trains an image tokenizer: killed, resumed, exported, shown; and what it refuses."""

import dataclasses
import json
import signal

import jax
import numpy as np
import pytest

import mixtures.scenes  # noqa: F401  (registers the tasks)
from ofa_jax.checkpoint.vqgan import read_vqgan, write_vqgan
from ofa_jax.data.ops.image_tokenizer import load_image_tokenizer
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.data.tasks.task import TaskSet
from ofa_jax.model.vqgan import VQGANConfig
from ofa_jax.runs.image_tokenizer import TokenizerEngine
from ofa_jax.runs.settings import TrainerConfig
from ofa_jax.scenes import ScenesSource
from ofa_jax.training.image_tokenizer import ImageTokenizerConfig
from ofa_jax.training.schedule import ScheduleConfig
from tests.integration.test_resume import (
    Sessions,
    assert_same_bits,
    checkpoints,
    log_lines,
    resumed_step,
    saved_state,
)
from tests.model.small_vqgan import NEAREST, params

SMALL = VQGANConfig(
    base_channels=8,
    channel_multipliers=(1, 1),
    blocks_per_level=1,
    attention_levels=(),
    latent_channels=8,
    embedding_dim=8,
    num_codes=16,
    norm_groups=4,
    quantizer="nearest",
)
STEPS = 6
SETTINGS = [
    "--gin_file=gin_configs/runs/image_tokenizer.gin",
    *(f"--gin.models.VQGAN.{name}={value!r}" for name, value in dataclasses.asdict(SMALL).items()),
    "--gin.BATCH_SIZE=8",
    "--gin.WARMUP_STEPS=2",
    "--gin.EVAL_PERIOD=0",
    f"--gin.TRAIN_STEPS={STEPS}",
    "--gin.CHECKPOINT_PERIOD=3",
    "--gin.STATS_PERIOD=1",
    "--gin.trainer.ImageTokenizerConfig.discriminator_weight=0.8",
    "--gin.trainer.ImageTokenizerConfig.discriminator_start=4",
    "--gin.trainer.ImageTokenizerConfig.discriminator_channels=4",
    "--gin.trainer.ImageTokenizerConfig.discriminator_layers=1",
    "--gin.trainer.ImageTokenizerConfig.unused_steps=3",
    # Compiles faster than Muon.
    "--gin.optimizers.OptimizerConfig.muon=()",
    "--gin.optimizers.OptimizerConfig.learning_rate_factors=()",
    "--gin.evaluation.EvaluationConfig.final_num_examples=16",
    "--gin.evaluation.EvaluationConfig.extra_splits={}",
    "--gin.log.LogConfig.tensorboard=False",
]


@pytest.mark.slow  # compiles the step of two networks
def test_a_killed_run_ends_with_the_same_bits_and_is_exported(tmp_path):
    sessions = Sessions(tmp_path, SETTINGS)
    sessions.finish("whole")
    status, text = sessions.run("broken", kill={"save": 2})
    assert status == -signal.SIGKILL, text[-3000:]
    assert checkpoints(tmp_path / "broken") == [3]
    text = sessions.finish("broken")
    assert resumed_step(text) == 3
    assert_same_bits(tmp_path / "broken", tmp_path / "whole", STEPS)
    sessions.process.kill()

    run = tmp_path / "broken"
    lines = [line for line in log_lines(run) if "loss" in line]
    assert [line["image/discriminator"] > 0 for line in lines] == [False] * 4 + [True] * 2
    assert lines[-1]["image/psnr"] > lines[0]["image/psnr"]
    scores = json.loads((run / "metrics.json").read_text())["tasks"]["images"]
    assert scores["n"] == 16
    assert 0 < scores["codes_used"] <= 1 <= scores["perplexity"] <= 16
    page = (run / "report.html").read_text()
    assert "Original" in page
    assert "Reconstruction" in page
    assert "Dead codes" in page

    # The export holds the average of the weights to the bit, and is written again as it was.
    config, weights = read_vqgan(run / "last.ckpt")
    assert config == dataclasses.replace(SMALL, commitment_weight=config.commitment_weight)
    state = saved_state(run, STEPS)
    entries = state["['ema']['params']['autoencoder']['quantizer']['codebook']"]
    np.testing.assert_array_equal(weights["quantizer"]["codebook"], entries)
    write_vqgan(run / "again.ckpt", weights, config, side=32, step=STEPS)
    assert read_vqgan(run / "again.ckpt")[0] == config
    for one, other in zip(
        *(jax.tree.leaves(read_vqgan(run / name)[1]) for name in ("last.ckpt", "again.ckpt")),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    tokenizer = load_image_tokenizer(str(run / "last.ckpt"))
    image = ScenesSource("tiny", "validation")[0]["image"]
    codes = tokenizer.encode(image)
    assert codes.shape == (16, 16)
    assert tokenizer.decode(codes).shape == (32, 32, 3)


def tasks(name="scenes_captioning", side=32):
    found = lookup(name)
    lengths = {"inputs": 12, "targets": 20, "image": side}
    return TaskSet(
        tuple(task for task, _ in found), tuple(rate for _, rate in found), (), lengths, None
    )


@pytest.mark.parametrize(
    ("losses", "model", "given", "message"),
    [
        (None, {}, {}, r"trained by trainer.Trainer.image_tokenizer = @trainer.ImageTokenizer"),
        ({"revive": True}, {"quantizer": "gumbel"}, {}, r"ImageTokenizerConfig.revive moves"),
        (
            {"temperature": ScheduleConfig(peak=0.9, shape="constant")},
            {},
            {},
            r"ImageTokenizerConfig.temperature is of a Gumbel codebook; .* is 'nearest'",
        ),
        ({}, {}, {"side": 33}, r"\['image'\] = 33 pixels; models.VQGAN .* a multiple of 2"),
        ({}, {}, {"name": "scenes_text_infilling"}, r"'scenes_text_infilling' has no images"),
    ],
    ids=["no-losses", "gumbel-revival", "plain-temperature", "size", "no-images"],
)
def test_what_makes_no_tokenizer_is_one_line(losses, model, given, message):
    config = dataclasses.replace(SMALL, **model)
    trainer = TrainerConfig(
        image_tokenizer=None if losses is None else ImageTokenizerConfig(**losses)
    )
    with pytest.raises(ValueError, match=message) as error:
        TokenizerEngine.check(config, tasks(**given), trainer)
    assert "\n" not in str(error.value)


def test_a_perceptual_loss_needs_its_network():
    with pytest.raises(ValueError, match=r"needs ImageTokenizerConfig\.perceptual"):
        ImageTokenizerConfig(perceptual_weight=1.0)


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path):
    write_vqgan(tmp_path / "other.ckpt", params(NEAREST), NEAREST, side=32)
    engine = TokenizerEngine(SMALL, *[None] * 9)
    with pytest.raises(ValueError, match=r"other.ckpt .*base_channels 32, .*models.VQGAN.*8"):
        engine.imported(str(tmp_path / "other.ckpt"), None)
    with pytest.raises(ValueError, match=r"initial_path: .*none.ckpt"):
        engine.imported(str(tmp_path / "none.ckpt"), None)
