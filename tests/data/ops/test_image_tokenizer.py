"""The patch codebook: exact where it can be, deterministic, and good enough for `scenes`."""

import numpy as np
import pytest

from ofa_jax.data.ops.image_tokenizer import ImageTokenizer, PatchCodebook, middle_part
from ofa_jax.scenes.source import ScenesSource


def psnr(found, true):
    """Peak signal-to-noise ratio of uint8 images, in decibels."""
    return -10 * np.log10(np.mean((np.float64(found) - true) ** 2) / 255**2)


@pytest.fixture(scope="module")
def training_images():
    return ScenesSource("tiny").images(range(512))


@pytest.fixture(scope="module")
def codebook(training_images):
    return PatchCodebook.fit(training_images, 128)


def _tiles(values: list[list[int]], patch: int = 4) -> np.ndarray:
    grid = np.kron(np.array(values, np.uint8), np.ones((patch, patch), np.uint8))
    return np.repeat(grid[..., None], 3, axis=2)


def test_plain_patches_are_coded_exactly():
    image = _tiles([[0, 0, 0, 100], [200, 0, 100, 0]])
    codebook = PatchCodebook.fit(image[None], 3)
    codes = codebook.encode(image)
    assert codes.dtype == np.int32
    # Sorted by frequency: black, then 100, then 200.
    assert codes.tolist() == [[0, 0, 0, 1], [2, 0, 1, 0]]
    assert (codebook.decode(codes) == image).all()


def test_orientation_of_patches():
    image = np.zeros((8, 12, 3), np.uint8)
    image[0:4, 4:8] = np.arange(48).reshape(4, 4, 3)
    image[4:8, 8:12] = 200
    codebook = PatchCodebook.fit(image[None], 3)
    codes = codebook.encode(image)
    assert codes.shape == (2, 3)
    assert (codebook.decode(codes) == image).all()
    assert codes[0, 1] != codes[0, 0]


def test_entries_are_means_of_their_patches():
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 40, (60, 4, 4, 3)), rng.integers(200, 240, (40, 4, 4, 3))
    codebook = PatchCodebook.fit(np.concatenate([low, high]).astype(np.uint8), 2)
    assert np.allclose(codebook.entries[0], low.mean(0), atol=1e-3)
    assert np.allclose(codebook.entries[1], high.mean(0), atol=1e-3)


def test_fit_is_deterministic_and_good(training_images, codebook):
    again = PatchCodebook.fit(training_images, 128)
    assert (again.entries == codebook.entries).all()
    images = ScenesSource("tiny", "validation").images(range(200))
    middles = np.stack([middle_part(image) for image in images])
    codes = np.stack([codebook.encode(middle) for middle in middles])
    assert codes.shape == (200, 4, 4)
    decoded = np.stack([codebook.decode(grid) for grid in codes])
    assert psnr(decoded, middles) > 23.5
    counts = np.bincount(codes.ravel(), minlength=128)
    assert counts.max() / codes.size < 0.3, "one code would be most of the answer"
    assert (counts > 0).sum() > 80


def test_encoding_finds_the_nearest_entry(codebook):
    image = ScenesSource("tiny", "test").images([0])[0]
    codes = codebook.encode(image)
    blocks = image.reshape(8, 4, 8, 4, 3).transpose(0, 2, 1, 3, 4).astype(np.float64)
    errors = ((blocks[:, :, None] - codebook.entries) ** 2).sum((3, 4, 5))
    chosen = np.take_along_axis(errors, codes[..., None], axis=2)[..., 0]
    assert np.allclose(chosen, errors.min(2), rtol=1e-4, atol=1)


def test_too_many_patches_are_sampled(training_images):
    codebook = PatchCodebook.fit(training_images[:200], 32, max_patches=400)
    full = PatchCodebook.fit(training_images[:200], 32)
    images = training_images[:50]
    sampled_quality, quality = (
        psnr(np.stack([book.decode(book.encode(image)) for image in images]), images)
        for book in (codebook, full)
    )
    assert quality - sampled_quality < 3


def test_save_and_load(codebook, tmp_path):
    codebook.save(tmp_path / "codebook.npz")
    loaded = PatchCodebook.load(tmp_path / "codebook.npz")
    assert (loaded.entries == codebook.entries).all()
    assert (loaded.num_codes, loaded.patch) == (128, 4)
    assert isinstance(loaded, ImageTokenizer)
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="not a patch codebook"):
        PatchCodebook.load(tmp_path / "other.npz")


def test_middle_part_is_the_central_half():
    image = np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    assert (middle_part(image) == image[8:24, 8:24]).all()
    assert middle_part(np.zeros((256, 256, 3), np.uint8)).shape == (128, 128, 3)
    with pytest.raises(ValueError, match="multiples of 4"):
        middle_part(np.zeros((30, 32, 3), np.uint8))
