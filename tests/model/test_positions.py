"""Buckets and biases against the formulas of SPEC 1.6, and Toeplitz forms against gathers."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.model import positions

SIZE = 42
TEXT_CHECKS = {
    0: 255, 1: 256, 127: 382, 128: 383, 129: 384, 130: 384, 131: 385, 135: 387, 140: 389,
    200: 411, 256: 426, 300: 436, 512: 468, 767: 493, 1000: 509, 1022: 510, 1023: 510,
    -1: 254, -128: 127, -129: 126, -1023: 0,
}  # fmt: skip
IMAGE_CHECKS = {(1, 1): 3444, (1, 2): 3443, (2, 1): 3445, (1, 43): 3361, (43, 1): 3527}


def sha1(table):
    return hashlib.sha1(np.ascontiguousarray(table, "<i4").tobytes()).hexdigest()


def test_text_buckets():
    line = positions.text_buckets(256, 1024, 1024)
    assert {rel: int(line[rel + 1023]) for rel in TEXT_CHECKS} == TEXT_CHECKS
    matrix = positions.text_bucket_matrix(256, 1024, 1024)
    assert int(matrix.astype(np.int64).sum()) == 267386880
    assert sha1(matrix) == "3ba1aa049dd1f6c9fdf7aa415f4340a50fdb7ad7"


def test_distances_beyond_the_range_share_the_last_bucket():
    line = positions.text_buckets(256, 1024, 1030)
    assert set(line[:8]) == {0}
    assert set(line[-8:]) == {510}


def test_image_buckets():
    matrix = positions.image_bucket_matrix(SIZE)
    assert {pair: int(matrix[pair]) for pair in IMAGE_CHECKS} == IMAGE_CHECKS
    assert (matrix[0, 5], matrix[5, 0], matrix[0, 0]) == (6889, 6890, 6891)
    assert int(matrix.astype(np.int64).sum()) == 10740994071
    assert sha1(matrix) == "ae7d7765eab55a80c9ed38b13c2d52fb327d09b9"


def test_grid_ids_and_their_limit():
    assert positions.grid_position_ids(2, 3, SIZE).tolist() == [1, 2, 3, 43, 44, 45]
    with pytest.raises(ValueError, match="43x2 patches"):
        positions.grid_position_ids(43, 2, SIZE)


def test_code_ids():
    ids = positions.code_position_ids(16, SIZE, 300)
    assert ids[:3].tolist() == [0, 1, 2]
    assert ids[17] == SIZE + 1
    assert ids[256] == 15 * SIZE + 16
    assert set(ids[257:]) == {1024}
    assert positions.code_position_ids(4, 8, 20)[17:].tolist() == [64, 64, 64]


@pytest.mark.parametrize("n", [1, 2, 7])
def test_toeplitz(n):
    values = np.random.default_rng(0).normal(size=(2, 3, 2 * n - 1)).astype(np.float32)
    found = positions.toeplitz(jnp.asarray(values))
    i, j = np.arange(n)[:, None], np.arange(n)[None]
    np.testing.assert_array_equal(found, values[..., i - j + n - 1])


def tables(heads=3, rows=6892):
    return np.random.default_rng(0).normal(size=(rows, heads)).astype(np.float32)


@pytest.mark.parametrize("length", [1, 40, 300])
def test_text_bias_equals_the_gather(length):
    table = tables(rows=511)
    found = positions.text_relative_bias(jnp.asarray(table), length, 256, 1024)
    matrix = positions.text_bucket_matrix(256, 1024, length)
    np.testing.assert_array_equal(found, table[matrix].transpose(2, 0, 1))


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 7), (42, 2)])
def test_grid_bias_equals_the_gather(grid):
    table = tables()
    ids = positions.grid_position_ids(*grid, SIZE)
    matrix = positions.image_bucket_matrix(SIZE)[np.ix_(ids, ids)]
    found = positions.grid_relative_bias(jnp.asarray(table), *grid, SIZE)
    np.testing.assert_array_equal(found, table[matrix].transpose(2, 0, 1))
    sampled = positions.sampled_relative_bias(jnp.asarray(table), jnp.asarray(ids)[None], SIZE)
    np.testing.assert_array_equal(sampled[0], found)


@pytest.mark.parametrize("length", [1, 2, 6, 17, 20])
def test_code_bias_equals_the_gather(length):
    table = tables()
    ids = positions.code_position_ids(4, SIZE, length)[:17]
    matrix = positions.image_bucket_matrix(SIZE)[np.ix_(ids, ids)]
    found = np.asarray(positions.code_relative_bias(jnp.asarray(table), 4, length, SIZE))
    assert found.shape == (3, length, length)
    np.testing.assert_array_equal(found[:, :17, :17], table[matrix].transpose(2, 0, 1))
    assert not found[:, 17:].any()


def test_block_diagonal():
    found = positions.block_diagonal(jnp.ones((2, 1, 3, 3)), 2 * jnp.ones((1, 1, 2, 2)))
    expected = np.zeros((5, 5))
    expected[:3, :3], expected[3:, 3:] = 1, 2
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (2, 1, 5, 5)))
