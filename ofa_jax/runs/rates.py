"""The data sets of a mixture by name: their rates, and which of them lie on disk.

Tasks over real data are named `<data set>_<kind of task>`; settings and messages may speak of the
data set, which stands for all its tasks.
"""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence

from ofa_jax.data.preparation.summary import loss_of
from ofa_jax.data.sources import locations
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.schema import nearest

logger = logging.getLogger("ofa_jax")

_RATES = "DatasetConfig.rates"
_OFFICIAL_FILE = "{DATA_DIR}/vision_language_examples.tsv"


def data_sets(tasks: Sequence[OFATask]) -> list[str]:
    """Names of the data sets behind tasks, such as "cc12m" of "cc12m_captioning"."""
    suffixes = [(task.name, f"_{task.family}") for task in tasks]
    return list(
        dict.fromkeys(name.removesuffix(end) for name, end in suffixes if name.endswith(end))
    )


def _members(name: str, tasks: Sequence[OFATask]) -> list[OFATask]:
    """Tasks that a name stands for: a task, else those of a data set, a family or a variant."""
    exact = [task for task in tasks if task.name == name]
    alike = [task for task in tasks if name in (task.family, task.variant)]
    of_set = [task for task in tasks if task.name.startswith(f"{name}_")]
    return exact or of_set or alike


def change_rates(
    found: Sequence[tuple[OFATask, float]], changes: Mapping[str, float]
) -> list[tuple[OFATask, float]]:
    """Replaces rates of a mixture.

    Args:
      found: tasks and rates.
      changes: name of a task, data set or family to its new rate; 0 leaves it out. Where a name
        stands for several tasks, the rate is their sum and they keep their proportions.

    Returns:
      The tasks of positive rate with their new rates.

    Raises:
      ValueError: a name that is not in the mixture, a negative rate, or nothing left.
    """
    tasks = [task for task, _ in found]
    rates = {task.name: float(rate) for task, rate in found}
    families = {task.family for task in tasks}
    for name, rate in changes.items():
        if not _members(name, tasks):
            known = sorted(rates.keys() | families | set(data_sets(tasks)))
            raise ValueError(f"{_RATES}: the mixture has no task {name!r}{nearest(name, known)}")
        if rate < 0:
            raise ValueError(f"{_RATES}: the rate of {name!r} is {rate}")
    zeros = [name for name, rate in changes.items() if not rate]
    out = {task.name for name in zeros for task in _members(name, tasks)}
    kept = [task for task in tasks if task.name not in out]
    # A task's own rate counts more than that of its data set or family, so it is set last.
    for name, rate in sorted(changes.items(), key=lambda item: item[0] in rates):
        members = _members(name, kept) if rate else []
        total = sum(rates[task.name] for task in members)
        for task in members:
            rates[task.name] *= rate / total
    if not kept:
        raise ValueError(f"{_RATES}: every rate is zero; give at least one task a positive rate")
    return [(task, rates[task.name]) for task in kept]


def check_presence(tasks: Sequence[OFATask], split: str, mixture: str) -> None:
    """Refuses a run some of whose data are not on disk, naming all that is missing at once.

    Args:
      tasks: tasks of positive rate.
      split: split that training reads.
      mixture: name of the mixture or task, for the message.

    Raises:
      ValueError: one line: what is missing, where it should lie, how to leave it out.
    """
    errors = {}
    losses: dict[str, list[str]] = {}
    for task in tasks:
        try:
            records = task.source.open(split)
        except ValueError as error:
            errors[task.name] = str(error)
        else:
            losses.setdefault(loss_of(task.source, records, split), []).append(task.name)
    losses.pop("", None)
    for loss, names in losses.items():
        logger.warning("%s: %s", ", ".join(names), loss)
    if not errors:
        return
    if len(errors) == len(tasks) and len(set(errors.values())) == 1:
        name, error = next(iter(errors.items()))
        raise ValueError(f"task {name!r}, split {split!r} (DatasetConfig.split): {error}")
    missing = _missing_sets(tasks, errors)
    by_reason: dict[str, list[str]] = {}
    for name, error in missing.items():
        by_reason.setdefault(_reason(name, error), []).append(name)
    what = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
    line = f"{mixture!r} has no {split} data for {what}."
    if len(errors) < len(tasks):
        zeros = "{" + ", ".join(f"'{name}': 0" for name in missing) + "}"
        line += (
            " Fill them as docs/data.md says, take another mixture_or_task_name, or leave them "
            f"out: {_RATES} = {zeros}"
        )
    else:
        line += " Nothing is there: is DATA_DIR right? docs/data.md says how to fill it"
        if _has_official_files():
            line += (
                "; the official TSV files that lie there are read by mixture_or_task_name = "
                '"ofa_pretrain_tsv"'
            )
    raise ValueError(line)


def _has_official_files() -> bool:
    try:
        return pathlib.Path(locations.resolve(_OFFICIAL_FILE)).is_file()
    except ValueError:  # no DATA_DIR
        return False


def _reason(name: str, error: str) -> str:
    """The first clause of an error; equal for all data sets that lack only their directory."""
    clause = error.split("; ")[0]
    parent = clause.removesuffix(f"{os.sep}{name} does not exist")
    return clause if parent == clause else f"no such directory in {parent}"


def _missing_sets(tasks: Sequence[OFATask], errors: Mapping[str, str]) -> dict[str, str]:
    """Data sets all of whose tasks lack their data, and other tasks by their own names."""
    missing: dict[str, str] = {}
    named: set[str] = set()
    for name in data_sets(tasks):
        members = [task.name for task in _members(name, tasks)]
        reasons = {errors.get(member) for member in members}
        if len(reasons) == 1 and None not in reasons:
            missing[name] = errors[members[0]]
            named.update(members)
    return missing | {name: error for name, error in errors.items() if name not in named}
