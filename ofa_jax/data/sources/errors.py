"""The error of every source: a row that is not as its format says."""

from __future__ import annotations


class SourceError(ValueError):
    """Data that do not fit their format; the message names the file and the row."""
