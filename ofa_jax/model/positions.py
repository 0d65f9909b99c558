"""Position ids, relative buckets and the biases made of them (SPEC 1.4 to 1.6, 1.9).

OFA never adds positions to token embeddings. They enter attention as dot products of projected
absolute positions and as entries of learned relative tables. Everything integer here is numpy,
computed while tracing; the biases themselves are made without gathers where the positions form a
line or a full grid, because a Toeplitz matrix is a reshape, and the backward pass of a gather of
n^2 rows is slow on every backend.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

AnyArray = TypeVar("AnyArray", np.ndarray, Array)


@functools.lru_cache(maxsize=16)
def text_buckets(
    bucket_size: int, max_distance: int, length: int
) -> Int32[np.ndarray, "distances"]:
    """Bucket of each relative text distance (SPEC 1.6).

    Args:
      bucket_size: half-width of the table (256).
      max_distance: distance where the logarithmic buckets end (1024).
      length: distances -(length - 1) .. length - 1 are wanted.

    Returns:
      2 * length - 1 table rows, by query minus key position, ascending. Distances beyond
      `max_distance` share the outermost bucket.
    """
    relative = np.arange(-(length - 1), length, dtype=np.int64)
    middle = bucket_size // 2
    distance = np.minimum(np.maximum(np.abs(relative), middle), max_distance - 1)
    ratio = np.log(distance / middle) / np.log((max_distance - 1) / middle)
    far = np.sign(relative) * (middle + np.ceil(ratio * (middle - 1)).astype(np.int64))
    bucket = np.where(np.abs(relative) <= middle, relative, far)
    return (bucket + bucket_size - 1).astype(np.int32)


def text_bucket_matrix(
    bucket_size: int, max_distance: int, length: int
) -> Int32[np.ndarray, "s s"]:
    """Buckets for query row and key column (the official buffer)."""
    line = text_buckets(bucket_size, max_distance, length)
    position = np.arange(length)
    return line[position[:, None] - position[None, :] + length - 1]


def image_buckets(
    query_ids: Int[AnyArray, "*#shape"], key_ids: Int[AnyArray, "*#shape"], bucket_size: int
) -> Int[AnyArray, "*shape"]:
    """Rows of the relative image table for pairs of image position ids (SPEC 1.6).

    Works on numpy and on jax arrays alike.

    Args:
      query_ids: position ids, 0 = the reserved id, 1 + row * bucket_size + column.
      key_ids: the same of keys.
      bucket_size: side of the position grid (42).

    Returns:
      Table rows in [0, (2 * bucket_size - 1)^2 + 3).
    """
    np_like: Any = np if isinstance(query_ids, np.ndarray) else jnp
    side = 2 * bucket_size - 1
    q, k = query_ids - 1, key_ids - 1
    rows = q // bucket_size - k // bucket_size + bucket_size - 1
    columns = q % bucket_size - k % bucket_size + bucket_size - 1
    index = rows * side + columns
    index = np_like.where(query_ids == 0, side * side, index)
    index = np_like.where(key_ids == 0, side * side + 1, index)
    return np_like.where((query_ids == 0) & (key_ids == 0), side * side + 2, index)


def image_bucket_matrix(bucket_size: int) -> Int32[np.ndarray, "n n"]:
    """n = bucket_size^2 + 1: the official index buffer over all position ids."""
    ids = np.arange(bucket_size**2 + 1)
    return image_buckets(ids[:, None], ids[None, :], bucket_size).astype(np.int32)


def grid_position_ids(height: int, width: int, bucket_size: int) -> Int32[np.ndarray, "p"]:
    """Position ids of a full patch grid in row-major order (SPEC 1.4, step 1).

    Args:
      height: patches per column.
      width: patches per row.
      bucket_size: side of the position grid.

    Returns:
      row * bucket_size + column + 1.

    Raises:
      ValueError: if the grid is larger than the position grid.
    """
    if max(height, width) > bucket_size:
        raise ValueError(
            f"a grid of {height}x{width} patches has no position ids: at most "
            f"{bucket_size}x{bucket_size} fit (image_bucket_size)"
        )
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    return (rows * bucket_size + columns + 1).astype(np.int32).reshape(-1)


def code_position_ids(window: int, bucket_size: int, length: int) -> Int32[np.ndarray, "t"]:
    """Position ids of the decoder input of an image-code target (SPEC 1.9).

    Args:
      window: codes per image side.
      bucket_size: side of the position grid.
      length: decoder input length.

    Returns:
      0 for BOS, then the window row by row, then a filler that only ever stands
      at padding (1024 officially, the last id where the grid is smaller).
    """
    ids = np.concatenate([[0], grid_position_ids(window, window, bucket_size)])
    filler = min(1024, bucket_size**2)
    ids = np.pad(ids, (0, max(0, length - len(ids))), constant_values=filler)
    return ids[:length].astype(np.int32)


def toeplitz(values: Float[Array, "*lead distances"]) -> Float[Array, "*lead n n"]:
    """Expands values of relative distances into the matrix over pairs of positions.

    Args:
      values: of 2 n - 1 distances, by query minus key position, ascending.

    Returns:
      out[i, j] = values[i - j + n - 1].
    """
    n = (values.shape[-1] + 1) // 2
    lead = values.shape[:-1]
    # Rows of length 2n, read as rows of length 2n - 1, shift by one entry per row.
    rows = jnp.pad(values[..., ::-1], [(0, 0)] * len(lead) + [(0, 1)])
    rows = jnp.broadcast_to(rows[..., None, :], (*lead, n, 2 * n)).reshape(*lead, 2 * n * n)
    shifted = rows[..., : n * (2 * n - 1)].reshape(*lead, n, 2 * n - 1)
    return shifted[..., n - 1 :]


def text_relative_bias(
    table: Float[Array, "buckets h"], length: int, bucket_size: int, max_distance: int
) -> Float[Array, "h s s"]:
    """Relative bias among text positions 0..length-1.

    Args:
      table: of 2 * bucket_size - 1 buckets.
      length: number of positions s.
      bucket_size: see `text_buckets`.
      max_distance: see `text_buckets`.
    """
    line = table[text_buckets(bucket_size, max_distance, length)]
    return toeplitz(line.T)


def grid_relative_bias(
    table: Float[Array, "buckets h"], height: int, width: int, bucket_size: int
) -> Float[Array, "h p p"]:
    """Relative bias among the patches of a full grid, in row-major order.

    Args:
      table: of (2 * bucket_size - 1)^2 + 3 buckets.
      height: patches per column y.
      width: patches per row x.
      bucket_size: side of the position grid.
    """
    side = 2 * bucket_size - 1
    offsets = table[: side * side].reshape(side, side, -1).transpose(2, 0, 1)
    first_row, first_column = bucket_size - height, bucket_size - width
    offsets = offsets[
        :,
        first_row : first_row + 2 * height - 1,
        first_column : first_column + 2 * width - 1,
    ]
    by_column = toeplitz(offsets)  # h, 2y-1, x, x
    both = toeplitz(by_column.transpose(0, 2, 3, 1))  # h, x, x, y, y
    patches = height * width
    return both.transpose(0, 3, 1, 4, 2).reshape(-1, patches, patches)


def sampled_relative_bias(
    table: Float[Array, "buckets h"], ids: Int[Array, "b p"], bucket_size: int
) -> Float[Array, "b h p p"]:
    """Relative bias among sampled patches, which differ from sample to sample.

    Args:
      table: of (2 * bucket_size - 1)^2 + 3 buckets.
      ids: image position ids.
      bucket_size: side of the position grid.
    """
    index = image_buckets(ids[:, :, None], ids[:, None, :], bucket_size)
    return table[index].transpose(0, 3, 1, 2)


def code_relative_bias(
    table: Float[Array, "buckets h"], window: int, length: int, bucket_size: int
) -> Float[Array, "h t t"]:
    """Relative bias among decoder positions of an image-code target (SPEC 1.9).

    OFA-NOTE: SPEC 1.9. Positions after the window are padding; their bias is 0 here instead of
    that of the filler id.

    Args:
      table: of (2 * bucket_size - 1)^2 + 3 buckets.
      window: codes per image side w.
      length: decoder input length t.
      bucket_size: side of the position grid.
    """
    side = 2 * bucket_size - 1
    codes = min(length - 1, window * window)
    # Only the rows of the window that the input reaches.
    rows = max(1, -(-codes // window))
    grid = grid_relative_bias(table, rows, window, bucket_size)[:, :codes, :codes]
    from_bos, to_bos, bos = (table[side * side + i][:, None, None] for i in range(3))
    heads = table.shape[-1]
    top = jnp.concatenate([bos, jnp.broadcast_to(from_bos, (heads, 1, codes))], axis=2)
    rest = jnp.concatenate([jnp.broadcast_to(to_bos, (heads, codes, 1)), grid], axis=2)
    bias = jnp.concatenate([top, rest], axis=1)
    after = length - 1 - codes
    return jnp.pad(bias, ((0, 0), (0, after), (0, after)))


def block_diagonal(
    first: Float[Array, "*#lead p p"], second: Float[Array, "*#lead s s"]
) -> Float[Array, "*lead p+s p+s"]:
    """Puts two biases on the diagonal of a larger one, zeros elsewhere."""
    p, s = first.shape[-1], second.shape[-1]
    lead = [(0, 0)] * (first.ndim - 2)
    return jnp.pad(first, [*lead, (0, s), (0, s)]) + jnp.pad(second, [*lead, (p, 0), (p, 0)])
