"""The step of an image tokenizer: what is compiled of settings, and the revival of dead codes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.losses.perceptual import distance_in
from ofa_jax.model.vqgan import VQGANConfig
from ofa_jax.training.ema import EMAConfig
from ofa_jax.training.image_tokenizer import (
    ImageTokenizerConfig,
    TokenizerNetworks,
    counted,
    make_tokenizer_step,
    revived,
)
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState

SMALL = VQGANConfig(
    base_channels=8,
    channel_multipliers=(1, 2),
    blocks_per_level=1,
    attention_levels=(1,),
    latent_channels=8,
    embedding_dim=8,
    num_codes=16,
    norm_groups=4,
)
BATCH = {
    "encoder_images": np.zeros((8, 16, 16, 3), np.uint8),
    "encoder_image_masks": np.ones(8, bool),
    "decoder_loss_weights": np.ones((8, 3), np.float32),
    "task_ids": np.zeros(8, np.int32),
}
TEMPERATURE = ScheduleConfig(peak=0.9, shape="cosine", total_steps=100, end=1e-6)


@pytest.mark.parametrize(
    ("model", "losses", "names"),
    [
        pytest.param({"quantizer": "nearest"}, {"revive": True}, set(), marks=pytest.mark.slow),
        (
            {"quantizer": "gumbel"},
            {
                "temperature": TEMPERATURE,
                "discriminator_weight": 0.8,
                "discriminator_layers": 2,
                "perceptual_weight": 1.0,
                "perceptual": "named:elsewhere",
            },
            {"temperature", "discriminator", "adversarial_weight", "perceptual"},
        ),
    ],
    ids=["plain", "everything"],
)
@pytest.mark.parametrize("num_microbatches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_every_combination_is_traced(model, losses, names, num_microbatches):
    config = dataclasses.replace(SMALL, **model)
    networks = TokenizerNetworks(config, ImageTokenizerConfig(**losses))
    tx, schedule = build_optimizer(OptimizerConfig(schedule=ScheduleConfig(1e-3, "constant")))
    key = jax.random.key(0)

    def make(key):
        return TrainState.create(networks, tx, key, BATCH, ema=True)

    state = nn.meta.unbox(jax.eval_shape(make, key))
    step = make_tokenizer_step(
        networks,
        tx,
        schedule,
        perceptual=distance_in(lambda images: [images]) if "perceptual" in names else None,
        num_tasks=1,
        num_microbatches=num_microbatches,
        ema=EMAConfig(),
    )
    after, metrics = jax.eval_shape(step, state, BATCH, key)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert {f"image/{name}" for name in names} <= metrics.keys()
    assert all(value.shape == () for name, value in metrics.items() if "/" in name)
    assert ("discriminator" in state.params) == ("discriminator" in names)


def test_dead_codes_move_to_latents_and_others_stay():
    codebook = jnp.zeros((4, 2))
    latents = jnp.arange(1.0, 7.0).reshape(3, 2)
    entries, unused = revived(
        codebook, jnp.array([0, 5, 4, 9]), latents, jax.random.key(0), limit=5
    )
    assert unused.tolist() == [0, 0, 4, 0]
    assert entries[0].tolist() == entries[2].tolist() == [0, 0]
    assert all(any((entries[i] == row).all() for row in latents) for i in (1, 3))


def test_examples_without_image_or_that_were_not_read_do_not_count():
    batch = {
        "encoder_image_masks": jnp.array([True, False, True]),
        "decoder_loss_weights": jnp.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]),
    }
    assert counted(batch).tolist() == [1, 0, 0]
