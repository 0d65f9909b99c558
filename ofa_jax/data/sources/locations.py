"""Named directories of a run: where data sets and vocabulary files lie.

Task declarations write `{DATA_DIR}/vision_language_examples.tsv`; the name is resolved when the
file is opened. Names come from the settings (`DatasetConfig.locations`) or from the environment
(`OFA_DATA_DIR`); they are kept in the environment, so that worker processes see them too.
"""

from __future__ import annotations

import os
import re

_PREFIX = "OFA_"
_NAME = re.compile(r"\{([A-Z_]+)\}")


def assign(name: str, path: str) -> None:
    """Gives a name such as `DATA_DIR` its directory, for this process and its workers."""
    os.environ[_PREFIX + name] = os.path.expanduser(path)


def is_assigned(name: str) -> bool:
    """Whether a name has a directory, from here or from the environment."""
    return bool(os.environ.get(_PREFIX + name))


def resolve(template: str) -> str:
    """Replaces each `{NAME}` of a path by its directory, and `~` by the user's home.

    Args:
      template: a path, for example `{DATA_DIR}/text_examples.tsv`.

    Returns:
      The path.

    Raises:
      ValueError: a name has no directory; the message says how to give it one.
    """

    def directory(match: re.Match[str]) -> str:
        name = match.group(1)
        path = os.environ.get(_PREFIX + name)
        if not path:
            raise ValueError(
                f"{template}: no directory is set for {name}; set DatasetConfig.locations = "
                f"{{'{name}': 'DIRECTORY'}} or the environment variable {_PREFIX}{name}"
            )
        return path

    return os.path.expanduser(_NAME.sub(directory, template))
