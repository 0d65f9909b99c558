"""Declares OFA tasks and mixtures; each is a seqio Task or Mixture of the same name as well.

The native runner needs nothing of seqio and of TensorFlow below it, which take seconds and half a
gigabyte: it takes an `OFATask` out of this registry with `lookup`. As soon as a process imports
seqio, before or after a declaration, its registry holds everything that is declared here
(`ofa_jax.data.tasks.seqio_tasks`), so stock seqio and t5x input, evaluation and caching work.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from ofa_jax import bundled, quiet_tensorflow
from ofa_jax.data.sources.example import Source
from ofa_jax.data.steps import Step
from ofa_jax.data.tasks.answering import FREE_ANSWER, Answering
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.task import MetricFunction, OFATask
from ofa_jax.schema import nearest
from ofa_jax.text.tokenizer import Tokenizer

__all__ = ["SPLITS", "add_mixture", "add_task", "all_tasks", "import_modules", "lookup", "publish"]

SPLITS = ("train", "validation", "test")

_TASKS: dict[str, OFATask] = {}
# Mixture -> its tasks with their shares, nested mixtures resolved.
_MIXTURES: dict[str, dict[str, float]] = {}
# What the registry of seqio does not hold yet: calls of `seqio_tasks.registry`, in order.
_WAITING: list[tuple[str, tuple[object, ...]]] = []


def add_task(
    name: str,
    instruction: str | Sequence[str],
    *,
    family: str,
    source: Source,
    tokenizer: Callable[[], Tokenizer],
    prepare: Sequence[Step] = (),
    eval_prepare: Sequence[Step] | None = None,
    scorer: str | MetricFunction = "exact_match",
    loss_weight: float = 1.0,
    splits: Sequence[str] = SPLITS,
    answering: Answering = FREE_ANSWER,
) -> OFATask:
    """Declares a task.

    Args:
      name: registered name.
      instruction: a line of the instruction language, or several wordings of it.
      family: name under which results are reported.
      source: where the examples come from.
      tokenizer: cached module-level function that returns the tokenizer.
      prepare: steps of training, see `OFATask.prepare`.
      eval_prepare: steps of evaluation; None means `prepare`.
      scorer: `fn(targets, predictions) -> {name: value}`, or a name in
        `ofa_jax.evaluation.scorers`; see its `score`.
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
    _check_free(name)
    _WAITING.append(("add_task", (task, tuple(splits))))
    if "seqio" in sys.modules:
        publish()
    _TASKS[name] = task
    return task


def add_mixture(name: str, rates: Mapping[str, float]) -> None:
    """Registers a mixture of tasks by rate; rates need not sum to one.

    Text-to-text tasks that were declared with seqio alone become tasks of ours in it, see
    `ofa_jax.data.tasks.seqio_tasks.texts`.

    Args:
      name: of the mixture.
      rates: name of a task, or of another mixture, to its rate.

    Raises:
      ValueError: the name is taken, a task is unknown, or it cannot be mixed with the others.
    """
    _check_free(name)
    shares: dict[str, float] = {}
    for part, rate in rates.items():
        inner = {part: 1.0} if part in _TASKS else _MIXTURES.get(part)
        if inner is None:
            # Declared with seqio alone, or nowhere, which it says.
            publish()
            _seqio_registry().add_mixture(name, rates)
            return
        for task, share in inner.items():
            shares[task] = shares.get(task, 0.0) + rate * share / (sum(inner.values()) or 1.0)
    _WAITING.append(("add_mixture", (name, dict(rates))))
    if "seqio" in sys.modules:
        publish()
    _MIXTURES[name] = shares


def all_tasks() -> list[OFATask]:
    """Every task of `add_task` in this process, sorted by name."""
    return [_TASKS[name] for name in sorted(_TASKS)]


def publish() -> None:
    """Puts what is declared here into the registry of seqio, which this imports.

    Raises:
      ValueError: seqio has another task or mixture of one of the names.
    """
    quiet_tensorflow.load()
    registry = _seqio_registry()
    while _WAITING:
        function, arguments = _WAITING.pop(0)
        getattr(registry, function)(*arguments)


def _seqio_registry() -> ModuleType:
    return importlib.import_module("ofa_jax.data.tasks.seqio_tasks.registry")


class _WhenSeqioIsImported(importlib.abc.MetaPathFinder):
    """Publishes behind the import of seqio, by whomever; then it is gone."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != "seqio":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            publish()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "seqio" not in sys.modules:
    sys.meta_path.insert(0, _WhenSeqioIsImported())


def _check_free(name: str) -> None:
    if name in _TASKS or name in _MIXTURES:
        raise ValueError(f"a task or mixture named {name!r} is declared already")


def import_modules(names: tuple[str, ...], *, setting: str = "DatasetConfig.module") -> None:
    """Imports the modules that register tasks and mixtures.

    Args:
      names: of the modules, from the user; never from a file that someone else may have made.
        `tasks.vqa` and the like are those of the library, see `bundled.whole_name`.
      setting: what the error says to change.

    Raises:
      ValueError: no such module.
    """
    for name in names:
        try:
            importlib.import_module(bundled.whole_name(name))
        except ModuleNotFoundError as error:
            if error.name and name.startswith(error.name):
                raise ValueError(
                    f"{setting}: no module {name!r}; start where it lies, or install its package"
                ) from error
            raise


def lookup(name: str, *, setting: str = "mixture_or_task_name") -> list[tuple[OFATask, float]]:
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
    if name in _TASKS:
        return [(_TASKS[name], 1.0)]
    if name in _MIXTURES:
        tasks = [(_TASKS[task], rate) for task, rate in sorted(_MIXTURES[name].items())]
    else:
        # Declared with seqio alone: where nothing has imported it, there is no such thing.
        registered = {*_TASKS, *_MIXTURES}
        if "seqio" in sys.modules:
            publish()
            registered |= _seqio_registry().names()
        if name not in registered:
            hint = nearest(name, sorted(registered), most=3)
            raise ValueError(f"{setting}: no task or mixture named {name!r}{hint}")
        tasks = _seqio_registry().tasks_of(name)
    positive = [(task, rate) for task, rate in tasks if rate > 0]
    if not positive:
        raise ValueError(
            f"mixture {name!r}: every rate is zero ({', '.join(task.name for task, _ in tasks)}); "
            "give at least one task a positive rate"
        )
    return positive
