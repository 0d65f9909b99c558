"""Convolution and pooling: both implementations against each other and against a plain sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.ops.conv import conv2d, max_pool, symmetric_padding

SHAPES = [
    # image side, channels, kernel, stride, features
    (16, 3, 7, 2, 4),
    (15, 3, 5, 2, 4),
    (8, 4, 3, 1, 6),
    (8, 4, 3, 2, 6),
    (8, 5, 1, 1, 3),
    (9, 5, 1, 2, 3),
    (8, 3, 4, 4, 2),
]


def inputs(side, channels, kernel, features):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, side, side + 2, channels)).astype(np.float32)
    weights = rng.normal(size=(kernel, kernel, channels, features)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(weights)


def plain(images, weights, stride, padding):
    """Loops over output pixels."""
    images = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    k = weights.shape[0]
    rows = range(0, images.shape[1] - k + 1, stride)
    columns = range(0, images.shape[2] - k + 1, stride)
    return np.stack(
        [
            np.stack(
                [
                    np.einsum("byxc,yxco->bo", images[:, y : y + k, x : x + k], weights)
                    for x in columns
                ],
                axis=1,
            )
            for y in rows
        ],
        axis=1,
    )


@pytest.mark.parametrize(("side", "channels", "kernel", "stride", "features"), SHAPES)
@pytest.mark.parametrize("implementation", ["xla", "matmul", "mixed", "auto"])
def test_equals_the_plain_sum(side, channels, kernel, stride, features, implementation):
    images, weights = inputs(side, channels, kernel, features)
    padding = symmetric_padding(kernel, stride)
    found = conv2d(images, weights, stride=stride, padding=padding, implementation=implementation)
    expected = plain(np.asarray(images), np.asarray(weights), stride, padding)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(("side", "channels", "kernel", "stride", "features"), SHAPES)
def test_gradients_of_all_agree(side, channels, kernel, stride, features):
    images, weights = inputs(side, channels, kernel, features)

    def loss(images, weights, implementation):
        padding = symmetric_padding(kernel, stride)
        out = conv2d(images, weights, stride=stride, padding=padding, implementation=implementation)
        return jnp.sum(jnp.sin(out))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    right = gradient(images, weights, "xla")
    for name in ("matmul", "mixed"):
        for a, b in zip(gradient(images, weights, name), right, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_padding_is_pytorchs():
    assert symmetric_padding(7, 2) == 3
    assert symmetric_padding(3, 1) == symmetric_padding(3, 2) == 1
    assert symmetric_padding(1, 1) == symmetric_padding(1, 2) == symmetric_padding(4, 4) == 0


def test_unknown_implementation_is_named():
    images, weights = inputs(8, 3, 3, 2)
    with pytest.raises(ValueError, match="magic"):
        conv2d(images, weights, implementation="magic")


@pytest.mark.parametrize("side", [8, 9])
def test_pooling_of_both_agrees(side):
    images, _ = inputs(side, 4, 1, 1)
    found = [max_pool(images, implementation=name) for name in ("xla", "matmul")]
    assert found[0].shape == (2, (side + 1) // 2, (side + 3) // 2, 4)
    np.testing.assert_array_equal(*found)
    # The first window is padded by a row and a column that never win.
    np.testing.assert_array_equal(found[0][:, 0, 0], images[:, :2, :2].max(axis=(1, 2)))
    gradients = [
        jax.grad(lambda x, n=name: jnp.sum(jnp.sin(max_pool(x, implementation=n))))(images)
        for name in ("xla", "matmul")
    ]
    np.testing.assert_allclose(*gradients, atol=1e-6)


def test_a_kernel_of_one_pixel_is_a_product_at_every_size_on_a_cpu():
    images = jax.ShapeDtypeStruct((2, 160, 160, 64), jnp.float32)
    for side, is_product in ((1, True), (3, False)):
        kernel = jax.ShapeDtypeStruct((side, side, 64, 64), jnp.float32)
        program = str(jax.make_jaxpr(conv2d)(images, kernel))
        assert ("conv_general_dilated" not in program) is is_product
    assert "reduce_window" not in str(jax.make_jaxpr(max_pool)(images))
