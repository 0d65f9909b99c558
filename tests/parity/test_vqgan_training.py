"""The training of the image tokenizer against the official classes: discriminator, losses, LPIPS.

The fixture is the one of `test_vqgan`; its whole step is that of the official loss over the plain
model, at the step before the discriminator starts and at the first with it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.checkpoint.perceptual import lpips_of
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.checkpoint.vqgan import discriminator_state_dict, to_discriminator, to_state_dict
from ofa_jax.losses import adversarial
from ofa_jax.losses.perceptual import VGG16_BLOCKS, feature_distance, scaled
from ofa_jax.model.vqgan.discriminator import PatchDiscriminator
from ofa_jax.training.image_tokenizer import (
    ImageTokenizerConfig,
    TokenizerNetworks,
    tokenizer_gradients,
)
from ofa_jax.training.schedule import ScheduleConfig, build_schedule
from tests.parity.test_vqgan import (
    DIRECTORY,
    cases,
    channels_last,
    facts,
    official_config,
    variables,
)
from tests.parity.tolerances import (
    ADAPTIVE_WEIGHT,
    DISCRIMINATOR_SCORE,
    TEMPERATURE,
    VQGAN_GRADIENT,
    VQGAN_LOSS,
)

DISCRIMINATOR = PatchDiscriminator(channels=8, layers=3)
LOSSES = ImageTokenizerConfig(
    discriminator_weight=0.8, discriminator_start=100, discriminator_channels=8
)


@functools.cache
def discriminator():
    weights = {
        name.removeprefix("disc."): values.astype(np.float32)
        for name, values in np.load(DIRECTORY / "weights.npz").items()
        if name.startswith("disc.")
    }
    init = functools.partial(DISCRIMINATOR.init, train=False)
    made = nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), np.zeros((1, 64, 64, 3))))
    params, statistics = to_discriminator(weights, made["params"], made["batch_stats"])
    return weights, {"params": params, "batch_stats": statistics}


def test_names_of_the_discriminator_are_the_official_ones():
    weights, found = discriminator()
    back = discriminator_state_dict(found["params"], found["batch_stats"])
    assert set(back) == set(weights)
    for name, values in back.items():
        np.testing.assert_array_equal(values, weights[name])
    with pytest.raises(ValueError, match="lacks main"):
        to_discriminator({}, found["params"], found["batch_stats"])
    other = {**weights, "main.0.weight": np.zeros((9, 3, 4, 4), np.float32)}
    with pytest.raises(ValueError, match=r"main\.0\.weight .*architecture"):
        to_discriminator(other, found["params"], found["batch_stats"])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scores_and_losses(mode):
    _, found = discriminator()
    statistics, scores = found["batch_stats"], {}
    for kind, name in (("real", "sq64.in.image"), ("fake", "disc.fake")):
        scores[kind], updated = DISCRIMINATOR.apply(
            {"params": found["params"], "batch_stats": statistics},
            channels_last(name),
            train=mode == "train",
            mutable=["batch_stats"],
        )
        expected = channels_last(f"disc.{mode}.logits_{kind}")
        np.testing.assert_allclose(scores[kind], expected, rtol=0, atol=DISCRIMINATOR_SCORE)
        if mode == "train":
            statistics = updated["batch_stats"]
            if kind == "real":
                for ours, official in (("mean", "mean"), ("var", "var")):
                    expected = cases()[f"disc.train.running_{official}_3_after_real"]
                    np.testing.assert_allclose(statistics["norm_1"][ours], expected, atol=1e-6)
    expected = facts()["losses"][mode]
    for kind in ("hinge", "vanilla"):
        loss = adversarial.discriminator_loss(scores["real"], scores["fake"], kind)
        assert loss == pytest.approx(expected[kind], abs=VQGAN_LOSS)
    assert adversarial.generator_loss(scores["fake"]) == pytest.approx(
        expected["g_loss"], abs=VQGAN_LOSS
    )


@functools.cache
def step_program():
    networks = TokenizerNetworks(official_config("nearest"), LOSSES)

    @jax.jit
    def run(params, statistics, images, step):
        found = tokenizer_gradients(
            networks, None, params, statistics, images, jnp.ones(len(images)), step
        )
        return found.metrics, found.gradients, found.uses

    return run


@pytest.mark.slow  # compiles the backward pass of the whole autoencoder
@pytest.mark.parametrize("step", [99, 100])
def test_the_whole_step(step):
    _, of_discriminator = discriminator()
    params = {
        "autoencoder": variables("nearest")["params"],
        "discriminator": of_discriminator["params"],
    }
    metrics, gradients, uses = step_program()(
        params, of_discriminator["batch_stats"], channels_last("sq64.in.image"), step
    )
    expected = facts()["losses"][f"full_step{step}"]
    for name, value in (
        ("loss", expected["gen"]["total_loss"]),
        ("image/reconstruction", expected["gen"]["nll_loss"]),
        ("image/codebook", expected["gen"]["quant_loss"]),
        ("image/generator", expected["gen"]["g_loss"]),
        ("image/discriminator", expected["disc"]["disc_loss"]),
        ("image/score_real", expected["disc"]["logits_real"]),
        ("image/score_fake", expected["disc"]["logits_fake"]),
    ):
        assert metrics[name] == pytest.approx(value, abs=VQGAN_LOSS), name
    weight = metrics["image/adversarial_weight"]
    assert weight == pytest.approx(expected["gen"]["d_weight"], rel=ADAPTIVE_WEIGHT)
    assert uses.sum() == 2 * 8 * 8
    official = to_state_dict(gradients["autoencoder"], official_config("nearest"))
    for name, key in (("decoder.conv_out", "conv_out"), ("encoder.conv_in", "encoder_conv_in")):
        norm = np.linalg.norm(official[f"{name}.weight"])
        assert norm == pytest.approx(expected[f"grad_norm_{key}"], rel=VQGAN_GRADIENT)
    still = [np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(gradients["discriminator"])]
    assert all(still) == (step == 99)


def test_lpips():
    weights = np.load(DIRECTORY / "weights.npz")
    channels = [
        weights[f"lpips.lin{i}.model.1.weight"].astype(np.float32).ravel() for i in range(5)
    ]
    maps = [[channels_last(f"lpips.feat{side}_{i}") for i in range(5)] for side in (0, 1)]
    found = feature_distance(*maps, channels)
    np.testing.assert_allclose(found, cases()["lpips.value"].ravel(), rtol=0, atol=VQGAN_LOSS)
    image = channels_last("sq64.in.image")[:1, :4, :4]
    expected = channels_last("lpips.scaled_input")
    np.testing.assert_allclose(scaled(image), expected, rtol=0, atol=1e-6)


@pytest.mark.slow  # compiles all of VGG16; the distance has its parity above
def test_lpips_of_files():
    rng, tensors, inputs = np.random.default_rng(0), {}, 3
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    for place, width in zip(places, (w for block in VGG16_BLOCKS for w in block), strict=True):
        kernel = rng.normal(0, (2 / 9 / inputs) ** 0.5, (width, inputs, 3, 3))
        tensors[f"features.{place}.weight"] = kernel.astype(np.float32)
        tensors[f"features.{place}.bias"] = np.zeros(width, np.float32)
        inputs = width
    for index, block in enumerate(VGG16_BLOCKS):
        tensors[f"loss.perceptual_loss.lin{index}.model.1.weight"] = np.ones((1, block[-1], 1, 1))
    distance = lpips_of(tensors)
    images = rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    maps = distance.features(images)
    assert [one.shape for one in maps] == [
        (2, 16 >> index, 16 >> index, block[-1]) for index, block in enumerate(VGG16_BLOCKS)
    ]
    assert distance(images, images).tolist() == [0, 0]
    gradient = jax.grad(lambda x: distance(images, x).sum())(images)
    assert np.abs(gradient).max() == 0  # the nearest image; and no NaN where features are 0
    assert (distance(images, images[::-1]) > 0.1).all()
    del tensors["features.28.weight"]
    with pytest.raises(CheckpointFileError, match=r"13 convolutions of VGG16 .* found 12"):
        lpips_of(tensors)


def test_temperature():
    released = facts()["released_f8_8192"]["temperature"]
    expected = facts()["temperature_schedule"]
    for params, values in (
        (released, expected["released"]),
        (expected["other"]["params"], expected["other"]["values"]),
    ):
        config = ScheduleConfig(
            peak=params["lr_max"],
            shape="cosine",
            start=params["lr_start"],
            end=params["lr_min"],
            warmup_steps=params["warm_up_steps"],
            total_steps=params["max_decay_steps"],
        )
        found = build_schedule(config)(np.array([int(step) for step in values]))
        np.testing.assert_allclose(found, list(values.values()), rtol=0, atol=TEMPERATURE)
