"""Why an example is not prepared: the one list of reasons.

A reason is a name in the manifest and in the log, so it never changes its meaning. Everything
that refuses an example raises `RejectedExample` with one of them.
"""

from __future__ import annotations

import enum
import re

from ofa_jax.data.ops.image_files import (
    BadImageError,
    EmptyImageError,
    LargeImageError,
    MissingDecoderError,
    TruncatedImageError,
)

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# How sources begin the message about a row of too many or too few columns.
_COLUMNS = re.compile(r"\d+ columns\b")
_LONGEST_DETAIL = 200


class Reason(enum.StrEnum):
    """Why an example was dropped; the value is what the manifest says."""

    # The record itself.
    INVALID_UTF8 = "invalid_utf8"
    WRONG_COLUMN_COUNT = "wrong_column_count"
    UNREADABLE_RECORD = "unreadable_record"
    MISSING_FILE = "missing_file"
    BAD_FIELDS = "bad_fields"
    # Its picture.
    EMPTY_IMAGE = "empty_image"
    UNDECODABLE_IMAGE = "undecodable_image"
    TRUNCATED_IMAGE = "truncated_image"
    MISSING_DECODER = "missing_decoder"
    TOO_MANY_PIXELS = "too_many_pixels"
    SIDE_TOO_SHORT = "side_too_short"
    SIDE_TOO_LONG = "side_too_long"
    ASPECT_TOO_HIGH = "aspect_too_high"
    CMYK_IMAGE = "cmyk_image"
    # Its boxes.
    NO_BOX = "no_box"
    BOX_NOT_FINITE = "box_not_finite"
    BOX_INVERTED = "box_inverted"
    BOX_DEGENERATE = "box_degenerate"
    BOX_OUTSIDE = "box_outside"
    BOX_CROPPED_AWAY = "box_cropped_away"
    # Its texts and numbers.
    EMPTY_TEXT = "empty_text"
    TEXT_TOO_SHORT = "text_too_short"
    TEXT_TOO_LONG = "text_too_long"
    BAD_CONFIDENCE = "bad_confidence"
    BAD_CODES = "bad_codes"

    @property
    def meaning(self) -> str:
        """One line for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Reason.INVALID_UTF8: "a text is not valid UTF-8",
    Reason.WRONG_COLUMN_COUNT: "the row has more or fewer columns than its layout",
    Reason.UNREADABLE_RECORD: "the source cannot read the record: a field has another form",
    Reason.MISSING_FILE: "the record names a file that is not there",
    Reason.BAD_FIELDS: "a field is unknown, missing or of another kind, or lists do not match",
    Reason.EMPTY_IMAGE: "the example needs a picture and has none, or one of no bytes",
    Reason.UNDECODABLE_IMAGE: "the picture is damaged or of an unknown format",
    Reason.TRUNCATED_IMAGE: "the picture's file is cut off",
    Reason.MISSING_DECODER: "the picture has a format that needs a decoder, such as HEIC",
    Reason.TOO_MANY_PIXELS: "the picture has more pixels than max_pixels (a decompression bomb)",
    Reason.SIDE_TOO_SHORT: "the picture's short side is below min_side",
    Reason.SIDE_TOO_LONG: "the picture's long side is above max_side",
    Reason.ASPECT_TOO_HIGH: "the picture's long side is more than max_aspect times its short side",
    Reason.CMYK_IMAGE: "the picture has printing colours (CMYK), whose profile is unknown",
    Reason.NO_BOX: "the example needs boxes and has none",
    Reason.BOX_NOT_FINITE: "a coordinate of a box is NaN or infinite",
    Reason.BOX_INVERTED: "a box has x1 < x0 or y1 < y0",
    Reason.BOX_DEGENERATE: "a box has no area, or a side below min_box_side",
    Reason.BOX_OUTSIDE: "a box sticks out of the picture by more than box_tolerance",
    Reason.BOX_CROPPED_AWAY: "a box has no part in the square that image codes are made of",
    Reason.EMPTY_TEXT: "a caption, question, answer, label, expression or text is blank or missing",
    Reason.TEXT_TOO_SHORT: "a caption or a text has fewer words than asked for",
    Reason.TEXT_TOO_LONG: "a caption, question, answer, label, expression or text is too long",
    Reason.BAD_CONFIDENCE: "an answer's confidence is negative, NaN or infinite",
    Reason.BAD_CODES: "image codes are negative or not as many as asked for",
}


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


_IMAGE_REASONS: dict[type[BadImageError], Reason] = {
    EmptyImageError: Reason.EMPTY_IMAGE,
    LargeImageError: Reason.TOO_MANY_PIXELS,
    MissingDecoderError: Reason.MISSING_DECODER,
    TruncatedImageError: Reason.TRUNCATED_IMAGE,
}


def image_rejection(error: BadImageError) -> RejectedExample:
    """Names why an image cannot be read."""
    reason = _IMAGE_REASONS.get(type(error), Reason.UNDECODABLE_IMAGE)
    return RejectedExample(reason, one_line(error))


def reading_rejection(error: Exception) -> RejectedExample:
    """Names why a source could not read a record.

    Args:
      error: what `records[i]` raised; the causes that it was raised from count as well.

    Returns:
      The rejection.
    """
    reason = Reason.UNREADABLE_RECORD
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UnicodeError):
            reason = Reason.INVALID_UTF8
        elif isinstance(cause, BadImageError):
            reason = image_rejection(cause).reason
        elif isinstance(cause, FileNotFoundError):
            reason = Reason.MISSING_FILE
        elif cause.__cause__ is None and _COLUMNS.match(str(cause)):
            reason = Reason.WRONG_COLUMN_COUNT
        cause = cause.__cause__
    return RejectedExample(reason, one_line(error) or type(error).__name__)
