"""Cards of registered tasks, for models whose folder says nothing of them.

The user names modules on the command line, and these are imported. A folder from before runs wrote
`config.json` names its modules in `config.gin`; that file is read as text, not by gin, and of its
modules only those that come with this library are imported.
"""

from __future__ import annotations

import ast
import importlib.util
import logging
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.data.tasks.registration import import_modules, lookup

logger = logging.getLogger("ofa_jax")

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_OWN_MODULE = re.compile(r"(tasks|mixtures)\.[a-z_]+")
# Lines of a configuration that one value may take.
_LONGEST = 100


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


def configured_cards(text: str) -> tuple[TaskCard, ...]:
    """The cards of the mixture that a configuration names, where this library declares it.

    Args:
      text: `config.gin` of a run, which may be from anyone.

    Returns:
      () where the text does not say the mixture, or it cannot be had here; the log says why.
    """
    name, lengths = _value(text, "MIXTURE_OR_TASK_NAME"), _value(text, "TASK_FEATURE_LENGTHS")
    named = _value(text, "MIXTURE_OR_TASK_MODULE")
    modules = [named] if isinstance(named, str) else named
    if not isinstance(name, str) or not isinstance(modules, (list, tuple)):
        return ()
    if foreign := [module for module in modules if not _is_own(module)]:
        logger.warning(
            "the run was trained on tasks of %r, which is not imported: a checkpoint is data; "
            "where you trust it, name it by --module",
            foreign[0],
        )
        return ()
    try:
        return registered_cards(name, TaskCard.checked_lengths(lengths), modules)
    except ValueError as error:
        logger.warning("the tasks of the run are not known here: %s", error)
        return ()


def _is_own(module: Any) -> bool:
    if not isinstance(module, str) or not _OWN_MODULE.fullmatch(module):
        return False
    package, _, name = module.partition(".")
    # Another package of that name may stand before ours.
    found = importlib.util.find_spec(package)
    origin = (found.origin if found is not None else None) or ""
    folder = _ROOT / package
    is_ours = pathlib.Path(origin).resolve() == folder / "__init__.py"
    return is_ours and (folder / f"{name}.py").is_file()


def _value(text: str, name: str) -> Any:
    """The plain value of a macro, None where there is none."""
    match = re.search(rf"^{name}\s*=\s*(?:\\\n)?", text, re.MULTILINE)
    lines = text[match.end() :].split("\n", _LONGEST)[:_LONGEST] if match else []
    for end in range(1, len(lines) + 1):
        try:
            return ast.literal_eval("\n".join(lines[:end]).strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None
