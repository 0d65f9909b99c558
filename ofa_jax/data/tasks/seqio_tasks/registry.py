"""seqio's registry: what `registration` declares goes into it, and what others declared comes out.

Imported by `ofa_jax.data.tasks.registration` once seqio is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import seqio

from ofa_jax.data.tasks.seqio_tasks.task import OFASeqioTask, RecordSource, seqio_arguments
from ofa_jax.data.tasks.seqio_tasks.texts import adapted
from ofa_jax.data.tasks.task import OFATask


def names() -> set[str]:
    """Of all tasks and mixtures."""
    return set(seqio.TaskRegistry.names() | seqio.MixtureRegistry.names())


def add_task(task: OFATask, splits: Sequence[str]) -> None:
    """Registers a task; raises ValueError where its name is taken."""
    seqio.TaskRegistry.add(task.name, task_cls=OFASeqioTask, **seqio_arguments(task, splits))


def add_mixture(name: str, rates: Mapping[str, float]) -> None:
    """Registers a mixture; raises as `registration.add_mixture`."""
    tasks: dict[str, seqio.Task] = {}
    shares: dict[str, float] = {}
    for part, rate in rates.items():
        provider = seqio.get_mixture_or_task(part)
        if isinstance(provider, seqio.Task):
            inner = [(provider, 1.0)]
        else:
            total = provider.total_rate
            inner = [(task, provider.get_rate(task) / total) for task in provider.tasks]
        for task, share in inner:
            tasks[task.name] = task
            shares[task.name] = shares.get(task.name, 0.0) + rate * share
    own = [task for task in tasks.values() if isinstance(task.source, RecordSource)]
    if len(own) == len(tasks):
        seqio.MixtureRegistry.add(name, list(rates.items()))
        return
    tokenizer = cast(RecordSource, own[0].source).task.tokenizer if own else None
    mixed = [adapted(task, tokenizer, mixture=name) for task in tasks.values()]
    seqio.MixtureRegistry.add(name, [(task, shares[task.name]) for task in mixed])


def tasks_of(name: str) -> list[tuple[OFATask, float]]:
    """The tasks behind a registered name, with their rates, sorted by name.

    Raises:
      ValueError: one of them cannot be read, see `adapted`.
    """
    mixture = seqio.get_mixture_or_task(name)
    if isinstance(mixture, seqio.Task):
        return [(_task_of(mixture, name), 1.0)]
    return [(_task_of(task, name), float(mixture.get_rate(task))) for task in mixture.tasks]


def _task_of(task: seqio.Task, mixture: str) -> OFATask:
    return cast(Any, adapted(task, None, mixture=mixture).source).task
