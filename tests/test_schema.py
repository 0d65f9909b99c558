"""The validator at the door: what passes, and the one line for what does not."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest

from ofa_jax import schema
from ofa_jax.model.config import SIZES, OFAConfig
from ofa_jax.schema import Between, SchemaError


@dataclasses.dataclass(frozen=True)
class Inner:
    count: Annotated[int, Between(1, 1024)]
    widths: tuple[int, ...] = (1,)
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pair: tuple[str, float] | None = None
    names: str | Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    name: Annotated[str, Between(1, 9)] = "x"
    mode: Literal["max", "min"] = "max"
    anything: Any = None

    def __post_init__(self):
        if self.name == "bad":
            raise ValueError("no bad names")


def test_lists_become_tuples_and_objects_dataclasses():
    fields = {"inner": {"count": 3, "widths": [1, 2], "pair": ["a", 1], "names": ["b"]}}
    found = schema.build(Outer, fields, "file")
    assert found == Outer(Inner(3, (1, 2), pair=("a", 1), names=["b"]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "file: must be an object with fields, got []"),
        ({}, "file: lacks the field 'inner'"),
        ({"inner": {"count": 1}, "nam": 1}, "file: unknown field 'nam'; there are inner, name"),
        ({"inner": 3}, "file, inner: must be an object with fields, got 3"),
        ({"inner": {"count": 10**9}}, "file, inner: count must be a whole number from 1 to 1,024"),
        ({"inner": {"count": True}}, "count must be a whole number from 1 to 1,024, got True"),
        ({"inner": {"count": 10**5000}}, "got a number of thousands of digits"),
        ({"inner": {"count": 1, "widths": [1, "a"]}}, "widths[1] must be a whole number, got 'a'"),
        ({"inner": {"count": 1, "rates": {"v": "2"}}}, "rates['v'] must be a number, got '2'"),
        ({"inner": {"count": 1, "rates": {"v": float("nan")}}}, "must be a number, got nan"),
        ({"inner": {"count": 1, "pair": ["a"]}}, "pair must be a list of 2: a text, a number or"),
        ({"inner": {"count": 1, "names": [1]}}, "names[0] must be a text, got 1"),
        ({"inner": {"count": 1}, "name": ""}, "name must be a text of 1 to 9 characters"),
        ({"inner": {"count": 1}, "mode": "mox"}, "mode must be one of 'max', 'min', got 'mox'"),
        ({"inner": {"count": 1}, "name": "bad"}, "file: no bad names"),
    ],
)
def test_what_is_wrong_is_one_line(fields, message):
    with pytest.raises(SchemaError) as caught:
        schema.build(Outer, fields, "file")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_fields_of_later_versions_are_ignored_where_that_is_asked():
    fields = {"inner": {"count": 1, "later": 2}, "later": 3}
    assert schema.build(Outer, fields, "file", unknown="ignore") == Outer(Inner(1))


def test_settings_and_arguments():
    with pytest.raises(SchemaError, match=r"owner\.mode .*'max', 'min', got 3"):
        schema.check(Outer(Inner(1), mode=3), "owner")

    def function(steps: Annotated[int, Between(1, 9)], names: Sequence[str] = ()) -> None:
        del steps, names

    schema.check_arguments(function, {"steps": 9, "names": ["a"]}, "run")
    with pytest.raises(SchemaError, match=r"run\.steps .*1 to 9, got 10"):
        schema.check_arguments(function, {"steps": 10}, "run")


def test_json_of_any_depth_and_size(tmp_path):
    deepest = "[" * schema.DEEPEST_JSON + "]" * schema.DEEPEST_JSON
    assert schema.parse_json(deepest, "text")
    flat = json.dumps([[number] for number in range(500)])
    assert len(schema.parse_json(flat, "text")) == 500
    for text in (f"[{deepest}]", "[" * 10**6, '{"a":' * 10**5):
        with pytest.raises(SchemaError, match=r"text: .*nested too deeply"):
            schema.parse_json(text, "text")
    for text in ("", "{", b"\xff", "9" * 5000):
        with pytest.raises(SchemaError, match="text: cannot be read as JSON"):
            schema.parse_json(text, "text")
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert schema.read_json(path) == [1]
    with pytest.raises(LookupError, match=r"a\.json: .*an object, found list"):
        schema.read_json(path, LookupError, expected=dict)
    with pytest.raises(SchemaError, match=r"6 bytes; .*5"):
        schema.read_json(path, largest=5)


def test_shown_is_short():
    value: list = []
    for _ in range(60):
        value = [value, value]
    assert len(schema.shown(value)) < 5000
    assert len(schema.shown("x" * 10**6)) < 100


@pytest.mark.parametrize("size", SIZES)
def test_configurations_come_back_from_json(size):
    fields = json.loads(json.dumps(dataclasses.asdict(SIZES[size])))
    assert schema.build(OFAConfig, fields, "file") == SIZES[size]
