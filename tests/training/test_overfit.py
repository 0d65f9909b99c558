"""The whole training path learns: nano memorizes 64 random images, prompts and answers."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.model.config import SIZES
from ofa_jax.model.ofa import OFA
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import make_eval_step, make_train_step
from ofa_jax.vocab import BOS_ID, EOS_ID

EXAMPLES, TARGET, STEPS = 64, 4, 40
CONFIG = dataclasses.replace(SIZES["nano"], batch_norm_momentum=0.5)


def make_examples():
    """Three quarters are told apart by their image alone, the rest by their text alone."""
    rng = np.random.default_rng(0)
    source = np.tile(np.array([[BOS_ID, 5, 6, EOS_ID]], np.int32), (EXAMPLES, 1))
    has_image = np.arange(EXAMPLES) % 4 != 3
    source[~has_image, 1:3] = rng.integers(10, 500, ((~has_image).sum(), 2))
    target = rng.integers(4, CONFIG.vocab_size, (EXAMPLES, TARGET)).astype(np.int32)
    target[:, -1] = EOS_ID
    start = np.full((EXAMPLES, 1), BOS_ID, np.int32)
    return {
        "encoder_input_tokens": source,
        "encoder_images": rng.integers(0, 256, (EXAMPLES, 32, 32, 3)).astype(np.uint8),
        "encoder_image_masks": has_image,
        "decoder_input_tokens": np.concatenate([start, target[:, :-1]], axis=1),
        "decoder_target_tokens": target,
        "decoder_loss_weights": np.ones((EXAMPLES, TARGET), np.float32),
        "task_ids": (~has_image).astype(np.int32),
    }


@pytest.mark.slow
def test_nano_memorizes_64_examples():
    model, batch = OFA(CONFIG), make_examples()
    schedule = ScheduleConfig(peak=3e-3, total_steps=STEPS, warmup_steps=10, end=3e-4)
    tx, schedule = build_optimizer(OptimizerConfig(schedule))
    state = jax.jit(lambda key: nn.meta.unbox(TrainState.create(model, tx, key, batch)))(
        jax.random.key(0, impl="rbg")  # compiles faster than the default
    )
    options = {"vocab_size": CONFIG.vocab_size, "num_tasks": 2}
    step = make_train_step(model, tx, schedule, LossConfig(), **options)
    losses = []
    for _ in range(STEPS):
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(float(metrics["loss"]))
    assert losses[0] > 6.0
    assert losses[-1] < 0.05, losses[::10]
    assert metrics["accuracy"] == 1.0

    # Running statistics of batch norm must be good enough for evaluation.
    sums = make_eval_step(model, LossConfig(), **options)(state, batch)
    assert sums.metrics()["nll"] < 0.2
    np.testing.assert_allclose(sums.correct / sums.tokens, 1.0, atol=0.02)
