"""Puts OFA tasks and mixtures into the seqio registry, the only declaration of either.

`add_task` wraps an `OFATask` as a seqio Task (`ofa_jax.data.seqio_task`), so stock seqio and t5x
input, evaluation and caching work; the grain executor (`ofa_jax.data.pipeline`) takes the `OFATask`
itself back out of the registry with `lookup`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import seqio

from ofa_jax.data.answering import FREE_ANSWER, Answering
from ofa_jax.data.instruction import Instruction
from ofa_jax.data.seqio_task import OFASeqioTask, RecordSource, seqio_arguments
from ofa_jax.data.seqio_texts import adapted
from ofa_jax.data.task import OFATask, Source, Step
from ofa_jax.text.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")


def add_task(
    name: str,
    instruction: str | Sequence[str],
    *,
    family: str,
    source: Source,
    tokenizer: Callable[[], Tokenizer],
    prepare: Sequence[Step] = (),
    eval_prepare: Sequence[Step] | None = None,
    scorer: str = "exact_match",
    loss_weight: float = 1.0,
    splits: Sequence[str] = SPLITS,
    answering: Answering = FREE_ANSWER,
) -> OFATask:
    """Declares a task and registers it with seqio.

    Args:
      name: registered name.
      instruction: a line of the instruction language, or several wordings of it.
      family: name under which results are reported.
      source: where the examples come from.
      tokenizer: cached module-level function that returns the tokenizer.
      prepare: steps of training, see `OFATask.prepare`.
      eval_prepare: steps of evaluation; None means `prepare`.
      scorer: name in `ofa_jax.evaluation.scorers`.
      loss_weight: weight of each target token.
      splits: names that `source.open` knows.
      answering: decoder prompt, closed answer set, decoding; see `Answering`.

    Returns:
      The task.

    Raises:
      InstructionError: the instruction does not parse.
      ValueError: the name is taken.
    """
    lines = [instruction] if isinstance(instruction, str) else list(instruction)
    task = OFATask(
        name=name,
        family=family,
        instructions=tuple(Instruction.parse(line) for line in lines),
        source=source,
        tokenizer=tokenizer,
        prepare=tuple(prepare),
        eval_prepare=None if eval_prepare is None else tuple(eval_prepare),
        scorer=scorer,
        loss_weight=loss_weight,
        answering=answering,
    )
    seqio.TaskRegistry.add(name, task_cls=OFASeqioTask, **seqio_arguments(task, splits))
    return task


def add_mixture(name: str, rates: Mapping[str, float]) -> None:
    """Registers a mixture of tasks by rate; rates need not sum to one.

    Text-to-text tasks that were declared with seqio alone become tasks of ours in it, see
    `seqio_texts`.

    Args:
      name: of the mixture.
      rates: name of a task, or of another mixture, to its rate.

    Raises:
      ValueError: the name is taken, a task is unknown, or it cannot be mixed with the others.
    """
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


def import_modules(names: tuple[str, ...], *, setting: str = "MIXTURE_OR_TASK_MODULE") -> None:
    """Imports the modules that register tasks and mixtures.

    Args:
      names: of the modules, from the user; never from a file that someone else may have made.
      setting: what the error says to change.

    Raises:
      ValueError: no such module.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and name.startswith(error.name):
                raise ValueError(
                    f"{setting}: no module {name!r}; run from the checkout, or install it with "
                    "`pip install -e .`"
                ) from error
            raise


def lookup(name: str, *, setting: str = "MIXTURE_OR_TASK_NAME") -> list[tuple[OFATask, float]]:
    """The OFA tasks behind a registered task or mixture, with their rates.

    Args:
      name: name of a task (rate 1) or of a mixture.
      setting: what the error says to change.

    Returns:
      Tasks of positive rate, sorted by name; `task_ids` of batches follow this order.

    Raises:
      ValueError: an unknown name (the message lists the nearest), no task of positive rate, or a
        task that cannot be read, see `adapted`.
    """
    registered = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    if name not in registered:
        near = difflib.get_close_matches(name, sorted(registered), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{setting}: no task or mixture named {name!r}{hint}")
    mixture = seqio.get_mixture_or_task(name)
    if isinstance(mixture, seqio.Task):
        return [(_task_of(mixture, name), 1.0)]
    tasks = [(_task_of(task, name), float(mixture.get_rate(task))) for task in mixture.tasks]
    positive = [(task, rate) for task, rate in tasks if rate > 0]
    if not positive:
        raise ValueError(
            f"mixture {name!r}: every rate is zero ({', '.join(task.name for task, _ in tasks)}); "
            "give at least one task a positive rate"
        )
    return positive


def _task_of(task: seqio.Task, mixture: str) -> OFATask:
    return cast(Any, adapted(task, None, mixture=mixture).source).task
