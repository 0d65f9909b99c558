"""Norm, gelu, dense products, dropout: values and written-out gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.model import layers


def sample(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain_norm(x, scale, bias):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias


def test_layer_norm_and_its_gradient():
    x, scale, bias = 3 * sample(4, 5, 16) + 1, sample(16, seed=1), sample(16, seed=2)
    np.testing.assert_allclose(
        layers.layer_norm(x, scale, bias), plain_norm(x, scale, bias), atol=2e-6
    )

    def gradients(function):
        def loss(*arguments):
            return jnp.sum(jnp.sin(function(*arguments)))

        return jax.grad(loss, argnums=(0, 1, 2))(x, scale, bias)

    for ours, plain in zip(gradients(layers.layer_norm), gradients(plain_norm), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_layer_norm_of_a_constant_row_is_the_bias():
    x = jnp.full((2, 8), 1000.1)
    found = layers.layer_norm(x, jnp.ones(8), jnp.full(8, 0.5))
    np.testing.assert_allclose(found, 0.5, atol=0.2)
    assert np.isfinite(
        jax.grad(lambda v: layers.layer_norm(v, jnp.ones(8), jnp.ones(8)).sum())(x)
    ).all()


def test_gelu_and_its_gradient():
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(layers.gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)
    ours, plain = (
        jax.vmap(jax.grad(function))(x)
        for function in (layers.gelu, lambda v: jax.nn.gelu(v, approximate=False))
    )
    np.testing.assert_allclose(ours, plain, atol=1e-6)
    assert layers.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout(rate):
    x = jnp.ones((200, 100))
    dropped = np.asarray(layers.dropout(x, rate, jax.random.key(0)))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / (1 - rate))}
    assert (dropped == 0).mean() == pytest.approx(rate, abs=0.015)
    assert layers.dropout(x, 0.0, jax.random.key(0)) is x


def test_drop_path_drops_whole_samples():
    x = jnp.ones((2000, 2, 3))
    dropped = np.asarray(layers.drop_path(x, 0.25, jax.random.key(0)))
    rows = dropped.reshape(2000, -1)
    assert (rows == rows[:, :1]).all()
    assert (rows[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.04)
    np.testing.assert_allclose(rows.max(), 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(layers.drop_path(x, 0.0, jax.random.key(0)), x)


def test_parallel_dense_equals_each_layer():
    x = sample(2, 3, 8)
    parts = [layers.Dense(5, ("embed", "joined_kv"), 0.3) for _ in range(3)]
    variables = [part.init(jax.random.key(i), x) for i, part in enumerate(parts)]
    bound = [part.bind(v) for part, v in zip(parts, variables, strict=True)]
    together = layers.parallel_dense(bound, x)
    for part, y in zip(bound, together, strict=True):
        np.testing.assert_allclose(y, part(x), atol=1e-6)


def test_initial_scales():
    assert layers.dense_scale(768, 3072, 768) == layers.embedding_scale(256) == 0.02
    assert layers.embedding_scale(96) == pytest.approx(0.102, abs=1e-3)
    assert layers.dense_scale(96, 96, 96) == pytest.approx(96**-0.5)
