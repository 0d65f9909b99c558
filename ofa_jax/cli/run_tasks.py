"""The tasks of a run: imported, looked up, and checked before any compute is spent."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib

from ofa_jax.cli.settings import DatasetConfig, EvaluationConfig
from ofa_jax.data.registration import lookup
from ofa_jax.data.task import Lengths, OFATask, check_lengths
from ofa_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class RunTasks:
    """What a run trains and evaluates.

    Attributes:
      tasks: tasks of the mixture, of positive rate.
      rates: their rates.
      unseen: tasks that are only evaluated.
      lengths: task feature lengths.
      tokenizer: the one tokenizer of all of them.
    """

    tasks: tuple[OFATask, ...]
    rates: tuple[float, ...]
    unseen: tuple[OFATask, ...]
    lengths: Lengths
    tokenizer: Tokenizer

    @property
    def names(self) -> list[str]:
        """Names by task id, as they stand in logs: families where those are unique."""
        families = [task.family for task in self.tasks]
        unique = len(set(families)) == len(families)
        return families if unique else [task.name for task in self.tasks]


def import_modules(names: tuple[str, ...]) -> None:
    """Imports the modules that register tasks and mixtures.

    Raises:
      ValueError: no such module; the message names the macro.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and name.startswith(error.name):
                raise ValueError(
                    f"MIXTURE_OR_TASK_MODULE: no module {name!r}; run from the checkout, or "
                    "install it with `pip install -e .`"
                ) from error
            raise


def load(dataset: DatasetConfig, evaluation: EvaluationConfig | None) -> RunTasks:
    """Finds the tasks of a run and checks that they fit together.

    Args:
      dataset: settings of the training input.
      evaluation: settings of the evaluation, or None.

    Returns:
      The tasks.

    Raises:
      ValueError: an unknown name, rates of zero, missing files, tasks of different vocabularies,
        or sequences that do not fit; the message names the setting.
    """
    import_modules(dataset.modules)
    found = lookup(dataset.mixture_or_task_name)
    tasks = tuple(task for task, _ in found)
    unseen = tuple(lookup(name)[0][0] for name in (evaluation.unseen_tasks if evaluation else ()))
    tokenizer = tasks[0].tokenizer()
    for task in (*tasks, *unseen):
        if task.tokenizer().layout != tokenizer.layout:
            raise ValueError(
                f"tasks {tasks[0].name!r} and {task.name!r} use different vocabularies: "
                f"{tokenizer.layout} and {task.tokenizer().layout}"
            )
    for task in tasks:
        check_lengths(task, dataset.task_feature_lengths, split=dataset.split, seed=dataset.seed)
    return RunTasks(
        tasks, tuple(rate for _, rate in found), unseen, dataset.task_feature_lengths, tokenizer
    )


def save_vocabulary(run_dir: str | pathlib.Path, tokenizer: Tokenizer) -> None:
    """Writes the vocabulary to `vocabulary/` of the run, so that checkpoints can be read alone."""
    tokenizer.save(pathlib.Path(run_dir) / "vocabulary")


def write_json(path: str | pathlib.Path, content: object) -> None:
    """Writes a JSON file at once: a reader sees the old or the new one."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
