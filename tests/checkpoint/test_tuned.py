"""Tuned parts: official names, new parts on old weights, and the small file of what was trained."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from ofa_jax.checkpoint import names, tuned
from ofa_jax.checkpoint.fingerprint import check_fingerprint, write_fingerprint
from ofa_jax.checkpoint.huggingface_names import config_to_huggingface
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.layout import expected_shapes, infer_tuning
from ofa_jax.checkpoint.orbax_weights import (
    SourceRecord,
    read_model_config,
    write_model_config,
    write_weights,
)
from ofa_jax.checkpoint.repairs import CheckpointMismatchError
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.model.config import TuningConfig
from ofa_jax.model.stacking import stack_layers
from ofa_jax.model.tuning import frozen_except
from tests.model import small
from tests.model.small import CONFIG, make_config

ALL = TuningConfig(
    encoder_prefix=3,
    decoder_prefix=4,
    prefix_hidden=5,
    adapter_dim=2,
    lora_rank=2,
    lora_targets=("contract", "key", "output"),
)


def make_variables(config=CONFIG, seed=0):
    """Random variables; rows that fill up the embedding are zero, as after any conversion."""
    variables = jax.tree.map(np.copy, small.make_variables(config, seed))
    variables["params"]["token_embedding"]["embedding"][config.vocab_size :] = 0
    return variables


def assert_equal(first, second):
    assert jax.tree_util.tree_structure(first) == jax.tree_util.tree_structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_official_names_hold_every_tuned_part():
    config = make_config(tuning=ALL)
    variables = make_variables(config)
    state_dict = names.to_state_dict(variables, config)
    expected = expected_shapes(config)
    found = {name: array.shape for name, array in state_dict.items() if name in expected}
    assert found == expected
    assert state_dict["decoder.decoder_prompt_encoder.embedding.weight"].shape == (4, CONFIG.width)
    assert state_dict["encoder.layers.1.adapter.down_proj.weight"].shape == (2, CONFIG.width)
    lora = state_dict["decoder.layers.0.encoder_attn.k_proj.lora_A.weight"]
    np.testing.assert_array_equal(
        lora.T, variables["params"]["decoder"]["layers_0"]["cross_attention"]["key"]["lora_down"]
    )
    assert_equal(names.to_params(state_dict, config), variables)
    shapes = {name: array.shape for name, array in state_dict.items()}
    assert infer_tuning(shapes) == ALL
    plain = make_variables()
    without = {n: a.shape for n, a in names.to_state_dict(plain, CONFIG).items()}
    assert not infer_tuning(without).is_on


def test_huggingface_directories_have_no_tuned_parts():
    with pytest.raises(ValueError, match="prefixes, adapters or LoRA"):
        config_to_huggingface(make_config(tuning=ALL))


def test_settings_are_read_back_and_older_directories_fit(tmp_path):
    config = make_config(tuning=ALL)
    write_model_config(tmp_path / "new", config)
    assert read_model_config(tmp_path / "new") == config
    old = dataclasses.asdict(CONFIG)
    del old["tuning"]
    write_fingerprint(tmp_path, {"model": old})
    check_fingerprint(tmp_path, {"model": dataclasses.asdict(CONFIG)})
    with pytest.raises(RuntimeError, match=r"model.tuning.adapter_dim .*0 .* 2"):
        check_fingerprint(tmp_path, {"model": dataclasses.asdict(config)})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A directory of ours with a model without tuned parts."""
    directory = tmp_path_factory.mktemp("base")
    write_weights(directory, make_variables(), CONFIG, SourceRecord("initialized", "test"))
    return directory


def test_new_parts_on_old_weights(base):
    config = make_config(tuning=ALL)
    fresh = make_variables(config, seed=5)
    found = import_checkpoint(base, config=config, initial=lambda: fresh)
    assert found.config == config
    assert jax.tree_util.tree_structure(found.variables) == jax.tree_util.tree_structure(fresh)
    trunk = make_variables()["params"]["token_embedding"]["embedding"]
    np.testing.assert_array_equal(found.variables["params"]["token_embedding"]["embedding"], trunk)
    np.testing.assert_array_equal(
        found.variables["params"]["encoder"]["prefix"]["table"]["embedding"],
        fresh["params"]["encoder"]["prefix"]["table"]["embedding"],
    )


def tuned_variables(config):
    """The base model's weights with trained parts."""
    return tuned.with_new_parts(make_variables(), make_variables(config, seed=7))


