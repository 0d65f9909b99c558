"""Declared tasks that may be able to read a data set."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.tasks.registration import all_tasks, import_modules, lookup
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.inspection.opening import OpenedData

# Tasks that are tried where no names are given: modules, and the beginning of the names.
_PRETRAINING = ("tasks.pretrain", "tasks.pretrain_slots")
_OFFICIAL = "ofa_"
_SCENES = ("tasks.scenes",)


def candidates(
    opened: OpenedData, names: Sequence[str] = (), modules: Sequence[str] = ()
) -> list[OFATask]:
    """Tasks to try on a data set.

    Args:
      names: tasks or mixtures; none takes those of its slot or its world, or else the official
        pretraining tasks, whose chains are the same.
      modules: that register them, beside the usual ones.

    Returns:
      Tasks, sorted by name.

    Raises:
      ValueError: a module or a name that does not exist.
    """
    usual = _SCENES if opened.scenes_preset else _PRETRAINING
    import_modules((*usual, *modules), setting="--module")
    if names:
        found = {task.name: task for name in names for task, _ in lookup(name, setting="--tasks")}
    else:
        found = {task.name: task for task in all_tasks() if _belongs(task, opened)}
        if not found:
            found = {t.name: t for t in all_tasks() if t.name.startswith(_OFFICIAL)}
    return [found[name] for name in sorted(found)]


def _belongs(task: OFATask, opened: OpenedData) -> bool:
    """Whether a task reads this world, or the slot of this name."""
    if opened.scenes_preset:
        return task.source == opened.source
    return (
        isinstance(task.source, PreparedSource)
        and isinstance(opened.source, PreparedSource)
        and pathlib.PurePath(task.source.directory).name == opened.name
    )
