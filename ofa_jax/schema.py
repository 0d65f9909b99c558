"""What comes from outside, checked at its door: JSON of any origin, and the fields of settings.

A foreign text is parsed by `parse_json` or `read_json` and made into a dataclass by `build`, which
compares every field with its annotation; settings compare themselves by `check`. Behind a door
everything has the type that it says. What does not pass is one line: the file, the field, what
would be right. Bounds stand in the annotations: `Annotated[int, Between(1, 1024)]`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import math
import pathlib
import re
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar

# Bytes of the largest JSON file that is read at once, and levels of lists and objects in one.
LARGEST_JSON = 1 << 28
DEEPEST_JSON = 100
# More names are not listed in a message.
_MOST_SHOWN = 40

_Made = TypeVar("_Made")
_SIMPLE = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
_SIMPLE |= {type(None): "None"}
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


class SchemaError(ValueError):
    """A file or a setting is not as it should be; the message names it and what would be right."""


@dataclasses.dataclass(frozen=True)
class Between:
    """Bounds of a number, or of the length of a text or list; both are allowed.

    Attributes:
      least: the smallest.
      most: the largest.
    """

    least: float
    most: float

    def __str__(self) -> str:
        least, most = (
            f"{one:,}" if type(one) is int else f"{one:.10g}" for one in (self.least, self.most)
        )
        return f"{least} to {most}"


def shown(value: object) -> str:
    """A foreign value for a message: short, however large or nested it is."""
    try:
        return _short.repr(value)
    except ValueError:
        return "a number of thousands of digits"


def meanings(described: type) -> dict[str, str]:
    """What the docstring of a class says of each of its attributes, in one line."""
    found = re.findall(
        r"^  (\w+): (.+(?:\n    .+)*)", inspect.getdoc(described) or "", re.MULTILINE
    )
    return {name: " ".join(meaning.split()) for name, meaning in found}


def nearest(name: str, known: Collection[str], most: int = 1) -> str:
    """A hint for messages about an unknown name.

    Args:
      name: what was given.
      known: what would be right.
      most: how many are proposed.

    Returns:
      "; did you mean x?" where one is close, else "; known: a, b, c"; of very many names, "".
    """
    if close := difflib.get_close_matches(name, sorted(known), most):
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(known)}" if len(known) <= _MOST_SHOWN else ""


def require_known(what: str, name: str, known: Collection[str]) -> None:
    """Fails on a name that is not among some.

    Raises:
      ValueError: with the nearest, or all.
    """
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}{nearest(name, known)}")


def parse_json(text: str | bytes, name: object, error: Callable[[str], Exception] = SchemaError):
    """Parses a JSON text.

    Args:
      text: bytes are UTF-8; a byte-order mark is left out.
      name: where it stands, for messages.
      error: makes the exception from a message.

    Returns:
      The value, whose lists and objects are at most `DEEPEST_JSON` levels deep.

    Raises:
      SchemaError: or `error`: not JSON, not UTF-8, or nested too deeply.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        value = json.loads(text)
        # Counting brackets is fast, and settles almost every text.
        if text.count("[") + text.count("{") > DEEPEST_JSON:
            _require_shallow(value)
    except RecursionError:
        raise error(f"{name}: cannot be read as JSON (nested too deeply)") from None
    except ValueError as problem:
        raise error(f"{name}: cannot be read as JSON ({problem})") from problem
    return value


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST_JSON):
        parts = (one.values() if isinstance(one, dict) else one for one in level)
        level = [below for one in parts for below in one if isinstance(below, list | dict)]
        if not level:
            return
    raise RecursionError


def read_json(
    path: Any,
    error: Callable[[str], Exception] = SchemaError,
    *,
    expected: type = object,
    largest: int = LARGEST_JSON,
) -> Any:
    """Reads a JSON file; see `parse_json`.

    Args:
      path: the file, of any path type that has `stat` and `read_bytes`.
      error: makes the exception from a message.
      expected: what the file must hold: dict, list, or object for anything.
      largest: bytes of the largest file that is read.

    Raises:
      SchemaError: or `error`; the message names the file.
      OSError: it is not there or cannot be read.
    """
    path = pathlib.Path(path) if isinstance(path, str) else path
    if (size := path.stat().st_size) > largest:
        raise error(f"{path}: has {size:,} bytes; at most {largest:,} are read")
    value = parse_json(path.read_bytes(), path, error)
    if not isinstance(value, expected):
        wanted = {dict: "an object", list: "a list"}.get(expected, expected.__name__)
        raise error(f"{path}: expected JSON with {wanted}, found {type(value).__name__}")
    return value


