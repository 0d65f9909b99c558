"""The VQGAN as image tokenizer: batches, drawn codes, bad input, loading by name."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ofa_jax.checkpoint.torch_writer import write_torch_file
from ofa_jax.checkpoint.vqgan import to_state_dict
from ofa_jax.data.ops.image_tokenizer import (
    BatchImageTokenizer,
    PatchCodebook,
    decode_all,
    encode_all,
    load_image_tokenizer,
)
from ofa_jax.image_codes import VQGANTokenizer
from tests.model.small_vqgan import GUMBEL, NEAREST, params

ROOT = pathlib.Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(5)
PICTURES = RNG.integers(0, 256, (5, 8, 12, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def tokenizer():
    # Batches of two images of 96 pixels.
    return VQGANTokenizer(GUMBEL, params(GUMBEL), batch_pixels=200)


def test_batches_are_the_single_images(tokenizer):
    assert isinstance(tokenizer, BatchImageTokenizer)
    assert (tokenizer.num_codes, tokenizer.patch) == (24, 2)
    codes = tokenizer.encode_batch(PICTURES)
    assert codes.shape == (5, 4, 6)
    assert codes.dtype == np.int32
    for grid, picture in zip(codes, PICTURES):
        np.testing.assert_array_equal(tokenizer.encode(picture), grid)
    np.testing.assert_array_equal(encode_all(tokenizer, list(PICTURES)), codes)
    decoded = tokenizer.decode_batch(codes)
    assert decoded.shape == PICTURES.shape
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decode_all(tokenizer, list(codes)), decoded)
    assert tokenizer.encode_batch(PICTURES[:0]).shape == (0, 4, 6)
    assert tokenizer.decode_batch(codes[:0]).shape == (0, 8, 12, 3)


@pytest.mark.slow  # compiles another program
def test_drawn_codes_depend_on_seed_and_image(tokenizer):
    drawing = VQGANTokenizer(GUMBEL, params(GUMBEL), noise_seed=4, batch_pixels=200)
    codes = drawing.encode_batch(PICTURES)
    np.testing.assert_array_equal(drawing.encode_batch(PICTURES[::-1])[::-1], codes)
    assert 0 < (codes == tokenizer.encode_batch(PICTURES)).mean() < 1
    other = VQGANTokenizer(GUMBEL, params(GUMBEL), noise_seed=5, batch_pixels=200)
    assert (other.encode_batch(PICTURES) != codes).any()
    with pytest.raises(ValueError, match="only a Gumbel codebook"):
        VQGANTokenizer(NEAREST, params(NEAREST), noise_seed=0)


def test_bad_input_is_named(tokenizer):
    for picture, message in (
        (PICTURES[0].astype(np.float32), "must be uint8"),
        (PICTURES[0, :7], "multiples of 2 pixels, got 7 x 12"),
        (PICTURES[0, :0], "multiples of 2 pixels, got 0 x 12"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer.encode(picture)
    for codes, message in (
        (np.full((2, 2), 24), r"must lie in \[0, 24\)"),
        (np.zeros(4, int), "must be a grid"),
        (np.zeros((2, 2)), "must be a grid"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer.decode(codes)


def test_loading_by_name(tokenizer, tmp_path):
    path = tmp_path / "last.ckpt"
    write_torch_file(path, {"state_dict": to_state_dict(params(GUMBEL), GUMBEL)})
    loaded = load_image_tokenizer(str(path))
    assert load_image_tokenizer(str(path)) is loaded
    assert isinstance(loaded, VQGANTokenizer)
    np.testing.assert_array_equal(loaded.encode(PICTURES[0]), tokenizer.encode(PICTURES[0]))
    with pytest.raises(ValueError, match=r"image_tokenizer: .*no\.ckpt: no such"):
        load_image_tokenizer(str(tmp_path / "no.ckpt"))
    (tmp_path / "bad.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"image_tokenizer: .*the file is empty"):
        load_image_tokenizer(str(tmp_path / "bad.ckpt"))


def test_tokenizers_without_batches():
    codebook = PatchCodebook(RNG.integers(0, 256, (16, 4, 4, 3)))
    codes = encode_all(codebook, list(PICTURES))
    np.testing.assert_array_equal(codes[2], codebook.encode(PICTURES[2]))
    np.testing.assert_array_equal(decode_all(codebook, list(codes))[2], codebook.decode(codes[2]))


_ON_TWO_DEVICES = """
import sys
import jax
import numpy as np
from ofa_jax.image_codes import load_vqgan

assert jax.local_device_count() == 2
tokenizer = load_vqgan(sys.argv[1])
images = np.load(sys.argv[2])
codes = tokenizer.encode_batch(images)
np.savez(sys.argv[3], codes=codes, one=tokenizer.encode(images[0]))
"""


@pytest.mark.slow  # another process starts JAX
def test_batches_are_divided_over_devices(tokenizer, tmp_path):
    path = tmp_path / "last.ckpt"
    write_torch_file(path, {"state_dict": to_state_dict(params(GUMBEL), GUMBEL)})
    np.save(tmp_path / "images.npy", PICTURES)
    subprocess.run(
        [
            *(sys.executable, "-c", _ON_TWO_DEVICES),
            *(path, tmp_path / "images.npy", tmp_path / "codes.npz"),
        ],
        check=True,
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
    )
    found = np.load(tmp_path / "codes.npz")
    expected = tokenizer.encode_batch(PICTURES)
    np.testing.assert_array_equal(found["codes"], expected)
    np.testing.assert_array_equal(found["one"], expected[0])
