"""What a field of an annotation file holds: a text, an identifier, a flag; or that it is missing.

JSON, CSV and parquet say "nothing" in many ways, and `str` turns all of them into words. Every
source reads its fields here.
"""

from __future__ import annotations

import math
import numbers
import re

import numpy as np

from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.schema import shown

# Letters and signs that show nothing, beside those that Unicode calls control or format.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0") | set(
    map(chr, range(0xFE00, 0xFE10))
)
_NUMBER = re.compile(
    r"[-+]?([0-9]{1,400}(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,4})?|[-+]?(nan|inf|infinity)",
    re.IGNORECASE | re.ASCII,
)
_WHOLE = re.compile(r"[+-]?[0-9]+")
# Python refuses to convert longer ones, which no data set counts up to.
_LONGEST_NUMBER = 4_000
_FLAGS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True}


def is_blank(value: str) -> bool:
    """Whether a text shows nothing: white space, zero-width and control characters, fillers."""
    return not any(
        one.isprintable() and not one.isspace() and one not in _INVISIBLE for one in value
    )


def number(value: object, what: str = "the number") -> float:
    """A number, or a text of ASCII digits that writes one; NaN and infinite ones are numbers here.

    Python's own `float` would take "1_0", full-width digits and truth values.

    Raises:
      SourceError: it is none.
    """
    is_real = isinstance(value, float | np.floating | np.integer)
    is_whole = type(value) is int and abs(value) < 10**300
    if is_real or is_whole or (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        return float(value)
    raise SourceError(f"{what} is {shown(value)}, not a number")


def optional_text(value: object, what: str = "the text") -> str | None:
    """The text of a field.

    Args:
      value: as the file's reader gives it.
      what: the field, for messages.

    Returns:
      The text without NUL characters; of a number its digits (3, not 3.0). None for what says
      nothing: null, NaN, blank.

    Raises:
      SourceError: a truth value, a list, an object or another value that is no text.
      UnicodeDecodeError: bytes that are not UTF-8.
    """
    if value is None or (isinstance(value, numbers.Real) and not math.isfinite(value)):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8-sig")
    if isinstance(value, str):
        return None if is_blank(value) else value.replace("\0", "")
    if isinstance(value, numbers.Integral | float | np.floating) and not isinstance(value, bool):
        whole = isinstance(value, numbers.Integral) or float(value).is_integer()
        return str(int(value)) if whole else str(value)
    words: dict = {bool: "a truth value", dict: "an object", list: "a list", tuple: "a list"}
    found = words.get(type(value), f"a {type(value).__name__}")
    hint = f"; its parts are {', '.join(map(str, value))}" if isinstance(value, dict) else ""
    raise SourceError(f"{what} is {found}, not a text{hint}", Reason.BAD_FIELDS)


def text(value: object, what: str = "the text") -> str:
    """The text of a field that must have one; see `optional_text`.

    Raises:
      SourceError: it is missing or no text.
    """
    found = optional_text(value, what)
    if found is None:
        raise SourceError(f"{what} is missing", Reason.EMPTY_TEXT)
    return found


def identifier(value: object, what: str = "the id") -> int | str:
    """An identifier by its value: "1", "01", 1 and 1.0 are one, 1.2 and 1.7 are two.

    Args:
      value: as the file's reader gives it.
      what: the field, for messages.

    Returns:
      A number of any length, or the text.

    Raises:
      SourceError: it is missing or no identifier.
    """
    found = text(value, what).strip()
    if _WHOLE.fullmatch(found) and len(found) < _LONGEST_NUMBER:
        return int(found)
    return found


def flag(value: object, what: str = "the flag") -> bool:
    """A truth value, however a file writes it; what is missing is false.

    Raises:
      SourceError: it is something else.
    """
    if isinstance(value, bool):
        return value
    found = (optional_text(value, what) or "0").strip().lower()
    if found not in _FLAGS:
        raise SourceError(f"{what} is {found[:20]!r}, neither true nor false", Reason.BAD_FIELDS)
    return _FLAGS[found]
