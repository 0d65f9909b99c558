"""The one check that all metrics share: predictions and truths must pair up, and not be empty."""

from __future__ import annotations

from collections.abc import Sized


def check_pairs(
    predictions: Sized, targets: Sized, *, names: str = "predictions and targets"
) -> int:
    """Checks that two collections have the same, positive length.

    Args:
      predictions: any sized collection.
      targets: any sized collection.
      names: how an error calls the two.

    Returns:
      The common length.

    Raises:
      ValueError: where the lengths differ or are zero.
    """
    if len(predictions) != len(targets):
        raise ValueError(
            f"{names} must pair up one to one, got {len(predictions)} and {len(targets)}"
        )
    if len(predictions) == 0:
        raise ValueError(f"{names} are empty; a score needs at least one example")
    return len(predictions)
