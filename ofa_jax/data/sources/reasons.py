"""Why data are not used: the one list of reasons.

A reason is a name in the manifest and in the log, so it never changes its meaning. What a source
leaves out, what preparation drops and what an inspection flags are counted under these names.
"""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Why an example was dropped; the value is what the manifest says."""

    # The record itself.
    INVALID_UTF8 = "invalid_utf8"
    WRONG_COLUMN_COUNT = "wrong_column_count"
    UNREADABLE_RECORD = "unreadable_record"
    MISSING_FILE = "missing_file"
    BAD_FIELDS = "bad_fields"
    DUPLICATED_ID = "duplicated_id"
    UNLISTED_IMAGE = "unlisted_image"
    UNDECLARED_CLASS = "undeclared_class"
    MISSING_ANNOTATION = "missing_annotation"
    NOT_ONE_TARGET = "not_one_target"
    NO_ANSWER = "no_answer"
    NO_IMAGE = "no_image"
    UNREAD_FILE = "unread_file"
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
    OTHER_SIZE = "other_size"
    # Its boxes.
    NO_BOX = "no_box"
    BOX_NOT_FINITE = "box_not_finite"
    BOX_INVERTED = "box_inverted"
    BOX_DEGENERATE = "box_degenerate"
    BOX_OUTSIDE = "box_outside"
    BOX_IN_FIRST_PIXEL = "box_in_first_pixel"
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
    Reason.DUPLICATED_ID: "another item has the same id and says something else",
    Reason.UNLISTED_IMAGE: "the item names a picture that the annotation file does not list",
    Reason.UNDECLARED_CLASS: "a box has a class that the annotation file does not declare",
    Reason.MISSING_ANNOTATION: "an expression names a box that is not there, or of another picture",
    Reason.NOT_ONE_TARGET: "an expression means no box, or several",
    Reason.NO_ANSWER: "a question has no answer",
    Reason.NO_IMAGE: "files of a sample without a picture",
    Reason.UNREAD_FILE: "a file that nothing reads",
    Reason.EMPTY_IMAGE: "the example needs a picture and has none, or one of no bytes",
    Reason.UNDECODABLE_IMAGE: "the picture is damaged or of an unknown format",
    Reason.TRUNCATED_IMAGE: "the picture's file is cut off",
    Reason.MISSING_DECODER: "the picture has a format that needs a decoder, such as HEIC",
    Reason.TOO_MANY_PIXELS: "the picture has more pixels than max_pixels (a decompression bomb)",
    Reason.SIDE_TOO_SHORT: "the picture's short side is below min_side",
    Reason.SIDE_TOO_LONG: "the picture's long side is above max_side",
    Reason.ASPECT_TOO_HIGH: "the picture's long side is more than max_aspect times its short side",
    Reason.CMYK_IMAGE: "the picture has printing colours (CMYK), whose profile is unknown",
    Reason.OTHER_SIZE: "the annotation file gives the picture another width and height than it has",
    Reason.NO_BOX: "the example needs boxes and has none",
    Reason.BOX_NOT_FINITE: "a coordinate of a box is NaN or infinite",
    Reason.BOX_INVERTED: "a box has x1 < x0 or y1 < y0",
    Reason.BOX_DEGENERATE: "a box has no area, or a side below min_box_side",
    Reason.BOX_OUTSIDE: "a box sticks out of the picture by more than box_tolerance",
    Reason.BOX_IN_FIRST_PIXEL: "a box lies within one pixel at the corner: fractions, not pixels",
    Reason.BOX_CROPPED_AWAY: "a box has no part in the square that image codes are made of",
    Reason.EMPTY_TEXT: "a caption, question, answer, label, expression or text is blank or missing",
    Reason.TEXT_TOO_SHORT: "a caption or a text has fewer words than asked for",
    Reason.TEXT_TOO_LONG: "a caption, question, answer, label, expression or text is too long",
    Reason.BAD_CONFIDENCE: "an answer's confidence is negative, NaN or infinite",
    Reason.BAD_CODES: "image codes are negative or not as many as asked for",
}
