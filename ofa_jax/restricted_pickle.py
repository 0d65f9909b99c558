"""Unpickling that cannot run code: checkpoints, lists of answers, tables of frequencies.

Plain containers, numpy's numbers and the functions that the caller allows are real; every other
class or function named in the file is refused, or becomes an inert placeholder that only remembers
what it was given. So a checkpoint whose configuration was pickled as omegaconf or argparse objects
(SPEC 2.1) can be read without those packages, and a hostile file finds nothing to call.
"""

from __future__ import annotations

import collections
import io
import itertools
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, cast

import numpy as np

_MAX_FIELD_DEPTH = 12
_MAX_FIELDS = 100_000


class UnsafePickleError(ValueError):
    """The pickle is damaged, or asks for something that plain data do not need."""


class Inert:
    """Stands for an object of a class that is unknown here. It never runs code from the file.

    Attributes:
      path: dotted name of the class in the file, such as "argparse.Namespace".
      arguments: positional arguments the file gave to the constructor.
      state: what the file passed to `__setstate__` (often the attribute dict), or None.
      items: list items and (key, value) pairs the file stored in the object.
    """

    path = "unknown"
    arguments: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __new__(cls, *arguments, **keywords):
        del keywords
        self = object.__new__(cls)
        self.arguments = arguments
        self.state = None
        self.items = []
        return self

    def __init__(self, *arguments, **keywords):
        del arguments, keywords

    def __call__(self, *arguments, **keywords) -> Inert:
        del keywords
        return Inert(*arguments)

    def __setstate__(self, state) -> None:
        self.state = state

    def __setitem__(self, key, value) -> None:
        self.items.append((key, value))

    def append(self, item) -> None:
        """Keeps a list item."""
        self.items.append(item)

    def extend(self, items) -> None:
        """Keeps list items."""
        self.items.extend(items)

    def add(self, item) -> None:
        """Keeps a set member."""
        self.items.append(item)

    def __repr__(self) -> str:
        return f"<inert {self.path}>"


class _Allowed:
    """A function of ours that the pickle may call, without the attributes of a function.

    A pickle can set attributes of what it names; on a bare function that would be its defaults,
    for the whole process. This wrapper has nothing to set.
    """

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setattr__(self, name, value):
        raise UnsafePickleError(f"the pickle tries to change {name!r} of a function")

    def __setstate__(self, state):
        raise UnsafePickleError("the pickle tries to change a function")


