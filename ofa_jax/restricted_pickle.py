"""Unpickling that cannot run code: checkpoints, lists of answers, tables of frequencies.

Plain containers, numpy's numbers and the functions that the caller allows are real; every other
class or function named in the file is refused, or becomes an inert placeholder that only remembers
what it was given. So a checkpoint whose configuration was pickled as omegaconf or argparse objects
(SPEC 2.1) can be read without those packages, and a hostile file finds nothing to call.
"""

from __future__ import annotations

import io
import itertools
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, BinaryIO, cast

import numpy as np

_MAX_FIELD_DEPTH = 12
_MAX_FIELDS = 100_000
# Calls in a pickle copy what they are given; together they may copy so many parts per byte of it.
_COPIES_PER_BYTE = 2
# Tuples that hold one another stand for billions of parts, all of which a key of a dict visits.
_HASHED_PER_BYTE = 64
_FREE = 1 << 16
# Bytes that an opcode may take in memory, rounded up: an empty set has 216 and is one byte of a
# file. Together they may be so many times the file, and some for small files.
_MEMORY = dict.fromkeys(("EMPTY_SET", "FROZENSET"), 224)
_MEMORY |= dict.fromkeys(("EMPTY_LIST", "LIST", "EMPTY_DICT", "DICT"), 72)
_MEMORY |= dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), 72)
_MEMORY |= dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), 1200)  # A class that stands for it.
_MEMORY |= dict.fromkeys(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ"), 448)
_MEMORY_PER_BYTE = 48
_FREE_MEMORY = 1 << 24
_ENDLESS = 1 << 60
_GETS = ("GET", "BINGET", "LONG_BINGET")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_PAIRS = ("SETITEMS", "DICT")
_NO_TUPLES = frozenset(
    {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
    | {"GLOBAL", "STACK_GLOBAL", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "LIST", "DICT"}
)
# Fewer second uses of tuples cannot make many parts.
_FEW_USES = 16


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
    arguments: tuple[object, ...]
    state: object
    items: list[object]

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
    _function: Callable[..., object]

    def __init__(self, function: Callable[..., object]):
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

    def __init__(self, name: str, *flags: object):
        del flags
        self.name = name
        self.order = "="

    def __setstate__(self, state) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="


def _number(scalar: _NumberType, data: bytes | str) -> object:
    """One number or string of numpy, as Python's own."""
    if not re.fullmatch(r"[biuf][1248]|[SU][0-9]{1,4}", scalar.name):
        raise UnsafePickleError(f"the pickle holds a number of the numpy type {scalar.name!r}")
    data = data.encode("latin1") if isinstance(data, str) else data
    dtype = np.dtype(scalar.order + scalar.name)
    if len(data) != dtype.itemsize:
        raise UnsafePickleError(f"the pickle holds {len(data)} bytes for a numpy {scalar.name}")
    return np.frombuffer(data, dtype)[0].item()


class _Entries(dict):
    """An ordered or default dict as what it holds; what a file says beside that is passed over."""

    def __setstate__(self, state) -> None:
        del state


def _default_entries(factory: object = None, items: Iterable = ()) -> _Entries:
    del factory
    return _Entries(items)


# What a pickle may call whatever it is a pickle of.
_PLAIN: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): _Entries,
    ("collections", "defaultdict"): _default_entries,
    **{
        (module, cls.__name__): cls
        for module in ("builtins", "__builtin__")
        for cls in (set, frozenset, dict, list, tuple, int, float)
    },
    ("__builtin__", "long"): int,
    ("_codecs", "encode"): _decoded_bytes,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(
        self,
        data: bytes,
        allowed: Mapping[tuple[str, str], object],
        persistent_load: Callable[[object], object] | None,
        placeholders: bool,
        encoding: str,
    ):
        super().__init__(io.BytesIO(data), encoding=encoding)
        self._copies = _COPIES_PER_BYTE * len(data) + _FREE
        self._allowed = allowed
        self._persistent_load = persistent_load
        self._placeholders = placeholders
        self._inert_classes: dict[tuple[str, str], type[Inert]] = {}

    def find_class(self, module: str, name: str) -> object:
        key = (module, name)
        if key == ("numpy", "dtype"):
            return _NumberType
        if key in _PLAIN or key in self._allowed:
            value = _PLAIN.get(key) or self._allowed[key]
            return self._counted(value) if callable(value) else value
        if not self._placeholders:
            raise UnsafePickleError(f"refuses to load {module}.{name}")
        if key not in self._inert_classes:
            self._inert_classes[key] = type("Inert", (Inert,), {"path": f"{module}.{name}"})
        return self._inert_classes[key]

    def _counted(self, function: Callable[..., object]) -> _Allowed:
        def call(*arguments):
            self._copies -= sum(len(one) for one in arguments if isinstance(one, Sized))
            if self._copies < 0:
                raise UnsafePickleError("the pickle makes copies of its parts again and again")
            return function(*arguments)

        return _Allowed(call)

    def persistent_load(self, pid: object) -> object:
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
    return _length_and_uses(stream)[0]


def _length_and_uses(stream: BinaryIO | mmap.mmap) -> tuple[int, int]:
    """Length of a pickle, and how often it uses something composed a second time."""
    start = stream.tell()
    opcodes = largest_memo = memos = uses = memory = 0
    composed: set[int] = set()
    previous = ""
    for opcode, argument in _opcodes(stream):
        name = opcode.name
        opcodes += 1
        memory += _MEMORY.get(name, 0)
        if name in _PUTS:
            index = memos if name == "MEMOIZE" else int(argument)
            largest_memo = max(largest_memo, index)
            memos += 1
            if previous not in _NO_TUPLES:
                composed.add(index)
        elif name == "DUP" or (name in _GETS and int(argument) in composed):
            uses += 1
        previous = name
    if largest_memo > opcodes + 1024:
        raise UnsafePickleError(f"the pickle has a memo index of {largest_memo}")
    length = stream.tell() - start
    if memory > (most := _MEMORY_PER_BYTE * length + _FREE_MEMORY):
        raise UnsafePickleError(
            f"the pickle of {length:,} bytes makes objects of {memory:,}; at most {most:,} are read"
        )
    return length, uses


def _opcodes(stream: BinaryIO | mmap.mmap) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(cast(BinaryIO, stream)):
            yield opcode, argument
    except Exception as error:
        raise UnsafePickleError(f"the pickle is cut off or damaged ({error})") from error


def _refuse_endless_keys(data: bytes) -> None:
    """Refuses tuples that hold one another so often that hashing one would never end.

    The walk keeps the stack and the memo of an unpickler, with a number of parts in the place of
    every object; it ends early at what an unpickler refuses.
    """
    hashed = 0
    stack: list[list[int] | None] = []  # None is a mark
    memo: dict[int, list[int]] = {}
    for opcode, argument in _opcodes(io.BytesIO(data)):
        if opcode.name in _GETS:
            stack.append(memo.get(int(argument), [1]))
            continue
        if opcode.name in _PUTS:
            index = len(memo) if opcode.name == "MEMOIZE" else int(argument)
            memo[index] = (stack[-1] if stack else None) or [1]
            continue
        if opcode.name == "MARK":
            stack.append(None)
            continue
        takes, taken = len(opcode.stack_before), []
        if pickletools.markobject in opcode.stack_before:
            while stack and (one := stack.pop()) is not None:
                taken.append(one)
            takes = opcode.stack_before.index(pickletools.markobject)
        below = [stack.pop() or [0] for _ in range(min(takes, len(stack)))][::-1]
        parts = min(1 + sum(one[0] for one in (*below, *taken)), _ENDLESS)
        if opcode.name in _FILLS:
            (filled := below[0] if below else [1])[0] = parts
            stack.append(filled)
        elif opcode.stack_after:
            stack += [[parts]] * len(opcode.stack_after)
        if opcode.name in _PAIRS:
            hashed += sum(key[0] for key in taken[1::2])
        elif opcode.name in ("SETITEM", "REDUCE"):
            hashed += sum(key[0] for key in below[1:2])
        elif opcode.name in ("ADDITEMS", "FROZENSET"):
            hashed += sum(key[0] for key in taken)
        if hashed > _HASHED_PER_BYTE * len(data) + _FREE:
            raise UnsafePickleError("the pickle nests its parts in one another without end")


def load_restricted(
    data: bytes,
    allowed: Mapping[tuple[str, str], object] | None = None,
    persistent_load: Callable[[object], object] | None = None,
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
    if _length_and_uses(io.BytesIO(data))[1] > _FEW_USES:
        _refuse_endless_keys(data)
    try:
        return _RestrictedUnpickler(
            data, allowed or {}, persistent_load, placeholders, encoding
        ).load()
    except UnsafePickleError:
        raise
    except Exception as error:
        # A damaged pickle can fail in any way (stack underflow, wrong types, recursion).
        raise UnsafePickleError(
            f"the pickle is damaged or does more than hold data ({type(error).__name__}: {error})"
        ) from error


def plain_fields(value: object) -> Any:
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


def _plain(value: object, depth: int, visited: Iterator[int]) -> object:
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
