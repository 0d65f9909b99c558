"""The error of every source: a row that is not as its format says."""

from __future__ import annotations

from ofa_jax.data.ops import image_files
from ofa_jax.data.sources.reasons import Reason

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
            found = next((one for kind, one in _REASONS.items() if isinstance(cause, kind)), found)
        cause = cause.__cause__
    return found
