"""Configuration: derived numbers and messages that name the field."""

import dataclasses

import pytest

from ofa_jax.model.config import SIZES, OFAConfig, ResNetConfig


def test_derived_numbers_of_the_official_sizes():
    base = SIZES["base"]
    assert (base.head_dim, SIZES["huge"].head_dim) == (64, 80)
    assert base.padded_vocab_size == 59520
    assert (base.text_relative_buckets, base.image_relative_buckets) == (511, 6892)
    assert (base.text_positions, base.image_positions) == (1026, 1765)
    assert base.code_window == 16
    assert dataclasses.replace(base, code_image_size=256).code_window == 32
    assert (base.resnet.stride, base.resnet.out_channels) == (16, 1024)


def test_widths_of_the_feed_forward_layers():
    base = SIZES["base"]
    assert [base.ffn_width(stack) for stack in ("encoder", "decoder")] == [3072, 3072]
    assert dataclasses.replace(base, decoder_ffn_dim=3072) == base
    other = dataclasses.replace(base, decoder_ffn_dim=64)
    assert [other.ffn_width(stack) for stack in ("encoder", "decoder")] == [3072, 64]
    assert dataclasses.replace(base, ffn_dim=80).ffn_width("decoder") == 80


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_consistent(name):
    config = SIZES[name]
    assert config.padded_vocab_size % 128 == 0
    assert config.width == config.num_heads * config.head_dim
    assert config.code_window <= config.image_bucket_size


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("padded_vocab_size", 100),
        ("decoder_ffn_dim", -3),
        ("num_heads", 7),
        ("dropout", 1.0),
        ("encoder_drop_path", -0.1),
        ("batch_norm", "sync"),
        ("layer_stack", "list"),
        ("remat", "some"),
        ("dtype", "float16"),
        ("attention", "flash"),
        ("conv", "fft"),
        ("code_image_size", 100),
        ("token_bucket_range", 100),
        ("sample_patch_num", -1),
        ("batch_norm_momentum", 0.0),
    ],
)
def test_errors_name_the_field(field, value):
    with pytest.raises(ValueError, match=rf"OFAConfig\.{field} must be .*{value}"):
        OFAConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("stage_blocks", ()), ("stage_strides", (1, 2)), ("stem_kernel", 1), ("expansion", 0)],
)
def test_errors_of_the_stem_name_the_field(field, value):
    with pytest.raises(ValueError, match=rf"ResNetConfig\.{field} must be"):
        ResNetConfig(**{field: value})


def test_interpolation_needs_its_origin_inside_the_table():
    with pytest.raises(ValueError, match="orig_patch_image_size"):
        OFAConfig(interpolate_position=True, orig_patch_image_size=1024)