def build(
    cls: type[_Made],
    values: object,
    name: object,
    error: Callable[[str], Exception] = SchemaError,
    *,
    unknown: Literal["refuse", "ignore"] = "refuse",
) -> _Made:
    """Makes a dataclass of parsed JSON, dataclasses in its fields included.

    Args:
      cls: the dataclass.
      values: fields by name; lists become tuples where the annotation says so.
      name: file and place, for messages.
      error: makes the exception from a message.
      unknown: what becomes of fields that the class does not have, as a later version may write.

    Raises:
      SchemaError: or `error`: a field is unknown, missing, of another type or out of its bounds.
    """
    if not isinstance(values, Mapping):
        raise error(f"{name}: must be an object with fields, got {shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    strange = [key for key in values if key not in fields]
    if strange and unknown == "refuse":
        raise error(f"{name}: unknown field {shown(strange[0])}; there are {', '.join(fields)}")
    hints, made = _hints(cls), {}
    for key, field in fields.items():
        if key in values:
            value = _as_tuples(values[key], hints[key])
            if isinstance(hints[key], type) and dataclasses.is_dataclass(hints[key]):
                value = build(hints[key], value, f"{name}, {key}", error, unknown=unknown)
            elif fault := _fault(value, hints[key], key):
                raise error(f"{name}: {fault}")
            made[key] = value
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise error(f"{name}: lacks the field {key!r}")
    try:
        return cls(**made)
    except ValueError as problem:
        raise error(f"{name}: {problem}") from problem


def check(instance: object, owner: str) -> None:
    """Compares the fields of a dataclass with their annotations.

    Args:
      instance: of a dataclass.
      owner: its name, for messages.

    Raises:
      SchemaError: names the first field that is wrong, and what would be right.
    """
    check_values(_hints(type(instance)), vars(instance), owner)


def check_arguments(function: object, values: Mapping[str, object], owner: str) -> None:
    """Compares arguments with a function's annotations; raises as `check`."""
    check_values(_hints(function), values, owner)


def check_values(hints: Mapping[str, object], values: Mapping[str, object], owner: str) -> None:
    """Compares values with the annotations of the same names; raises as `check`."""
    for name in hints.keys() & values.keys():
        if fault := _fault(values[name], hints[name], f"{owner}.{name}".lstrip(".")):
            raise SchemaError(fault)


@functools.cache
def _hints(owner: object) -> dict[str, Any]:
    found = typing.get_type_hints(owner, include_extras=True)
    found.pop("return", None)
    return found


def _as_tuples(value: object, hint: object) -> object:
    """Lists as tuples where only these are allowed, at any depth of the annotation."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _as_tuples(value, parts[0])
    if origin in (typing.Union, types.UnionType):
        parts = next((typing.get_args(one) for one in parts if typing.get_origin(one) is tuple), ())
        origin = tuple if parts else origin
    if origin is not tuple or not isinstance(value, list):
        return value
    inner = [parts[0]] * len(value) if parts[-1] is ... else [*parts, *[Any] * len(value)]
    return tuple(_as_tuples(one, part) for one, part in zip(value, inner))


def _fault(value: object, hint: object, place: str) -> str:
    """What is wrong with a value: "PLACE must be ..., got ..."; "" where nothing is."""
    if not _is_of(value, hint):
        return f"{place} must be {_words(hint)}, got {shown(value)}"
    for one in _alternatives(hint):
        origin, parts = typing.get_origin(one), typing.get_args(one)
        if isinstance(value, Mapping) and len(parts) == 2:
            inner = [(key, parts[0], f"a key of {place}") for key in value]
            inner += [(part, parts[1], f"{place}[{shown(key)}]") for key, part in value.items()]
        elif isinstance(value, list | tuple) and parts:
            each = parts if origin is tuple and parts[-1] is not ... else parts[:1] * len(value)
            places = (f"{place}[{number}]" for number in range(len(value)))
            inner = list(zip(value, each, places))
        else:
            continue
        faults = (_fault(*part) for part in inner)
        return next(filter(None, faults), "")
    return ""


def _alternatives(hint: object) -> Sequence[object]:
    if typing.get_origin(hint) is typing.Annotated:
        return _alternatives(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _is_of(value: object, hint: object) -> bool:
    """Whether a value is of an annotation, not counting what stands inside a list or mapping."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin is typing.Annotated:
        bounds = [one for one in parts[1:] if isinstance(one, Between)]
        return _is_of(value, parts[0]) and all(_within(value, one) for one in bounds)
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, one) for one in parts)
    if origin is Literal:
        return value in parts
    if hint is float:
        return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and type(value) is not bool
    if origin in (Sequence, tuple):
        right = isinstance(value, list | tuple)
        return right and (origin is Sequence or parts[-1] is ... or len(value) == len(parts))
    runtime_type = origin or hint
    return not isinstance(runtime_type, type) or isinstance(value, runtime_type)


def _within(value: Any, bounds: Between) -> bool:
    if value is None:
        return True
    number = len(value) if isinstance(value, str | list | tuple | Mapping) else value
    return bounds.least <= number <= bounds.most


def _words(hint: Any) -> str:
    """An annotation for people."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        is_number = any(one in (int, float) for one in _alternatives(parts[0]))
        before, behind = ("from ", "") if is_number else ("of ", " characters or entries")
        return " ".join([_words(parts[0]), *(f"{before}{one}{behind}" for one in parts[1:])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, parts))
    if origin is Literal:
        return f"one of {', '.join(repr(one) for one in parts)}"
    if origin is tuple and parts[-1] is not ...:
        return f"a list of {len(parts)}: {', '.join(map(_words, parts))}"
    if origin in (Sequence, tuple):
        return f"a list, each {_words(parts[0])}"
    if origin in (Mapping, dict) and parts[1] in (Any, object):
        return "a dictionary of names and values"
    if origin is Mapping:
        return f"a dictionary {{{_words(parts[0])}: {_words(parts[1])}}}"
    return _SIMPLE.get(hint, f"a {getattr(hint, '__name__', hint)}")
