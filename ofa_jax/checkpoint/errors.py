"""What can go wrong with the checkpoints of a run; every message is one line."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read."""


class CheckpointStructureError(CheckpointError):
    """A readable checkpoint of another model or optimizer."""


class ModelMismatchError(CheckpointError):
    """The directory holds checkpoints of another model."""


def one_line(error: BaseException) -> str:
    """Type and first line of an exception.

    Args:
      error: any exception; those of storage libraries run over many lines.

    Returns:
      For example "ValueError: no such key".
    """
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
