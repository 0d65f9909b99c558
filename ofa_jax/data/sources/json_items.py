"""Reading large JSON files item by item, in memory of one item.

Annotation files reach several gigabytes (Objects365), too large to parse at once. They are one
object of a few sections, or one long list; `items` walks them with the standard decoder, one
entry of a section at a time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, TextIO

from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.lines import require_text

_CHUNK = 1 << 20
# One item larger than this is taken for damage (an unclosed bracket), not for data.
_LARGEST_ITEM = 1 << 28
_SPACE = " \t\n\r"
_CLOSING = frozenset(",]}:" + _SPACE)


class Item(NamedTuple):
    """One entry of a section.

    Attributes:
      section: its key in the file's object, or "" where the file is one list or one mapping.
      key: position in a list, from 0, or key of a mapping.
      value: the parsed entry.
    """

    section: str
    key: int | str
    value: Any

    @property
    def place(self) -> str:
        """Where it stands, such as `annotations[17]`."""
        return f"{self.section}[{self.key!r}]" if self.section else f"entry {self.key!r}"


def items(path: str, sections: Collection[str] | None = None) -> Iterator[Item]:
    """Walks the entries of a file.

    Args:
      path: a JSON file, UTF-8, with or without a byte-order mark.
      sections: keys of the file's object whose entries are wanted, a list's or a mapping's; a
        section that holds a single value comes as one entry of key 0. None: the file itself is
        the list or mapping whose entries are wanted.

    Yields:
      The entries in the file's order.

    Raises:
      SourceError: not JSON, not UTF-8, compressed, or cut off; the message names the file and
        the place.
    """
    require_text(path)
    with open(path, encoding="utf-8-sig") as file:
        text = _Text(path, file)
        if sections is None:
            yield from _entries(text, "")
            return
        if text.peek() != "{":
            raise SourceError(f"{path} does not hold an object with the keys {', '.join(sections)}")
        for section in _keys(text):
            if section not in sections:
                text.place = f"{section!r}"
                for _ in _entries(text, section):
                    pass
            else:
                yield from _entries(text, section)


def _entries(text: _Text, section: str) -> Iterator[Item]:
    """Entries of the list or mapping that begins here, or the single value."""
    opening = text.peek()
    if opening == "[":
        text.take("[")
        number = 0
        while text.peek() != "]":
            if number:
                text.take(",")
            text.place = f"{section or 'entry'}[{number}]"
            yield Item(section, number, text.value())
            number += 1
        text.take("]")
    elif opening == "{":
        for key in _keys(text):
            yield Item(section, key, text.value())
    else:
        yield Item(section, 0, text.value())


def _keys(text: _Text) -> Iterator[str]:
    """Keys of the object that begins here; the caller reads each value before going on."""
    text.take("{")
    first = True
    while text.peek() != "}":
        if not first:
            text.take(",")
        first = False
        key = text.value()
        if not isinstance(key, str):
            raise text.error("a key is not a string")
        text.take(":")
        text.place = f"{key!r}"
        yield key
    text.take("}")


class _Text:
    """A window of the file that slides as values are taken from it."""

    def __init__(self, path: str, file: TextIO):
        self._path = path
        self._file = file
        self._window = ""
        self._position = 0
        self._ended = False
        self._decoder = json.JSONDecoder()
        self.place = "its beginning"

    def error(self, problem: object) -> SourceError:
        return SourceError(f"{self._path}, at {self.place}: {problem}")

    def peek(self) -> str:
        """The next character that is not white space."""
        while True:
            while self._position < len(self._window):
                character = self._window[self._position]
                if character not in _SPACE:
                    return character
                self._position += 1
            if not self._more(_CHUNK):
                raise self.error("the file ends too early")

    def take(self, expected: str) -> None:
        """Steps over one character."""
        found = self.peek()
        if found != expected:
            raise self.error(f"not JSON: {expected!r} is expected, {found!r} found")
        self._position += 1

    def value(self) -> Any:
        """Parses the value that begins here."""
        self.peek()
        step = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._position)
                # A number near the end of the window may go on ("1" of "1.5").
                closed = self._window[end : end + 1] in _CLOSING
                if (end < len(self._window) and closed) or not self._more(step):
                    self._position = end
                    return value
            except RecursionError as error:
                raise self.error("not JSON: nested too deeply") from error
            except ValueError as error:  # also of numbers of thousands of digits
                size = len(self._window) - self._position
                if size > _LARGEST_ITEM or not self._more(step):
                    raise self.error(f"not JSON: {getattr(error, 'msg', error)}") from error
            step *= 2

    def _more(self, size: int) -> bool:
        """Reads on; False at the end of the file."""
        if self._ended:
            return False
        try:
            chunk = self._file.read(size)
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8: {error.reason}") from error
        self._ended = not chunk
        self._window = self._window[self._position :] + chunk
        self._position = 0
        return bool(chunk)
