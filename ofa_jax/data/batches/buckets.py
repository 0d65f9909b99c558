"""Buckets: a few static shapes, so that no task pays for the lengths of another.

A bucket is a set of task feature lengths; tasks that agree on them share it, and a batch holds
examples of one bucket only (`mixing`). The model is compiled once per bucket. Text
infilling, for one, needs no image, and image infilling has the longest targets.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from ofa_jax.data.tasks.registration import all_tasks
from ofa_jax.data.tasks.task import PRETRAINING_FAMILIES, Lengths, OFATask
from ofa_jax.schema import nearest

__all__ = ["MAX_BUCKETS", "Buckets", "by_task"]

# Each is one more compilation of the training step.
MAX_BUCKETS = 8


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The buckets of a mixture.

    Attributes:
      lengths: task feature lengths of each bucket; `image` 0 means batches without images.
      of_task: bucket of each task.
    """

    lengths: tuple[Lengths, ...]
    of_task: tuple[int, ...]

    @classmethod
    def of_tasks(
        cls, tasks: Sequence[OFATask], lengths: Lengths, changes: Mapping[str, Lengths]
    ) -> Buckets:
        """Sorts tasks into buckets.

        Args:
          tasks: tasks of the mixture.
          lengths: `inputs`, `targets` (tokens) and `image` (pixels) where nothing else is said.
          changes: task or family to the lengths that it has instead; those not named stay.

        Returns:
          The buckets, that of the first task first.

        Raises:
          ValueError: an unknown name, a length that is longer than the common one or not positive,
            a task with images in a bucket without, or too many buckets.
        """
        changes = by_task(changes, tasks, "DatasetConfig.buckets")
        found: list[Lengths] = []
        of_task = []
        for task in tasks:
            own = {**lengths, **changes.get(task.name, {})}
            _check(task, own, lengths)
            if own not in found:
                found.append(own)
            of_task.append(found.index(own))
        if len(found) > MAX_BUCKETS:
            raise ValueError(
                f"DatasetConfig.buckets makes {len(found)} buckets, each of which is "
                f"compiled; give tasks the same lengths so that {MAX_BUCKETS} or fewer remain"
            )
        return cls(tuple(found), tuple(of_task))


def by_task(values: Mapping[str, object], tasks: Iterable[OFATask], setting: str) -> dict:
    """Values by task name, of values by pattern, family, variant or name of tasks.

    Of several that fit a task, the last kind in this order counts. Of two patterns it is the later.
    What the mixture lacks may be named if some task has it as its family or variant, so that a run
    file also serves the mixtures that leave a task out.

    Args:
      values: a pattern of variants ("*_apart"), the family, variant or name of a task to anything.
      tasks: tasks of the mixture.
      setting: what an error names.

    Returns:
      Task name to value, for the tasks that have one.

    Raises:
      ValueError: a name that no task of the mixture has, nor any other as its variant.
    """
    tasks = list(tasks)
    known = {name for task in tasks for name in (task.name, task.variant, task.family)}
    elsewhere = {*PRETRAINING_FAMILIES, *(task.variant for task in all_tasks())}
    patterns = [name for name in values if "*" in name]
    for name in values:
        found = known | elsewhere
        if name not in found and not (name in patterns and fnmatch.filter(found, name)):
            hint = nearest(name, sorted(known))
            raise ValueError(f"{setting}: the mixture has no task {name!r}{hint}")
    out = {}
    for task in tasks:
        fitting = [name for name in patterns if fnmatch.fnmatchcase(task.variant, name)]
        for name in (*fitting, task.family, task.variant, task.name):
            if name in values:
                out[task.name] = values[name]
    return out


def _check(task: OFATask, own: Lengths, common: Lengths) -> None:
    if set(own) != set(common):
        raise ValueError(
            f"DatasetConfig.buckets: lengths of {task.name!r} may name "
            f"{', '.join(sorted(common))}, got {', '.join(sorted(set(own) - set(common)))}"
        )
    for key, length in own.items():
        least = 0 if key == "image" else 1
        if not isinstance(length, int) or not least <= length <= common[key]:
            raise ValueError(
                f"DatasetConfig.buckets: {key!r} of {task.name!r} must be a whole number "
                f"from {least} to task_feature_lengths[{key!r}] = {common[key]}, got {length!r}"
            )
    if own["image"] == 0 and any(instruction.image_slot for instruction in task.instructions):
        raise ValueError(
            f"DatasetConfig.buckets: task {task.name!r} reads images, so its 'image' cannot be 0"
        )