def _decoded_bytes(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as pickle protocol 2 writes them: a latin-1 string to be encoded."""
    if encoding != "latin1":
        raise UnsafePickleError(f"the pickle asks for the text encoding {encoding!r}")
    return text.encode("latin1")


class _NumberType:
    """The type of one numpy number, as pickles describe it; only names of plain types work."""

    def __init__(self, name: str, *flags: Any):
        del flags
        self.name = name
        self.order = "="

    def __setstate__(self, state) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="


def _number(kind: _NumberType, data: bytes | str) -> Any:
    """One number or string of numpy, as Python's own."""
    if not re.fullmatch(r"[biuf][1248]|[SU][0-9]{1,4}", kind.name):
        raise UnsafePickleError(f"the pickle holds a number of the numpy type {kind.name!r}")
    data = data.encode("latin1") if isinstance(data, str) else data
    dtype = np.dtype(kind.order + kind.name)
    if len(data) != dtype.itemsize:
        raise UnsafePickleError(f"the pickle holds {len(data)} bytes for a numpy {kind.name}")
    return np.frombuffer(data, dtype)[0].item()


# Classes written in C whose attributes a pickle cannot set, and functions of this module.
_PLAIN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    **{
        (module, cls.__name__): cls
        for module in ("builtins", "__builtin__")
        for cls in (set, frozenset, dict, list, tuple, int, float)
    },
    ("__builtin__", "long"): int,
    ("_codecs", "encode"): _Allowed(_decoded_bytes),
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _Allowed(_number),
    ("numpy._core.multiarray", "scalar"): _Allowed(_number),
}


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(
        self,
        stream: BinaryIO,
        allowed: Mapping[tuple[str, str], Any],
        persistent_load: Callable[[Any], Any] | None,
        placeholders: bool,
        encoding: str,
    ):
        super().__init__(stream, encoding=encoding)
        self._allowed = allowed
        self._persistent_load = persistent_load
        self._placeholders = placeholders
        self._inert_classes: dict[tuple[str, str], type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        key = (module, name)
        if key in _PLAIN:
            return _PLAIN[key]
        if key in self._allowed:
            value = self._allowed[key]
            is_function = callable(value) and not isinstance(value, type)
            return _Allowed(value) if is_function else value
        if not self._placeholders:
            raise UnsafePickleError(f"refuses to load {module}.{name}")
        if key not in self._inert_classes:
            self._inert_classes[key] = type("Inert", (Inert,), {"path": f"{module}.{name}"})
        return self._inert_classes[key]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise UnsafePickleError("the pickle refers to storages, but none are stored here")
        return self._persistent_load(pid)


def pickle_length(stream: BinaryIO | mmap.mmap) -> int:
    """Walks one pickle without executing it.

    Args:
      stream: binary stream that stands at the first byte of a pickle; it is left just behind
        the pickle.

    Returns:
      Length of the pickle in bytes.

    Raises:
      UnsafePickleError: the pickle ends early, has unknown opcodes, or numbers its memo entries
        so high that an unpickler would allocate a huge table.
    """
    start = stream.tell()
    opcodes = 0
    largest_memo = 0
    try:
        for opcode, argument, _ in pickletools.genops(cast(BinaryIO, stream)):
            opcodes += 1
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                largest_memo = max(largest_memo, int(argument or 0))
    except Exception as error:
        raise UnsafePickleError(f"the pickle is cut off or damaged ({error})") from error
    if largest_memo > opcodes + 1024:
        raise UnsafePickleError(f"the pickle has a memo index of {largest_memo}")
    return stream.tell() - start


def load_restricted(
    data: bytes,
    allowed: Mapping[tuple[str, str], Any] | None = None,
    persistent_load: Callable[[Any], Any] | None = None,
    *,
    placeholders: bool = True,
    encoding: str = "utf-8",
) -> Any:
    """Unpickles plain containers, numbers, strings and what `allowed` names; nothing else runs.

    Numbers and strings of numpy become Python's own.

    Args:
      data: one pickle, any protocol.
      allowed: (module, name) as written in the file -> what to put in its place: a function of
        ours, or a constant.
      persistent_load: called with each persistent id (a tensor's storage).
      placeholders: whether everything else becomes an `Inert` class; otherwise it is an error.
      encoding: of strings that Python 2 pickled.

    Returns:
      The unpickled object, with `Inert` placeholders for unknown classes.

    Raises:
      UnsafePickleError: the pickle is damaged, misuses what it is allowed to use, or names
        something else, without `placeholders`.
    """
    pickle_length(io.BytesIO(data))
    try:
        return _RestrictedUnpickler(
            io.BytesIO(data), allowed or {}, persistent_load, placeholders, encoding
        ).load()
    except UnsafePickleError:
        raise
    except Exception as error:
        # A damaged pickle can fail in any way (stack underflow, wrong types, recursion).
        raise UnsafePickleError(
            f"the pickle is damaged or does more than hold data ({type(error).__name__}: {error})"
        ) from error


def plain_fields(value: Any) -> Any:
    """Turns inert configuration objects into plain dicts, lists and scalars, as far as it can.

    Knows argparse's Namespace and dataclasses (an attribute dict), omegaconf (a `_content` of nodes
    whose value is `_val`) and members of enums. What it does not know becomes None, and so does
    what lies too deep or behind more values than a configuration has.

    Args:
      value: something from an unpickled `args` or `cfg`.

    Returns:
      Nested dicts and lists of str, int, float, bool and None.
    """
    return _plain(value, _MAX_FIELD_DEPTH, itertools.count())


def _plain(value: Any, depth: int, visited: Iterator[int]) -> Any:
    # A few shared lists in one another stand for billions of values.
    if next(visited) > _MAX_FIELDS or depth == 0:
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        fields = ((k, v) for k, v in value.items() if isinstance(k, str))
        return {k: _plain(v, depth - 1, visited) for k, v in fields}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1, visited) for item in value]
    if not isinstance(value, Inert):
        return None
    state = value.state
    if isinstance(state, tuple) and state:
        state = next((part for part in state if isinstance(part, Mapping)), None)
    if isinstance(state, Mapping):
        content = next((state[name] for name in ("_content", "_val") if name in state), state)
        return _plain(content, depth - 1, visited)
    # A member of an enum is written as its class and its value.
    given = [a for a in value.arguments if isinstance(a, (str, int, float))]
    return given[0] if len(given) == 1 and not value.items else None
