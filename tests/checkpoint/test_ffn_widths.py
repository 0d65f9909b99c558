"""Encoder and decoder with different feed-forward widths, as HuggingFace's config.json allows."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ofa_jax.checkpoint import orbax_weights
from ofa_jax.checkpoint.exports import export_checkpoint, official_state_dict
from ofa_jax.checkpoint.fingerprint import check_fingerprint
from ofa_jax.checkpoint.huggingface import write_huggingface_directory
from ofa_jax.checkpoint.huggingface_names import config_from_huggingface, config_to_huggingface
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.layout import config_from_state_dict, expected_shapes
from ofa_jax.checkpoint.names import to_params
from ofa_jax.checkpoint.torch_writer import write_fairseq_checkpoint
from ofa_jax.model.flops import forward_flops
from ofa_jax.model.ofa import OFA
from tests.checkpoint.official import SMALL, random_state_dict
from tests.parity.reference import Reference

CONFIG = dataclasses.replace(SMALL, decoder_ffn_dim=40)


def test_the_model_computes_what_the_official_one_would():
    """Against the numpy reference, which knows no widths but those of its arrays."""
    weights = random_state_dict(CONFIG)
    assert weights["encoder.layers.0.fc1.weight"].shape == (24, 16)
    assert weights["decoder.layers.0.fc1.weight"].shape == (40, 16)
    sizes = {
        "encoder_layers": CONFIG.encoder_layers,
        "decoder_layers": CONFIG.decoder_layers,
        "encoder_attention_heads": CONFIG.num_heads,
        "image_bucket_size": CONFIG.image_bucket_size,
        "token_bucket_size": CONFIG.token_bucket_size,
        "code_image_size": CONFIG.code_image_size,
    }
    reference = Reference(weights, {"args": sizes, "resnet_layers": []})
    source, target = np.array([0, 7, 9, 2]), np.array([0, 12, 30])
    _, expected = reference.decode(reference.encode(source), target)
    # Bos is 0 there and 1 here.
    batch = {
        "encoder_input_tokens": np.array([[1, 7, 9, 2]], np.int32),
        "decoder_input_tokens": np.array([[1, 12, 30]], np.int32),
    }
    variables = to_params(weights, CONFIG)
    logits = np.asarray(jax.jit(OFA(CONFIG).apply)(variables, batch))[0, :, : CONFIG.vocab_size]
    np.testing.assert_allclose(logits[:, 2:], expected[:, 2:], atol=1e-4)


@pytest.mark.parametrize("target_format", ["orbax", "fairseq", "huggingface"])
def test_every_format_keeps_both_widths(tmp_path, target_format):
    original = random_state_dict(CONFIG)
    write_huggingface_directory(tmp_path / "hub", original, CONFIG)
    fields = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert (fields["encoder_ffn_dim"], fields["decoder_ffn_dim"]) == (24, 40)
    imported = import_checkpoint(tmp_path / "hub")
    assert imported.config == CONFIG
    export_checkpoint(imported, tmp_path / "out", target_format)
    again = import_checkpoint(tmp_path / "out")
    assert [again.config.ffn_width(stack) for stack in ("encoder", "decoder")] == [24, 40]
    found = official_state_dict(again)
    for name, value in original.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_widths_are_inferred_and_contradictions_named(tmp_path):
    found = config_from_state_dict(expected_shapes(CONFIG))
    assert (found.ffn_dim, found.decoder_ffn_dim) == (24, 40)
    assert config_from_state_dict(expected_shapes(SMALL)).decoder_ffn_dim is None
    fields = config_to_huggingface(CONFIG)
    assert config_from_huggingface(json.loads(json.dumps(fields))) == CONFIG
    del fields["decoder_ffn_dim"]
    assert config_from_huggingface(fields) == SMALL
    write_huggingface_directory(tmp_path, random_state_dict(SMALL), CONFIG)
    with pytest.raises(ValueError, match=r"decoder_ffn_dim = 40, .* 24"):
        import_checkpoint(tmp_path)
    write_fairseq_checkpoint(tmp_path / "m.pt", random_state_dict(CONFIG))
    message = r"decoder\.layers\.0\.fc1\.weight has shape \(40, 16\).*ffn_dim 24"
    with pytest.raises(ValueError, match=message):
        import_checkpoint(tmp_path / "m.pt", config=SMALL)


def test_directories_of_before_hold_one_width(tmp_path):
    settings = {"model": dataclasses.asdict(SMALL)}
    older = {name: v for name, v in settings["model"].items() if name != "decoder_ffn_dim"}
    (tmp_path / "model_fingerprint.json").write_text(json.dumps({"model": older}))
    check_fingerprint(tmp_path, settings)
    assert orbax_weights.read_model_config(tmp_path) == SMALL
    with pytest.raises(RuntimeError, match=r"decoder_ffn_dim .*None .* 40"):
        check_fingerprint(tmp_path, {"model": dataclasses.asdict(CONFIG)})


def test_operations_count_both_widths():
    def count(config):
        return forward_flops(config, source_length=5, target_length=3)

    more = count(CONFIG) - count(SMALL)
    assert more == SMALL.decoder_layers * 3 * 4 * SMALL.width * (40 - 24)
