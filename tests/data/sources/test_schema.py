"""The flat schema: what is right passes, and each mistake names place and field."""

import numpy as np
import pytest

from ofa_jax.data.sources import schema

EXAMPLE = {
    "image": b"JPEG",
    "image_id": "7",
    "boxes": np.zeros((2, 4), np.float32),
    "labels": ["cat", "dog"],
    "refexps": ["left", "right", "the cat"],
    "refexp_box_index": [0, 1, 0],
    "answers": ["yes"],
    "answer_conf": [0.5],
    "image_codes": np.arange(4, dtype=np.int32),
    "type": "visual_grounding",
}


def test_good_examples_pass():
    schema.check_example(EXAMPLE, "here")
    schema.check_example({"type": "text", "text": "x", "mine": object()}, "here", extra=["mine"])
    indices = np.array([0, 1, 1], np.int32)
    schema.check_example(EXAMPLE | {"refexp_box_index": indices}, "here")
    schema.check_example(EXAMPLE | {"image": np.zeros((2, 3, 3), np.uint8)}, "here")


def test_every_parallel_and_required_field_is_a_field():
    for name, field in schema.FIELDS.items():
        assert field.field_type in schema.FIELD_TYPES, name
        assert not field.parallel or field.parallel in schema.FIELDS, name
    for kind, fields in schema.TYPES.items():
        assert fields
        assert set(fields) <= set(schema.FIELDS), kind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captoins": ["x"]}, "unknown field 'captoins'; did you mean captions"),
        ({"type": "detect"}, "type is 'detect'; did you mean detection"),
        ({"type": None}, "field 'type' must be a string"),
        ({"image": "text"}, "'image' must be bytes of an image file"),
        ({"image": np.zeros((2, 3, 3))}, r"'image' must .* not float64\[2, 3, 3\]"),
        ({"boxes": np.zeros((2, 5))}, r"'boxes' must be a float array \[boxes, 4\], not float64"),
        ({"boxes": [[0, 0, 1, 1]]}, "'boxes' must be a float array"),
        ({"labels": ["cat"]}, "1 labels for 2 boxes"),
        ({"labels": ["cat", 1]}, "'labels' must be a list of strings"),
        ({"labels": ["cat", "\ud800"]}, "'labels' must be a list of strings of valid Unicode"),
        ({"answer_conf": [0.5, 0.5]}, "2 answer_conf for 1 answers"),
        ({"answer_conf": ["0.5"]}, "'answer_conf' must be a list of numbers"),
        ({"refexp_box_index": [0, 1, 2]}, "an expression means box 2 of 2"),
        ({"refexp_box_index": [0.0, 1.0, 1.0]}, "must be a list of whole numbers"),
        ({"image_codes": np.zeros(3)}, "'image_codes' must be an integer array"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(schema.SchemaError, match=message) as error:
        schema.check_example(EXAMPLE | change, "x.tsv, line 3")
    assert str(error.value).startswith("x.tsv, line 3: ")


def test_missing_fields_are_named():
    with pytest.raises(schema.SchemaError, match="'detection' lacks image"):
        schema.check_example({"type": "detection"}, "here")
    half = {"type": "detection", "image": b"", "boxes": np.zeros((0, 4), np.float32)}
    with pytest.raises(schema.SchemaError, match="'detection' lacks labels"):
        schema.check_example(half, "here")
    with pytest.raises(schema.SchemaError, match="type is None"):
        schema.check_example({"image": b""}, "here")
