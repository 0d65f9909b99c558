"""Names of the classes of GLUE, and how each distribution of the data writes them (SPEC 8.7).

Sources yield the names below as `label`, whatever their files say; tasks map them to words.
"""

from __future__ import annotations

from collections.abc import Mapping

# Task -> what the official TSV files write -> name. The names are those of TFDS.
GLUE_LABELS: Mapping[str, Mapping[str, str]] = {
    "cola": {"0": "unacceptable", "1": "acceptable"},
    # SPEC 8.7, a trap: this is not the order of GLUE itself, where entailment is 0.
    "mnli": {"0": "neutral", "1": "entailment", "2": "contradiction"},
    "mrpc": {"0": "not_equivalent", "1": "equivalent"},
    "qnli": {"0": "not_entailment", "1": "entailment"},
    "qqp": {"0": "not_duplicate", "1": "duplicate"},
    "rte": {"0": "not_entailment", "1": "entailment"},
    "sst2": {"0": "negative", "1": "positive"},
}


def glue_label(task: str, written: str) -> str:
    """The class of a row.

    Args:
      task: key of `GLUE_LABELS`.
      written: number of the official files, or the name itself.

    Returns:
      Its name.

    Raises:
      ValueError: another number or name.
    """
    names = GLUE_LABELS[task]
    if written in names.values():
        return written
    if written not in names:
        known = ", ".join(f"{number} ({name})" for number, name in names.items())
        raise ValueError(f"the class {written[:40]!r} of {task} is not one of {known}")
    return names[written]
