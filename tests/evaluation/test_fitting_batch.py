"""Batches of evaluation fit into the memory of the machine."""

import logging

import pytest

from ofa_jax.evaluation import fitting_batch as module
from ofa_jax.model import SIZES
from ofa_jax.sharding.layout import MeshLayout

LENGTHS = {"inputs": 80, "image": 480}


def test_an_example_of_base_at_480_pixels_needs_ninety_megabytes():
    positions = 30 * 30 + 80
    assert module.example_bytes(SIZES["base"], LENGTHS) == 2 * 12 * positions**2 * 4
    assert module.example_bytes(SIZES["tiny"], LENGTHS) == 4 * 64 * 240**2 * 4
    text = module.example_bytes(SIZES["base"], {"inputs": 80, "image": 0})
    assert text == 2 * 12 * 80**2 * 4


@pytest.mark.parametrize(("gigabytes", "fitting"), [(1, 5), (4, 23), (64, 128), (0.01, 1)])
def test_what_does_not_fit_is_answered_in_smaller_batches(gigabytes, fitting, monkeypatch, caplog):
    monkeypatch.setattr(module, "_device_bytes", lambda layout: int(gigabytes * (1 << 30)))
    with caplog.at_level(logging.INFO, "ofa_jax"):
        found = module.fitting_batch(128, SIZES["base"], LENGTHS, MeshLayout.local())
    assert found == fitting
    assert (f"{fitting} examples at once instead of 128" in caplog.text) == (fitting < 128)


def test_small_images_fit_everywhere():
    lengths = {"inputs": 20, "image": 32}
    assert module.fitting_batch(128, SIZES["nano"], lengths, MeshLayout.local()) == 128
