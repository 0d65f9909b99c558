"""The name map: both directions, for every kind of tensor."""

import jax
import numpy as np
import pytest

from ofa_jax.checkpoint.agreement import variable_shapes
from ofa_jax.checkpoint.names import (
    TIED_COPIES,
    TOKEN_EMBEDDING,
    entries,
    missing_names,
    to_params,
    to_state_dict,
)
from ofa_jax.model.stacking import stack_layers
from tests.model.small import CONFIG, make_config, make_variables
from tests.parity.fixture import Fixture
from tests.shared import fixtures_dir


def assert_trees_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def without_padding(variables):
    embedding = variables["params"]["token_embedding"]["embedding"].copy()
    embedding[CONFIG.vocab_size :] = 0
    params = {**variables["params"], "token_embedding": {"embedding": embedding}}
    return {**variables, "params": params}


@pytest.mark.parametrize("changes", [{}, {"layer_stack": "scan"}, {"scale_resids": True}])
def test_round_trip(changes):
    config = make_config(**changes)
    variables = without_padding(make_variables(config))
    state_dict = to_state_dict(variables, config)
    assert_trees_equal(to_params(state_dict, config), variables)
    assert missing_names(state_dict, config) == []


def test_every_variable_has_exactly_one_name():
    listed = entries(CONFIG)
    assert len({entry.official for entry in listed}) == len(listed)
    assert len({entry.path for entry in listed}) == len(listed)
    leaves = jax.tree_util.tree_leaves_with_path(make_variables())
    shapes = {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}
    assert variable_shapes(CONFIG) == shapes


def test_values_go_to_the_right_places():
    state_dict = to_state_dict(make_variables(), CONFIG)
    variables = to_params(state_dict, CONFIG)
    params = variables["params"]
    rows = state_dict[TOKEN_EMBEDDING]
    assert rows.shape == (70, 24)
    embedding = params["token_embedding"]["embedding"]
    assert embedding.shape == (128, 24)
    # Officially bos is 0 and pad 1; ours are pad 0 and bos 1.
    np.testing.assert_array_equal(embedding[[0, 1, 2, 69]], rows[[1, 0, 2, 69]])
    assert not embedding[70:].any()
    for name in TIED_COPIES:
        assert state_dict[name] is rows
    fc1 = state_dict["encoder.layers.1.fc1.weight"]
    assert fc1.shape == (40, 24)
    ours = params["encoder"]["layers_1"]["feedforward"]["expand"]["kernel"]
    np.testing.assert_array_equal(ours, fc1.T)
    conv = state_dict["encoder.embed_images.layer2.1.conv2.weight"]
    ours = params["encoder"]["resnet"]["stage2_block1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(ours, conv.transpose(2, 3, 1, 0))
    mean = state_dict["encoder.embed_images.layer1.0.downsample.1.running_mean"]
    ours = variables["batch_stats"]["encoder"]["resnet"]["stage1_block0"]["shortcut_norm"]["mean"]
    np.testing.assert_array_equal(ours, mean)


def test_missing_names_are_listed_or_filled():
    state_dict = dict(to_state_dict(make_variables(), CONFIG))
    name = "decoder.layers.0.cross_attn_ln.weight"
    del state_dict[name]
    assert missing_names(state_dict, CONFIG) == [name]
    with pytest.raises(KeyError, match=name):
        to_params(state_dict, CONFIG)
    for config in (CONFIG, make_config(layer_stack="scan")):
        defaults = jax.tree.map(lambda x: x + 5, make_variables())
        if config.layer_stack == "scan":
            defaults = stack_layers(defaults)
        filled = to_state_dict(to_params(state_dict, config, defaults=defaults), config)
        expected = to_state_dict(defaults, config)[name]
        np.testing.assert_array_equal(filled[name], expected)


def test_wrong_shapes_are_named():
    state_dict = dict(to_state_dict(make_variables(), CONFIG))
    state_dict[TOKEN_EMBEDDING] = np.zeros((71, 24), np.float32)
    with pytest.raises(ValueError, match="71 rows"):
        to_params(state_dict, CONFIG)
    state_dict[TOKEN_EMBEDDING] = np.zeros((70, 24), np.float32)
    state_dict["encoder.layers.0.fc1.weight"] = np.zeros((3, 24), np.float32)
    with pytest.raises(ValueError, match=r"encoder\.layers\.0\.fc1\.weight"):
        to_params(state_dict, CONFIG, defaults=make_variables())


@pytest.mark.parametrize("stack", ["loop", "scan"])
def test_official_state_dict_comes_back_whole(stack):
    fixture = Fixture(fixtures_dir() / "mini")
    config = fixture.case("text_only").model_config(layer_stack=stack)
    original = fixture.state_dict()
    exported = to_state_dict(to_params(original, config), config)
    listed = fixture.optional_json("state_dict.json")
    assert set(exported) == set(listed)
    for name, entry in listed.items():
        assert list(exported[name].shape) == entry["shape"], name
        assert str(exported[name].dtype) == entry["dtype"], name
    for name, array in original.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(exported[name], array, err_msg=name)
