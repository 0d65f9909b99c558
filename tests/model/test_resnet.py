"""The stem: shapes, the three modes of batch norm, drop path."""

import dataclasses

import jax
import numpy as np
import pytest

from ofa_jax.model.flops import patch_grid
from ofa_jax.model.resnet import BatchNorm, ResNet
from tests.model.small import CONFIG, jitted, make_config, make_variables

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 24, 3)).astype(np.float32)


def stem_variables(config=CONFIG):
    variables = make_variables(config)
    return {name: tree["encoder"]["resnet"] for name, tree in variables.items()}


def features_of(config):
    return jitted(ResNet(config).apply)(stem_variables(), IMAGES)


def test_one_patch_per_stride():
    features = features_of(CONFIG)
    assert features.shape == (3, 4, 3, 24)
    assert patch_grid(CONFIG, 32, 24) == (4, 3)
    assert CONFIG.resnet.stride == 8


@pytest.mark.parametrize("implementation", ["xla", "matmul"])
def test_convolutions_agree_through_the_stem(implementation):
    config = make_config(conv=implementation)
    np.testing.assert_allclose(features_of(config), features_of(CONFIG), atol=1e-4)


def normalized(mode, train, mutable):
    config = make_config(batch_norm=mode)
    rng = np.random.default_rng(1)
    x = 2 * rng.normal(size=(4, 3, 5, 6)).astype(np.float32) + 1
    params = {"scale": rng.normal(size=6), "bias": rng.normal(size=6)}
    statistics = {"mean": rng.normal(size=6), "var": rng.uniform(0.5, 2, size=6)}
    variables = jax.tree.map(np.float32, {"params": params, "batch_stats": statistics})
    out = BatchNorm(config).apply(variables, x, train, mutable=mutable)
    return x, variables, out


def test_batch_mode_uses_the_batch_and_moves_the_running_statistics():
    x, variables, (y, updated) = normalized("batch", True, ["batch_stats"])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    params, before = variables["params"], variables["batch_stats"]
    expected = (x - mean) / np.sqrt(variance + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-5)
    count = 4 * 3 * 5
    after = updated["batch_stats"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-6)
    unbiased = variance * count / (count - 1)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * unbiased, rtol=1e-5)


@pytest.mark.parametrize(("mode", "train"), [("batch", False), ("frozen", False), ("frozen", True)])
def test_running_statistics(mode, train):
    x, variables, y = normalized(mode, train, False)
    params, running = variables["params"], variables["batch_stats"]
    expected = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5)
    np.testing.assert_allclose(y, expected * params["scale"] + params["bias"], atol=1e-5)


def test_frozen_norm_is_constant_but_convolutions_learn():
    config = make_config(batch_norm="frozen")
    variables = stem_variables()

    def loss(params):
        return ResNet(config).apply({**variables, "params": params}, IMAGES, True).sum()

    gradients = jitted(jax.grad(loss))(variables["params"])
    assert not np.any(gradients["stem_norm"]["scale"])
    assert np.any(gradients["stem"]["kernel"])


def test_eps_is_configurable():
    x, variables, y = normalized("batch", False, False)
    config = dataclasses.replace(CONFIG, batch_norm_eps=1e-3)
    assert not np.allclose(BatchNorm(config).apply(variables, x, False), y, atol=1e-5)


def test_first_block_of_a_stage_never_drops():
    config = make_config(resnet_drop_path=0.9)
    variables = stem_variables()

    def train(config, variables, rngs):
        return ResNet(config).apply(variables, IMAGES, True, mutable=["batch_stats"], rngs=rngs)[0]

    forward = jitted(lambda key: train(config, variables, {"dropout": key}))
    outputs = [forward(jax.random.key(seed)) for seed in range(2)]
    assert not np.allclose(*outputs)
    one_block = dataclasses.replace(
        config, resnet=dataclasses.replace(config.resnet, stage_blocks=(1, 1))
    )
    variables = stem_variables(one_block)
    # No random stream is given, and none is asked for.
    assert np.isfinite(jitted(lambda: train(one_block, variables, {}))()).all()


def test_recomputed_blocks_give_the_same_gradients_and_statistics():
    variables = stem_variables()

    def gradients_of(remat):
        config = make_config(remat=remat, resnet_drop_path=0.5)

        def loss(params):
            features, updated = ResNet(config).apply(
                {**variables, "params": params},
                IMAGES,
                True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(1)},
            )
            return (features**2).sum(), updated

        gradient = jax.grad(loss, has_aux=True)
        recomputed = "remat" in str(jax.make_jaxpr(gradient)(variables["params"]))
        return recomputed, jitted(gradient, fused=True)(variables["params"])

    is_recomputed, expected = gradients_of("none")
    assert not is_recomputed
    is_recomputed, found = gradients_of("full")
    assert is_recomputed
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )
