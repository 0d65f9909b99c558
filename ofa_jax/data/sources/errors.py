"""The error of every source, a row that is not as its format says; and the one list of reasons.

A reason is a name in the manifest and in the log, so it never changes its meaning. What a source
leaves out, what preparation drops and what an inspection flags are counted under these names.
"""

from __future__ import annotations

import enum

from ofa_jax.data.ops import image_files


class Reason(enum.StrEnum):
    """Why an example was dropped; the value is what the manifest says."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Reason:
        """A member; `meaning` is one line for people."""
        member = str.__new__(cls, value)
        member._value_, member.meaning = value, meaning
        return member

    # The record itself.
    INVALID_UTF8 = "invalid_utf8", "a text is not valid UTF-8"
    WRONG_COLUMN_COUNT = "wrong_column_count", "the row has more or fewer columns than its layout"
    UNREADABLE_RECORD = (
        "unreadable_record",
        "the source cannot read the record: a field has another form",
    )
    MISSING_FILE = "missing_file", "the record names a file that is not there"
    BAD_FIELDS = (
        "bad_fields",
        "a field is unknown, missing or of another kind, or lists do not match",
    )
    DUPLICATED_ID = "duplicated_id", "another item has the same id and says something else"
    UNLISTED_IMAGE = (
        "unlisted_image",
        "the item names an image that the annotation file does not list",
    )
    UNDECLARED_CLASS = (
        "undeclared_class",
        "a box has a class that the annotation file does not declare",
    )
    MISSING_ANNOTATION = (
        "missing_annotation",
        "an expression names a box that is not there, or of another image",
    )
    NOT_ONE_TARGET = "not_one_target", "an expression means no box, or several"
    NO_ANSWER = "no_answer", "a question has no answer"
    NO_IMAGE = "no_image", "files of a sample without an image"
    UNREAD_FILE = "unread_file", "a file that nothing reads"
    # Its image.
    EMPTY_IMAGE = "empty_image", "the example needs an image and has none, or one of no bytes"
    UNDECODABLE_IMAGE = "undecodable_image", "the image is damaged or of an unknown format"
    TRUNCATED_IMAGE = "truncated_image", "the image's file is cut off"
    MISSING_DECODER = (
        "missing_decoder",
        "the image has a format that needs a decoder, such as HEIC",
    )
    TOO_MANY_PIXELS = (
        "too_many_pixels",
        "the image has more pixels than max_pixels (a decompression bomb)",
    )
    SIDE_TOO_SHORT = "side_too_short", "the image's short side is below min_side"
    SIDE_TOO_LONG = "side_too_long", "the image's long side is above max_side"
    ASPECT_TOO_HIGH = (
        "aspect_too_high",
        "the image's long side is more than max_aspect times its short side",
    )
    CMYK_IMAGE = "cmyk_image", "the image has printing colours (CMYK), whose profile is unknown"
    OTHER_SIZE = (
        "other_size",
        "the annotation file gives the image another width and height than it has",
    )
    # Its boxes.
    NO_BOX = "no_box", "the example needs boxes and has none"
    BOX_NOT_FINITE = "box_not_finite", "a coordinate of a box is NaN or infinite"
    BOX_INVERTED = "box_inverted", "a box has x1 < x0 or y1 < y0"
    BOX_DEGENERATE = "box_degenerate", "a box has no area, or a side below min_box_side"
    BOX_OUTSIDE = "box_outside", "a box sticks out of the image by more than box_tolerance"
    BOX_IN_FIRST_PIXEL = (
        "box_in_first_pixel",
        "a box lies within one pixel at the corner: fractions, not pixels",
    )
    BOX_CROPPED_AWAY = (
        "box_cropped_away",
        "a box has no part in the square that image codes are made of",
    )
    # Its texts and numbers.
    EMPTY_TEXT = (
        "empty_text",
        "a caption, question, answer, label, expression or text is blank or missing",
    )
    TEXT_TOO_SHORT = "text_too_short", "a caption or a text has fewer words than asked for"
    TEXT_TOO_LONG = (
        "text_too_long",
        "a caption, question, answer, label, expression or text is too long",
    )
    BAD_CONFIDENCE = "bad_confidence", "an answer's confidence is not from 0 to 1"
    BAD_CODES = "bad_codes", "image codes are negative or not as many as asked for"


_REASONS = {
    UnicodeError: Reason.INVALID_UTF8,
    FileNotFoundError: Reason.MISSING_FILE,
    image_files.EmptyImageError: Reason.EMPTY_IMAGE,
    image_files.LargeImageError: Reason.TOO_MANY_PIXELS,
    image_files.MissingDecoderError: Reason.MISSING_DECODER,
    image_files.TruncatedImageError: Reason.TRUNCATED_IMAGE,
    image_files.BadImageError: Reason.UNDECODABLE_IMAGE,
}


class SourceError(ValueError):
    """Data that do not fit their format; the message names the file and the row.

    Attributes:
      reason: under which it is counted; None: as the error that it was raised from.
    """

    def __init__(self, message: object, reason: Reason | None = None):
        super().__init__(str(message))
        self.reason = reason


def reason_of(error: BaseException, otherwise: Reason) -> Reason:
    """Under which reason an error of reading is counted.

    Args:
      error: what reading raised; the causes that it was raised from count more.
      otherwise: where none of them says it.
    """
    found, cause = otherwise, error
    while cause is not None:
        if isinstance(cause, SourceError) and cause.reason is not None:
            found = cause.reason
        else:
            found = next((one for cls, one in _REASONS.items() if isinstance(cause, cls)), found)
        cause = cause.__cause__
    return found
