"""Loop and scan, rematerialization, conversion between the layouts, axis names."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.model import OFA
from ofa_jax.model.stacking import stack_layers, unstack_layers
from tests.model.small import CONFIG, jitted, make_batch, make_config, make_variables

KNOWN_AXES = {
    "vocab", "embed", "mlp", "heads", "joined_kv", "relpos_buckets", "abspos_buckets", "layers",
    "conv_in", "conv_out", "conv_h", "conv_w", None,
}  # fmt: skip


class Moments(NamedTuple):
    mu: dict
    nu: dict


def assert_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_conversion_is_lossless():
    variables = make_variables()
    stacked = stack_layers(variables)
    assert set(stacked["params"]["decoder"]) >= {"layers", "positions"}
    assert not any("layers_" in name for name in stacked["params"]["encoder"])
    assert_equal(unstack_layers(stacked), variables)
    assert_equal(stack_layers(unstack_layers(stacked)), stacked)


def test_conversion_of_optimizer_like_trees():
    params = make_variables()["params"]
    state = (Moments(params, jax.tree.map(jnp.square, params)), {"count": np.int32(3)}, [params])
    stacked = stack_layers(state)
    assert isinstance(stacked[0], Moments)
    assert_equal(unstack_layers(stacked), state)


def test_layer_numbers_without_gap():
    with pytest.raises(ValueError, match=r"numbered 0 to 1, got \[0, 2\]"):
        stack_layers({"layers_0": {"a": np.ones(2)}, "layers_2": {"a": np.ones(2)}})


def boxed(config):
    return jax.eval_shape(OFA(config).init, jax.random.key(0), make_batch())


def is_box(leaf):
    return isinstance(leaf, nn.LogicallyPartitioned)


def test_boxes_keep_their_names_through_the_conversion():
    init = jitted(OFA(CONFIG).init)
    looped = init(jax.random.key(0), make_batch())
    scanned = boxed(make_config(layer_stack="scan"))
    stacked = stack_layers(looped)

    def names(tree):
        return jax.tree.map(lambda box: (box.names, box.unbox().shape), tree, is_leaf=is_box)

    assert names(stacked) == names(scanned)
    assert names(unstack_layers(stacked)) == names(looped)


@pytest.mark.parametrize("stack", ["loop", "scan"])
def test_every_variable_has_known_axis_names(stack):
    leaves = jax.tree.leaves(boxed(make_config(layer_stack=stack)), is_leaf=is_box)
    for leaf in leaves:
        assert is_box(leaf)
        assert len(leaf.names) == leaf.unbox().ndim
        assert set(leaf.names) <= KNOWN_AXES
    assert any("vocab" in leaf.names for leaf in leaves)
    assert any("layers" in leaf.names for leaf in leaves) == (stack == "scan")


@functools.cache
def loss_and_gradients(config):
    variables = make_variables(CONFIG)
    if config.layer_stack == "scan":
        variables = stack_layers(variables)
    batch = make_batch(t=6, images=False)

    def loss(params):
        logits = OFA(config).apply({**variables, "params": params}, batch, train=True)
        return jnp.sum(jnp.sin(logits[..., :70]))

    return jitted(jax.value_and_grad(loss))(variables["params"])


@pytest.mark.parametrize(
    ("stack", "remat"),
    [
        pytest.param("scan", "none", marks=pytest.mark.slow),
        pytest.param("scan", "dots", marks=pytest.mark.slow),
        pytest.param("loop", "full", marks=pytest.mark.slow),
    ],
)
def test_layouts_and_policies_compute_the_same(stack, remat):
    expected_value, expected = loss_and_gradients(CONFIG)
    value, found = loss_and_gradients(make_config(layer_stack=stack, remat=remat))
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3),
        unstack_layers(found),
        expected,
    )


@pytest.mark.parametrize("stack", ["loop", "scan"])
def test_drop_path_rates_rise_from_zero(stack):
    """The first layer never drops, so one layer with any rate is deterministic."""
    config = make_config(
        layer_stack=stack,
        encoder_layers=1,
        decoder_layers=1,
        encoder_drop_path=0.9,
        decoder_drop_path=0.9,
        batch_norm="frozen",
    )
    variables, batch = make_variables(config), make_batch(b=2, t=3, images=False)
    forward = jitted(
        lambda key: OFA(config).apply(variables, batch, train=True, rngs={"dropout": key})
    )
    np.testing.assert_array_equal(*(forward(jax.random.key(i)) for i in range(2)))
