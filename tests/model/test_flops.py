"""Counts of parameters (SPEC 1.1, to the digit), operations and bytes, and the printed table."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax import sizes
from ofa_jax.model import OFA, SIZES
from ofa_jax.model.flops import (
    count_parameters,
    forward_flops,
    patch_grid,
    resnet_flops,
    training_flops,
)
from tests.model.small import CONFIG, make_batch, make_variables

# total, embedding, resnet, encoder with resnet, decoder
OFFICIAL = {
    "tiny": (33_488_336, 15_220_992, 8_543_296, 12_942_592, 5_324_752),
    "medium": (92_892_000, 30_441_984, 27_535_424, 42_887_616, 19_562_400),
    "base": (182_238_536, 45_662_976, 27_535_424, 74_762_912, 61_812_648),
    "large": (472_977_152, 60_883_968, 43_179_072, 201_897_280, 210_195_904),
    "huge": (929_486_848, 76_104_960, 43_179_072, 526_767_168, 326_614_720),
}


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(size, marks=[pytest.mark.slow] * (size in ("large", "huge")))
        for size in OFFICIAL
    ],
)
def test_official_sizes(size):
    count = count_parameters(SIZES[size])
    found = (count.total, count.embedding, count.resnet, count.encoder, count.decoder)
    assert found == OFFICIAL[size]


@pytest.mark.parametrize(("size", "total"), [("base", 159_865_160), ("large", 443_145_984)])
def test_chinese_sizes(size, total):
    config = dataclasses.replace(SIZES[size], vocab_size=30325, padded_vocab_size=None)
    assert count_parameters(config).total == total


def test_nano_stays_small():
    assert 0.6e6 < count_parameters(SIZES["nano"]).total < 0.9e6


@pytest.mark.parametrize(
    ("size", "pixels", "grid"),
    [("base", (480, 480), (30, 30)), ("base", (96, 224), (6, 14)), ("nano", (32, 32), (4, 4))],
)
def test_grid(size, pixels, grid):
    assert patch_grid(SIZES[size], *pixels) == grid


def counted_by_jax(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_operations_against_the_compiler():
    """XLA counts element-wise operations too, which are a few percent of a wide model."""
    config = dataclasses.replace(
        CONFIG, width=192, ffn_dim=768, conv="xla", vocab_size=1000, padded_vocab_size=1024
    )
    batch = make_batch(b=8, s=24, t=24, size=(32, 32))
    del batch["decoder_code_masks"]
    variables = nn.unbox(jax.eval_shape(OFA(config).init, jax.random.key(0), batch))
    counted = counted_by_jax(OFA(config).apply, variables, batch) / 8
    own = forward_flops(config, source_length=24, target_length=24, image_size=(32, 32))
    assert own == pytest.approx(counted, rel=0.12)
    assert own < counted


def test_stem_operations_of_resnet50():
    # torchvision's ResNet-50 has 4.09e9 multiply-adds at 224 pixels; the fourth stage and the
    # classifier, which OFA cuts off, 0.81e9.
    assert resnet_flops(SIZES["tiny"], 224, 224) / 2 == pytest.approx(3.28e9, rel=0.01)


def test_training_is_three_forwards():
    example = {"source_length": 20, "target_length": 10, "image_size": (256, 256)}
    base = SIZES["base"]
    assert training_flops(base, **example) == 3 * forward_flops(base, **example)
    fewer = forward_flops(base, **example, patches=196)
    assert fewer < forward_flops(base, **example)
    without = forward_flops(base, source_length=20, target_length=10)
    assert without < fewer - resnet_flops(base, 256, 256)


def test_bytes_per_chip():
    alone = sizes.state_bytes_per_chip(SIZES["nano"], {"data": 1, "model": 1}, ema=False)
    padding = (640 - 600) * 96
    assert alone == 12 * (count_parameters(SIZES["nano"]).total + padding)
    split = sizes.state_bytes_per_chip(SIZES["base"], {"data": 8, "model": 4}, ema=True)
    whole = sizes.state_bytes_per_chip(SIZES["base"], {"data": 1, "model": 1}, ema=True)
    # Convolutions are not split over `model`.
    assert whole / 32 < split < whole / 16


def test_printed_table(capsys):
    sizes.main(["--size", "tiny", "--mesh", "data=2,model=2"])
    printed = capsys.readouterr().out
    assert "33,488,336" in printed
    assert "data=2,model=2" in printed
    assert sizes.main(["--mesh", "rows=3"]) == 2
    assert "rows" in capsys.readouterr().err


def test_abstract_count_equals_real_arrays():
    variables = make_variables()
    real = sum(np.size(leaf) for leaf in jax.tree.leaves(variables["params"]))
    padding = (CONFIG.padded_vocab_size - CONFIG.vocab_size) * CONFIG.width
    assert count_parameters(CONFIG).total == real - padding


def test_the_table_has_the_official_and_the_chinese_sizes():
    table = sizes.parameter_table([name for name in sizes.LISTED if name != "nano"])
    rows = {line.split()[0]: line.split()[1] for line in table.splitlines()[1:]}
    # SPEC 1.1.
    assert rows == {
        "tiny": "33,488,336",
        "medium": "92,892,000",
        "base": "182,238,536",
        "large": "472,977,152",
        "huge": "929,486,848",
        "base_chinese": "159,865,160",
        "large_chinese": "443,145,984",
    }
