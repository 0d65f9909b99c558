"""Cards of registered tasks, for models whose directory says nothing of them.

The user names modules on the command line, and these are imported; a checkpoint is data, and what
it says is never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.data.tasks.registration import import_modules, lookup


def registered_cards(
    name: str, lengths: Mapping[str, int], modules: Sequence[str], *, setting: str = "--task"
) -> tuple[TaskCard, ...]:
    """The cards of a task or mixture that modules register.

    Args:
      name: of the task or mixture.
      lengths: task feature lengths.
      modules: to import.
      setting: what an error says to change.

    Raises:
      ValueError: no such module or task, or a list of answers that cannot be read.
    """
    import_modules(tuple(modules), setting="--module")
    return tuple(TaskCard.of(task, lengths) for task, _ in lookup(name, setting=setting))