@pytest.mark.parametrize("layer_stack", ["loop", "scan"])
def test_only_what_was_trained_is_saved_and_loaded(base, tmp_path, layer_stack):
    config = make_config(tuning=ALL, batch_norm="frozen")
    variables = tuned_variables(config)
    saved = stack_layers(variables) if layer_stack == "scan" else variables
    path = tmp_path / "tuned.safetensors"
    methods = [frozen_except("prefix", "adapter", "lora")]
    saved_config = dataclasses.replace(config, layer_stack=layer_stack)
    count = tuned.write_tuned(path, saved, saved_config, frozen=methods, base=str(base))
    total = sum(leaf.size for leaf in jax.tree.leaves(variables))
    trunk = sum(leaf.size for leaf in jax.tree.leaves(make_variables()))
    assert count == total - trunk
    assert path.stat().st_size < 4 * count + 20_000
    found = import_checkpoint(path)
    assert found.config == config
    assert_equal(found.variables, variables)
    scanned = import_checkpoint(f"{path}@{base}", layer_stack="scan")
    assert_equal(scanned.variables, stack_layers(variables))
    again = import_checkpoint(path, config=config)
    assert_equal(again.variables, variables)


def test_biases_of_the_model_itself(base, tmp_path):
    config = make_config(batch_norm="frozen")
    changed = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 1 if [key.key for key in path[-2:]] == ["expand", "bias"] else x,
        make_variables(),
    )
    path = tmp_path / "tuned.safetensors"
    tuned.write_tuned(path, changed, config, frozen=[frozen_except("bitfit")], base=str(base))
    names_in_file = set(safetensors.numpy.load_file(path))
    assert all(name.endswith("/bias") for name in names_in_file)
    found = import_checkpoint(path).variables["params"]["encoder"]["layers_0"]["feedforward"]
    np.testing.assert_array_equal(
        found["expand"]["bias"],
        changed["params"]["encoder"]["layers_0"]["feedforward"]["expand"]["bias"],
    )


def test_moved_statistics_are_saved(tmp_path):
    path = tmp_path / "tuned.safetensors"
    tuned.write_tuned(path, make_variables(), CONFIG, frozen=[frozen_except("bitfit")], base="")
    assert any(name.startswith("batch_stats/") for name in safetensors.numpy.load_file(path))
    with pytest.raises(CheckpointFileError, match=r"without a checkpoint; .*@BASE"):
        import_checkpoint(path)


def test_another_base_model_is_refused(base, tmp_path):
    config = make_config(tuning=TuningConfig(adapter_dim=2), batch_norm="frozen")
    path = tmp_path / "tuned.safetensors"
    frozen = [frozen_except("adapter")]
    tuned.write_tuned(path, tuned_variables(config), config, frozen=frozen, base="gone.pt")
    with pytest.raises(CheckpointFileError, match=r"gone.pt, .*not here; .*@BASE"):
        import_checkpoint(path)
    other = tmp_path / "other"
    write_weights(other, make_variables(seed=9), CONFIG, SourceRecord("initialized", "other"))
    with pytest.raises(CheckpointMismatchError, match=r"gone.pt. .*other weights"):
        import_checkpoint(f"{path}@{other}")
    wide = make_config(width=30)
    with pytest.raises(CheckpointMismatchError, match=r"width .*24 .*30"):
        tuned.apply_tuned(make_variables(wide), wide, tuned.read_tuned(path), "tuned")
    with pytest.raises(CheckpointMismatchError, match=r"has the parts .*adapter_dim=2"):
        import_checkpoint(f"{path}@{base}", config=make_config(tuning=ALL))
    assert import_checkpoint(f"{path}@{base}").config.tuning == config.tuning


def test_tuned_weights_in_a_plain_model_are_refused(tmp_path):
    config = make_config(tuning=TuningConfig(adapter_dim=2))
    write_weights(tmp_path, make_variables(config), config, SourceRecord("initialized", "test"))
    with pytest.raises(CheckpointMismatchError, match=r"has tuned parts .*adapter_dim=2"):
        import_checkpoint(tmp_path, config=CONFIG)


def test_nothing_left_to_train_is_named(tmp_path):
    with pytest.raises(ValueError, match="leaves no parameter to save"):
        tuned.write_tuned(
            tmp_path / "tuned.safetensors",
            make_variables(),
            make_config(batch_norm="frozen"),
            frozen=[""],
            base="",
        )
