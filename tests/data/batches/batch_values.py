"""Batches of a pipeline, compared."""

import itertools

import numpy as np


def take(mixture, count, start=0):
    iterator = mixture.iterate(start)
    try:
        return list(itertools.islice(iterator, count))
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for key in batch:
        assert batch[key].dtype == other[key].dtype
        np.testing.assert_array_equal(batch[key], other[key], err_msg=key)
