"""What the tests of all sources ask: the flat schema, pickling, bounds, exact values."""

import pickle

import numpy as np
import pytest

from ofa_jax.data.sources.array_record import decode_example, encode_example
from ofa_jax.data.sources.schema import check_example


def same(found, expected):
    """Whether two examples have equal fields."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype, name
            np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)
        else:
            assert found[name] == value, name


def examples_of(source, split="train"):
    """All examples of a split, after what must hold of every source."""
    records = pickle.loads(pickle.dumps(source)).open(split)
    again = pickle.loads(pickle.dumps(records))
    examples = [records[index] for index in range(len(records))]
    for index in range(len(records) - 1, -1, -1):
        check_example(examples[index], f"example {index}")
        same(again[index], examples[index])
        same(decode_example(encode_example(examples[index])), examples[index])
    for index in (len(records), -1):
        with pytest.raises(IndexError):
            records[index]
    return examples
