"""The comparison itself: a wrong model must not pass."""

import jax
import numpy as np
import pytest

from tests.parity import tolerances
from tests.parity.comparison import (
    FAST_COMPILE,
    Comparison,
    Run,
    compare_forward,
    compare_gradient_statistics,
)
from tests.parity.fixture import Fixture, config_from_fixture
from tests.shared import fixtures_dir


def test_a_slightly_wrong_weight_fails():
    fixture = Fixture(fixtures_dir() / "mini")
    run = Run(fixture.case("text_only"), compiler_options=FAST_COMPILE)
    run.variables["params"]["decoder"]["layers_0"]["cross_attention"]["head_scale"] *= 1.001
    failures = compare_forward(run, fixture.vocab_subset()).failures()
    assert any("logits" in line for line in failures)
    assert not any("encoder" in line for line in failures)


def test_nan_fails():
    result = Comparison("case")
    result.add("logits", float("nan"), 1.0)
    assert len(result.failures()) == 1


def test_noise_widens_the_bound_only_when_it_must():
    assert tolerances.bound(1e-5, None) == 1e-5
    assert tolerances.bound(1e-5, 4e-6) == 1e-5
    assert tolerances.bound(1e-5, 1e-5) == pytest.approx(2e-5)


def test_gradient_of_zero_may_be_noise_but_a_lost_gradient_fails():
    expected = {
        "a": {"norm": 100.0, "head": [100.0]},
        "key_bias": {"norm": 1e-5, "head": [1e-5]},
    }
    found = {"a": np.array([100.0]), "key_bias": np.array([-2e-5])}
    difference = compare_gradient_statistics(found, expected)
    assert difference.norm == difference.entry == 0.0
    found["a"] = np.array([0.0])
    difference = compare_gradient_statistics(found, expected)
    assert difference.norm_of == difference.entry_of == "a"
    assert difference.norm == pytest.approx(1.0, abs=1e-4)
    found["a"] = np.array([np.nan])
    assert compare_gradient_statistics(found, expected).norm == np.inf


def test_other_sizes_are_read_from_the_configuration():
    fixture = Fixture(fixtures_dir() / "mini")
    changed = {**fixture.config, "vocab_size": 1000, "resnet_layers": [1, 2, 3]}
    changed["args"] = {
        **fixture.config["args"],
        **{f"{stack}_embed_dim": 80 for stack in ("encoder", "decoder")},
        **{f"{stack}_attention_heads": 5 for stack in ("encoder", "decoder")},
        "encoder_layers": 3,
        "code_image_size": 256,
    }
    config = config_from_fixture(changed, layer_stack="scan", interpolate_position=True)
    assert (config.head_dim, config.encoder_layers, config.code_window) == (16, 3, 32)
    assert config.resnet.stage_blocks == (1, 2, 3)
    assert config.padded_vocab_size == 1024
    assert (config.layer_stack, config.interpolate_position) == ("scan", True)


def test_every_case_has_complete_inputs():
    fixture = Fixture(fixtures_dir() / "mini")
    names = fixture.case_names()
    assert len(names) >= 9
    for name in names:
        batch = fixture.case(name).batch()
        rows = {len(array) for array in jax.tree.leaves(batch)}
        assert len(rows) == 1
    assert fixture.layout().size == fixture.config["vocab_size"]
    # Inputs that another case lends, and all of the official names for what it changes.
    lent = fixture.case("text_only_scale_resids")
    assert lent.model_config().scale_resids
    np.testing.assert_array_equal(
        lent.batch()["encoder_input_tokens"],
        fixture.case("text_only").batch()["encoder_input_tokens"],
    )
    if "hires_interp" in names:
        assert "encoder_images" in fixture.case("hires_interp").batch()
