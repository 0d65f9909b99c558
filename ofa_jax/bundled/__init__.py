"""What comes with the library as files: task declarations, mixtures, gin files.

A checkout holds the only copy, in its top directories `tasks`, `mixtures` and `gin_configs`; a
wheel carries them in this package. Their modules have one name in both, such as
`ofa_jax.bundled.tasks.vqa`, which no package `tasks` of a user can hide. `tasks.vqa` is short for
it: always where a setting names a module, in an `import` where no other `tasks` is found.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.abc
import importlib.util
import os
import pathlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_HERE = pathlib.Path(__file__).resolve().parent
# The directory that holds `tasks`, `mixtures` and `gin_configs`.
DIRECTORY = _HERE if (_HERE / "tasks").is_dir() else _HERE.parents[1]
if DIRECTORY != _HERE:
    __path__.append(str(DIRECTORY))

_PACKAGES = ("tasks", "mixtures")


def whole_name(name: str) -> str:
    """The name to import a module by that a setting names: `tasks.vqa` is the library's.

    Names of modules that the library has not are returned as they are.
    """
    path = DIRECTORY.joinpath(*name.split("."))
    ours = name.partition(".")[0] in _PACKAGES
    there = path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
    return f"{__name__}.{name}" if ours and there else name


def gin_file(name: str, directories: Sequence[str | pathlib.Path] = ()) -> pathlib.Path:
    """Finds a gin file: from the working directory, of the library, then in other directories.

    `~` and `$NAME` in its name are those of a shell.

    Raises:
      ValueError: there is none; names those of similar names.
    """
    wanted = pathlib.Path(os.path.expandvars(name)).expanduser()
    places = [pathlib.Path(directory, wanted) for directory in ("", DIRECTORY, *directories)]
    if found := next((place for place in places if place.is_file()), None):
        return found
    beside = {path.name for place in places[:2] for path in place.parent.glob("*.gin")}
    known = [str(pathlib.Path(name).with_name(one)) for one in sorted(beside)]
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"there is no gin file {name}{hint}")


class _ShortNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `tasks.vqa` as the module `ofa_jax.bundled.tasks.vqa`, never as a second copy."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, rest = fullname.partition(".")
        if top not in _PACKAGES or whole_name(fullname) == fullname:
            return None
        if rest:
            ours = getattr(sys.modules.get(top), "__name__", "") == f"{__name__}.{top}"
        else:
            found = PathFinder.find_spec(fullname)
            ours = found is None or found.origin == str(DIRECTORY / top / "__init__.py")
        return importlib.util.spec_from_loader(fullname, self) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{__name__}.{spec.name}")
        self._specs = {**getattr(self, "_specs", {}), spec.name: module.__spec__}
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run; the module keeps the spec of its whole name."""
        module.__spec__ = self._specs.pop(module.__name__.removeprefix(f"{__name__}."))


# A checkout on the path has directories of these names, so it comes before Python's own finder.
sys.meta_path.insert(0, _ShortNames())
