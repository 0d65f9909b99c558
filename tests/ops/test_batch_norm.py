"""Batch norm by the batch's statistics: both implementations against float64, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.ops.batch_norm import batch_norm

EPS = 1e-5
SHAPES = [(3, 4, 5, 6), (1, 1, 7, 2), (2, 3, 1, 1)]


def inputs(shape, mean=0.5, deviation=2.0):
    rng = np.random.default_rng(0)
    x = (mean + deviation * rng.standard_normal(shape)).astype(np.float32)
    scale, bias, weights = (rng.standard_normal(s) for s in (shape[-1], shape[-1], shape))
    return x, *(np.float32(a) for a in (scale, bias, weights))


def exact(x, scale, bias):
    x = x.astype(np.float64)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + EPS) * scale + bias, mean, variance


def exact_gradients(x, scale, weights):
    normalized = exact(x, 1.0, 0.0)[0]
    to_bias, to_scale = weights.sum((0, 1, 2)), (weights * normalized).sum((0, 1, 2))
    factor = scale / np.sqrt(x.astype(np.float64).var((0, 1, 2)) + EPS)
    count = np.prod(x.shape[:3])
    return factor * (weights - (to_bias + normalized * to_scale) / count), to_scale, to_bias


def gradients(x, scale, bias, weights, implementation):
    def loss(x, scale, bias):
        return jnp.sum(
            weights * batch_norm(x, scale, bias, eps=EPS, implementation=implementation)[0]
        )

    return jax.jit(jax.grad(loss, (0, 1, 2)))(x, scale, bias)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("implementation", ["auto", "one_pass", "xla"])
def test_values_and_gradients(implementation, shape):
    x, scale, bias, weights = inputs(shape)
    found = batch_norm(x, scale, bias, eps=EPS, implementation=implementation)
    for ours, right in zip(found, exact(x, scale, bias), strict=True):
        np.testing.assert_allclose(ours, right, atol=1e-5)
    found = gradients(x, scale, bias, weights, implementation)
    for ours, right in zip(found, exact_gradients(x, scale, weights), strict=True):
        np.testing.assert_allclose(ours, right, atol=1e-4)


def test_a_mean_far_above_the_deviation_costs_no_digits():
    # E[x^2] - E[x]^2 would have no digit of this variance: 1e8 is known to 10 in float32.
    x, scale, bias, weights = inputs((4, 16, 16, 3), mean=1e4, deviation=1.0)
    y, mean, variance = batch_norm(x, scale, bias, eps=EPS, implementation="one_pass")
    right, right_mean, right_variance = exact(x, scale, bias)
    np.testing.assert_allclose(variance, right_variance, rtol=2e-5)
    np.testing.assert_allclose(mean, right_mean, rtol=1e-7)
    np.testing.assert_allclose(y, right, atol=5e-5)
    found = gradients(x, scale, bias, weights, "one_pass")
    for ours, expected in zip(found, exact_gradients(x, scale, weights), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("implementation", ["one_pass", "xla"])
def test_a_constant_channel_is_the_bias(implementation):
    x, bias = jnp.full((2, 4, 4, 1), 1234.5), jnp.array([0.25])
    y, _, variance = batch_norm(x, jnp.ones(1), bias, eps=EPS, implementation=implementation)
    np.testing.assert_allclose(y, 0.25, atol=1e-3)
    np.testing.assert_allclose(variance, 0.0, atol=1e-6)


def test_half_precision_in_and_out_statistics_in_float32():
    x, scale, bias, _ = inputs((2, 8, 8, 4))
    x = jnp.asarray(x, jnp.bfloat16)
    y, mean, variance = batch_norm(x, scale, bias, eps=EPS)
    assert (y.dtype, mean.dtype, variance.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_allclose(
        np.asarray(y, np.float32), exact(np.asarray(x, np.float32), scale, bias)[0], atol=0.05
    )


def test_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="magic"):
        batch_norm(
            jnp.ones((1, 1, 1, 1)), jnp.ones(1), jnp.ones(1), eps=EPS, implementation="magic"
        )
