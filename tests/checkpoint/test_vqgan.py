"""Weights of the image tokenizer from files as training left them, and faults of others."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.checkpoint.torch_writer import write_torch_file
from ofa_jax.checkpoint.vqgan import read_vqgan, to_state_dict
from tests.model.small_vqgan import GUMBEL, NEAREST, params

DESCRIPTION = {
    "model": {
        "target": "taming.models.vqgan.GumbelVQ",
        "params": {
            "kl_weight": 0.5,
            "embed_dim": 8,
            "n_embed": 24,
            "ddconfig": {
                "ch": 32,
                "ch_mult": [1, 2],
                "num_res_blocks": 1,
                "attn_resolutions": [32],
                "resolution": 64,
                "z_channels": 8,
            },
        },
    }
}


def lightning(state_dict):
    """What the training program of taming-transformers saves."""
    discriminator = {"loss.discriminator.main.0.weight": np.zeros((8, 3, 4, 4), np.float32)}
    return {
        "epoch": 3,
        "global_step": 1234,
        "pytorch-lightning_version": "1.0.8",
        "state_dict": {**state_dict, **discriminator, "colorize": np.zeros((3, 1, 1), np.float32)},
        "optimizer_states": [{"state": {0: {"exp_avg": np.ones(4, np.float32)}}}],
        "lr_schedulers": [],
    }


@pytest.fixture
def weights():
    return to_state_dict(params(GUMBEL), GUMBEL)


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_official_names(weights):
    assert weights["encoder.conv_in.weight"].shape == (32, 3, 3, 3)
    assert weights["quantize.proj.weight"].shape == (24, 8, 1, 1)
    for name in (
        "encoder.down.0.downsample.conv.bias",
        "encoder.down.1.block.0.nin_shortcut.weight",
        "decoder.up.1.attn.1.proj_out.weight",
        "decoder.mid.block_2.norm1.weight",
        "quantize.embed.weight",
        "post_quant_conv.bias",
    ):
        assert name in weights
    assert "quantize.embedding.weight" in to_state_dict(params(NEAREST), NEAREST)


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_of_training(tmp_path, weights, legacy):
    write_torch_file(tmp_path / "last.ckpt", lightning(weights), legacy=legacy)
    config, found = read_vqgan(tmp_path / "last.ckpt")
    assert_equal(found, params(GUMBEL))
    assert config.kl_weight == 1e-8
    (tmp_path / "model.yaml").write_text(json.dumps(DESCRIPTION))
    assert read_vqgan(tmp_path / "last.ckpt")[0] == GUMBEL


def test_bare_state_dicts(tmp_path):
    weights = to_state_dict(params(NEAREST), NEAREST)
    contiguous = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    safetensors.numpy.save_file(contiguous, tmp_path / "vqgan.safetensors")
    write_torch_file(tmp_path / "vqgan.pt", weights)
    for name in ("vqgan.safetensors", "vqgan.pt"):
        config, found = read_vqgan(tmp_path / name)
        assert config.quantizer == "nearest"
        assert_equal(found, params(NEAREST))


def test_faults_are_one_line(tmp_path, weights):
    def refused(change):
        state_dict = dict(weights)
        change(state_dict)
        write_torch_file(tmp_path / "bad.ckpt", lightning(state_dict))
        with pytest.raises(CheckpointFileError) as error:
            read_vqgan(tmp_path / "bad.ckpt")
        message = str(error.value)
        assert message.startswith(f"{tmp_path / 'bad.ckpt'}: ")
        assert "\n" not in message
        return message

    gone = "decoder.mid.attn_1.q.weight"
    assert f"lacks 1 tensors of a VQGAN ({len(weights)} expected): {gone}" in refused(
        lambda s: s.pop(gone)
    )
    extra = np.zeros(3, np.float32)
    assert "has unknown 1 tensors" in refused(lambda s: s.update({"encoder.temb.weight": extra}))
    nan = np.full(8, np.nan, np.float32)
    finite = "tensor quant_conv.bias has values that are NaN or infinite"
    assert finite in refused(lambda s: s.update({"quant_conv.bias": nan}))
    shape = "tensor quant_conv.bias is [3], expected [8]"
    assert shape in refused(lambda s: s.update({"quant_conv.bias": extra}))
    assert "it has no encoder.conv_in.weight" in refused(lambda s: s.pop("encoder.conv_in.weight"))
    assert "no weights of a VQGAN, but others such as decoder_x" in refused(
        lambda s: (s.clear(), s.update({"decoder_x": extra}))
    )
    grey = np.zeros((32, 1, 3, 3), np.float32)
    assert "images of 1 channels" in refused(lambda s: s.update({"encoder.conv_in.weight": grey}))


def test_other_files_are_named(tmp_path, weights):
    with pytest.raises(FileNotFoundError, match="no such checkpoint file"):
        read_vqgan(tmp_path / "last.ckpt")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(CheckpointFileError, match="a web page"):
        read_vqgan(tmp_path / "page.ckpt")
    write_torch_file(tmp_path / "last.ckpt", lightning(weights))
    for text, message in (
        (json.dumps(DESCRIPTION).replace('"n_embed": 24', '"n_embed": 1024'), "num_codes 1024"),
        (json.dumps(DESCRIPTION).replace("[32]", "[64]"), r"attention_levels \(0,\), the weights"),
        ("[", "model.yaml cannot be read"),
        ("text", "model.yaml holds no settings"),
    ):
        (tmp_path / "model.yaml").write_text(text)
        with pytest.raises(CheckpointFileError, match=message):
            read_vqgan(tmp_path / "last.ckpt")
