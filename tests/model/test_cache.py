"""Incremental decoding: the cache against teacher forcing."""

import jax
import numpy as np
import pytest

from ofa_jax.model import OFA
from tests.model.small import CONFIG, make_batch, make_config, make_variables
from tests.model.teacher_forcing import BEAMS, run_steps, teacher_forced


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="loop"),
        pytest.param({"layer_stack": "scan"}, id="scan"),
        pytest.param({"scale_resids": True}, id="resid", marks=pytest.mark.slow),
    ],
)
def test_steps_equal_teacher_forcing(changes):
    config, batch = make_config(**changes), make_batch(images=False)
    variables = make_variables(config)
    found = run_steps(config, batch, variables)
    expected = teacher_forced(config, batch, variables)
    for beam in range(BEAMS - 1):
        np.testing.assert_allclose(found[:, beam], expected, atol=2e-5)
    assert not np.allclose(found[:, -1, -1], expected[:, -1], atol=1e-2)


def test_steps_with_sampled_patches():
    batch, variables = make_batch(), make_variables()
    orders = np.stack([np.random.default_rng(i).permutation(12)[:5] for i in range(4)])
    found = run_steps(CONFIG, batch, variables, patch_orders=orders)
    expected = teacher_forced(CONFIG, batch, variables, patch_orders=orders)
    np.testing.assert_allclose(found[:, 0], expected, atol=2e-5)


def test_reordered_beams_carry_their_cache():
    batch, variables = make_batch(t=4, images=False), make_variables()
    plain = run_steps(CONFIG, batch, variables)
    swapped = run_steps(CONFIG, batch, variables, order=np.array([1, 0, 2]))
    # Beams 0 and 1 hold the same tokens, so exchanging their caches changes nothing.
    np.testing.assert_allclose(swapped, plain, atol=1e-6)
    mixed = run_steps(CONFIG, batch, variables, order=np.array([2, 1, 0]))
    assert not np.allclose(mixed[:, 0, -1], plain[:, 0, -1], atol=1e-2)


def test_cross_keys_are_not_repeated_per_beam():
    batch, variables = make_batch(), make_variables()
    model = OFA(CONFIG)

    def caches(variables, batch):
        encoded = model.apply(variables, batch, method="encode")
        return [
            model.apply(variables, encoded, beams=g, max_length=6, method="init_cache")
            for g in (1, 4)
        ]

    one, four = jax.eval_shape(caches, variables, batch)
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(four["self"])} == {(4, 4)}
    shapes = [jax.tree.map(lambda leaf: leaf.shape, cache) for cache in (one, four)]
    for part in ("cross", "position"):
        assert shapes[0][part] == shapes[1][part]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(four["cross"])} == {4}


def test_missing_code_masks_mean_text():
    batch, variables = make_batch(t=3, images=False), make_variables()
    inputs = {**batch, "decoder_code_masks": np.zeros(4, bool)}
    without = {name: value for name, value in batch.items() if name != "decoder_code_masks"}
    first, second = (teacher_forced(CONFIG, b, variables) for b in (inputs, without))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_too_long_a_cache_is_named():
    model, variables = OFA(CONFIG), make_variables()
    encoded = jax.eval_shape(lambda b: model.apply(variables, b, method="encode"), make_batch())

    def start(encoded):
        return model.apply(variables, encoded, beams=1, max_length=50, method="init_cache")

    with pytest.raises(ValueError, match=r"decoder_input_tokens .*50"):
        jax.eval_shape(start, encoded)
