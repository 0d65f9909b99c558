"""Expected shapes of official state dicts and configurations inferred from shapes."""

import dataclasses
import json
import math

import pytest

from ofa_jax.checkpoint.layout import (
    SHARED_EMBEDDING,
    config_from_state_dict,
    expected_shapes,
    infer_resnet,
    is_recomputed,
    resnet_shapes,
    vocabulary_parts,
)
from ofa_jax.checkpoint.names import entries
from ofa_jax.model.config import SIZES, ResNetConfig
from tests.checkpoint.official import SMALL
from tests.shared import fixtures_dir

OFFICIAL = ("tiny", "medium", "base", "large", "huge")
# SPEC 1.1: trainable parameters with the embedding counted once.
PARAMETERS = {
    "tiny": 33_488_336,
    "medium": 92_892_000,
    "base": 182_238_536,
    "large": 472_977_152,
    "huge": 929_486_848,
}


@pytest.mark.parametrize("size", OFFICIAL)
def test_parameter_counts_are_the_published_ones(size):
    shapes = expected_shapes(SIZES[size])
    count = sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if name not in SHARED_EMBEDDING[1:] and "running_" not in name
    )
    assert count == PARAMETERS[size]


@pytest.mark.parametrize("size", OFFICIAL)
def test_configuration_is_inferred_from_shapes(size):
    assert config_from_state_dict(expected_shapes(SIZES[size])) == SIZES[size]


@pytest.mark.parametrize("config", [SMALL, *SIZES.values()], ids=["small", *SIZES])
def test_every_expected_name_has_a_place_in_our_tree(config):
    config = dataclasses.replace(config, scale_resids=True)
    mapped = {entry.official for entry in entries(config)} | set(SHARED_EMBEDDING)
    assert mapped == set(expected_shapes(config))


def test_unusual_configuration_is_inferred():
    shapes = expected_shapes(SMALL)
    found = config_from_state_dict(
        shapes,
        token_bucket_range=SMALL.token_bucket_range,
        code_image_size=SMALL.code_image_size,
        orig_patch_image_size=SMALL.orig_patch_image_size,
    )
    assert found == SMALL
    resids = dataclasses.replace(SMALL, scale_resids=True)
    assert config_from_state_dict(expected_shapes(resids), code_image_size=32).scale_resids


def test_hints_fill_what_shapes_do_not_tell():
    shapes = expected_shapes(SIZES["tiny"])
    hints = {"sync_bn": True, "freeze_resnet": True, "interpolate_position": True}
    config = config_from_state_dict(shapes, hints)
    assert config.batch_norm_eps == 1e-3
    assert config.batch_norm == "frozen"
    assert config.interpolate_position
    config = config_from_state_dict({**shapes, "decoder.image_position_idx": (1 + 32 * 32 + 769,)})
    assert config.code_image_size == 256
    assert config_from_state_dict(shapes, dropout=0.1).dropout == 0.1


def test_foreign_names_are_refused():
    with pytest.raises(ValueError, match=r"embed_tokens.*bert\.weight"):
        config_from_state_dict({"bert.weight": (3, 4)})
    with pytest.raises(ValueError, match="basic blocks"):
        infer_resnet({"conv1.weight": (64, 3, 7, 7), "layer1.0.conv1.weight": (64, 64, 3, 3)}, "")


def test_stem_is_inferred_with_and_without_prefix():
    stem = ResNetConfig(stage_blocks=(3, 8, 36))
    assert infer_resnet(resnet_shapes(stem), prefix="") == stem
    assert infer_resnet(expected_shapes(SIZES["nano"])) == SIZES["nano"].resnet


def test_vocabulary_parts():
    assert vocabulary_parts(59457) == (8192, 1000)
    assert vocabulary_parts(30325, {"code_dict_size": 5}) == (8192, 1000)
    assert vocabulary_parts(289, {"code_dict_size": 64, "num_bins": 20}) == (64, 20)
    assert vocabulary_parts(289) == (0, 0)
    assert vocabulary_parts(60, {"code_dict_size": 64, "num_bins": 20}) == (0, 0)


def test_names_and_shapes_are_those_of_the_official_model():
    path = fixtures_dir() / "mini" / "state_dict.json"
    listing = json.loads(path.read_text())
    official = {name: tuple(entry["shape"]) for name, entry in listing.items()}
    config = config_from_state_dict(official, {"code_dict_size": 64})
    expected = {name: shape for name, shape in official.items() if not is_recomputed(name)}
    assert expected_shapes(config) == expected
    assert (config.vocab_size, config.num_codes, config.num_heads) == (289, 64, 4)
