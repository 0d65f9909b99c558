"""An example that is not prepared, and why.

Everything that refuses an example raises `RejectedExample` with one of the reasons.
"""

from __future__ import annotations

import re

from ofa_jax.data.ops.image_files import BadImageError
from ofa_jax.data.sources.errors import Reason, reason_of

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LONGEST_DETAIL = 200


class RejectedExample(ValueError):
    """An example that is not prepared.

    Attributes:
      reason: why.
      detail: what exactly, one line.
      notes: what is counted about its image all the same; keys of `tally.NOTES`.
    """

    def __init__(self, reason: Reason, detail: str, notes: tuple[str, ...] = ()):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.notes = notes

    def __reduce__(self) -> tuple[type, tuple[Reason, str, tuple[str, ...]]]:
        return type(self), (self.reason, self.detail, self.notes)


def one_line(message: object) -> str:
    """A message for the manifest: one line, of bounded length, equal in every run.

    Memory addresses, which some libraries print, are left out.
    """
    text = _ADDRESS.sub("", " ".join(str(message).split()))
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= _LONGEST_DETAIL else text[: _LONGEST_DETAIL - 3] + "..."


def image_rejection(error: BadImageError) -> RejectedExample:
    """Names why an image cannot be read."""
    return RejectedExample(reason_of(error, Reason.UNDECODABLE_IMAGE), one_line(error))


def reading_rejection(error: Exception) -> RejectedExample:
    """Names why a source could not read a record.

    Args:
      error: what `records[i]` raised; the causes that it was raised from count as well.

    Returns:
      The rejection.
    """
    reason = reason_of(error, Reason.UNREADABLE_RECORD)
    return RejectedExample(reason, one_line(error) or type(error).__name__)
