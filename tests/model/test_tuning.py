"""Prefixes, adapters and low-rank changes in the model; what is off changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.model import OFA
from ofa_jax.model.config import TuningConfig
from ofa_jax.model.tuning import (
    TRAINED,
    Prefix,
    frozen_except,
    merge_low_rank,
    prefix_weighted,
    prepend_prefix,
)
from ofa_jax.ops.attention import attention
from ofa_jax.training.optimizer import matching_paths, parameter_path
from tests.model.small import CONFIG, jitted, make_batch, make_config, make_variables
from tests.model.teacher_forcing import run_steps, teacher_forced

EVERYTHING = TuningConfig(
    encoder_prefix=3,
    decoder_prefix=4,
    prefix_hidden=5,
    adapter_dim=2,
    lora_rank=2,
    lora_targets=("query", "key", "value", "output", "expand", "contract"),
)
PREFIX = TuningConfig(encoder_prefix=3, decoder_prefix=4)
LORA = TuningConfig(lora_rank=2, lora_alpha=6, lora_targets=("query", "output", "expand"))


def paths_of(variables):
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return {parameter_path(path): leaf for path, leaf in leaves}


def test_each_part_adds_its_own_parameters_and_no_others():
    plain = paths_of(make_variables())
    assert not TuningConfig().is_on
    tuned = paths_of(make_variables(make_config(tuning=EVERYTHING)))
    assert set(plain) < set(tuned)
    for path in plain:
        assert tuned[path].shape == plain[path].shape
    added = set(tuned) - set(plain)
    compiled = matching_paths({"params": dict.fromkeys(added, 0)}, list(TRAINED.values())[:3])
    assert all(jax.tree.leaves(compiled))
    d, layers = CONFIG.width, 2
    assert tuned["encoder/prefix/table/embedding"].shape == (3, d)
    assert tuned["decoder/prefix/output/kernel"].shape == (5, 2 * layers * d)
    assert tuned["decoder/layers_1/adapter/down/kernel"].shape == (d, 2)
    assert tuned["encoder/layers_0/attention/value/lora_up"].shape == (2, d)
    only_prefix = paths_of(make_variables(make_config(tuning=PREFIX)))
    assert only_prefix["decoder/prefix/table/embedding"].shape == (4, 2 * layers * d)
    assert len(only_prefix) == len(plain) + 2


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"tuning": EVERYTHING}, id="loop"),
        pytest.param(
            {"tuning": PREFIX, "layer_stack": "scan", "attention": "fused"},
            id="scan",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_steps_with_tuned_parts_equal_teacher_forcing(changes):
    config, batch = make_config(**changes), make_batch(images=False)
    variables = make_variables(config)
    expected = teacher_forced(config, batch, variables)
    found = run_steps(config, batch, variables)
    np.testing.assert_allclose(found[:, 0], expected, atol=2e-5)


def test_a_prefix_is_seen_by_all_without_position_or_mask():
    rng = np.random.default_rng(0)
    b, t, h, k, m = 2, 5, 3, 4, 2
    query, key, value = rng.normal(size=(3, b, t, h, k)).astype(np.float32)
    bias = rng.normal(size=(1, h, t, t)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1] * 5], bool)
    prefix = Prefix(*rng.normal(size=(2, 1, m, h, k)).astype(np.float32))
    keys, values, _, longer_bias, longer_mask = prepend_prefix(prefix, key, value, None, bias, mask)
    logits = np.einsum("bthk,bnhk->bhtn", query * (2 * k) ** -0.5, key) + bias
    unseen = np.triu(np.ones((t, t), bool), 1)
    logits = np.where(unseen | ~mask[:, None, None], -np.inf, logits)
    front = np.einsum("bthk,mhk->bhtm", query * (2 * k) ** -0.5, prefix.key[0])
    weights = np.exp(np.concatenate([front, logits], -1))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhtm,mhk->bthk", weights[..., :m], prefix.value[0])
    expected += np.einsum("bhtn,bnhk->bthk", weights[..., m:], value)
    for implementation in ("xla", "fused"):
        found = attention(
            query,
            keys,
            values,
            bias=longer_bias,
            key_mask=longer_mask,
            causal=True,
            implementation=implementation,
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
    step = prefix_weighted(
        Prefix(prefix.key[0], prefix.value[0]),
        query[:, 2][:, None] * (2 * k) ** -0.5,
        jnp.asarray(np.where(np.isinf(logits), -1e9, logits))[:, :, 2][:, None],
        value.transpose(0, 2, 1, 3)[:, None],
    )
    np.testing.assert_allclose(step[:, 0], expected[:, 2], atol=1e-5)


def test_position_keys_concatenated_are_zero_on_a_prefix():
    batch = make_batch()
    orders = np.stack([np.random.default_rng(i).permutation(12) for i in range(4)])
    config = make_config(tuning=PREFIX)
    variables = make_variables(config)
    model = OFA(config)
    encode = jitted(lambda v, b, o=None: model.apply(v, b, patch_orders=o, method="encode").states)
    whole = encode(variables, batch)
    shuffled = encode(variables, batch, orders)
    back = np.stack([np.argsort(order) for order in orders])
    for row in (0, 1, 3):
        np.testing.assert_allclose(shuffled[row, :12][back[row]], whole[row, :12], atol=2e-5)


def test_a_new_low_rank_change_is_none_and_can_be_merged():
    batch = make_batch(images=False)
    config = make_config(tuning=LORA)
    model = OFA(config)
    fresh = jax.eval_shape(model.init, jax.random.key(0), make_batch())
    assert "lora_up" in str(jax.tree_util.tree_structure(fresh))
    variables = make_variables(config)
    merged = {**variables, "params": merge_low_rank(variables["params"], config)}
    expected = teacher_forced(config, batch, variables)
    np.testing.assert_allclose(teacher_forced(CONFIG, batch, merged), expected, atol=2e-5)

    def silenced(path, leaf):
        return np.zeros_like(leaf) if path[-1].key == "lora_up" else leaf

    silent = jax.tree_util.tree_map_with_path(silenced, variables)
    plain = {**silent, "params": merge_low_rank(silent["params"], config)}
    np.testing.assert_array_equal(
        teacher_forced(config, batch, silent), teacher_forced(CONFIG, batch, plain)
    )
    assert not np.allclose(expected, teacher_forced(CONFIG, batch, plain), atol=1e-2)


def test_bitfit_trains_the_official_biases():
    paths = list(paths_of(make_variables()))
    frozen = matching_paths(dict.fromkeys(paths, 0), [frozen_except("bitfit")])
    trained = {path for path in paths if not frozen[path]}
    expected = {"encoder/final_norm/bias", "decoder/final_norm/bias"}
    for stack, norms in (
        ("encoder", ("attention_norm",)),
        ("decoder", ("self_attention_norm", "cross_attention_norm")),
    ):
        for layer in range(2):
            root = f"{stack}/layers_{layer}"
            expected |= {f"{root}/{norm}/bias" for norm in (*norms, "feedforward_norm")}
            expected |= {f"{root}/feedforward/{name}/bias" for name in ("expand", "contract")}
    assert trained == expected


def test_prefix_dropout_differs_per_sample():
    config = make_config(tuning=TuningConfig(encoder_prefix=8, prefix_dropout=0.5))
    batch = {name: np.repeat(x[:1], 2, 0) for name, x in make_batch(images=False).items()}
    variables = make_variables(config)
    model = OFA(config)

    def states(key):
        rngs = {"dropout": key}
        return model.apply(variables, batch, train=True, method="encode", rngs=rngs).states

    found = jitted(states)(jax.random.key(0))
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapter_dim": -1}, "adapter_dim must be a whole number from 0"),
        ({"prefix_dropout": 1.0}, "prefix_dropout must be a rate"),
        ({"lora_targets": ("query", "head")}, "lora_targets must be some of"),
        ({"lora_targets": "query"}, "lora_targets must be a list, each a text"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        TuningConfig(**fields)


def test_unknown_methods_are_named():
    with pytest.raises(ValueError, match=r"methods .*prefix, adapter"):
        frozen_except("houlsby")
