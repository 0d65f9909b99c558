"""Reading gin files: includes, overrides from the command line, and errors that help.

Run files use t5x's vocabulary: macros in capitals on top, then bindings of `train_script.train`
and a few small settings. Names are registered statically in `ofa_jax.cli.bindings`; a name that
does not exist is an error that says which one is nearest.
"""

from __future__ import annotations

import difflib
import inspect
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin

# Folders in which relative gin files and includes are looked up, after the working directory.
CHECKOUT = pathlib.Path(__file__).resolve().parents[2]

_OVERRIDE = re.compile(r"^--gin\.([^=]+)=(.*)$", re.DOTALL)


class ConfigError(ValueError):
    """A gin file or override that cannot be used."""


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates t5x-style `--gin.NAME=VALUE` from the other command-line arguments.

    Args:
      arguments: command line without the program's name.

    Returns:
      (other arguments, gin bindings `NAME = VALUE`).
    """
    others, bindings = [], []
    for argument in arguments:
        if match := _OVERRIDE.match(argument):
            bindings.append(f"{match.group(1)} = {match.group(2)}")
        else:
            others.append(argument)
    return others, bindings


def parse(
    files: Sequence[str], bindings: Sequence[str], known: Mapping[str, Callable[..., Any]]
) -> None:
    """Parses gin files in order, then bindings that override them.

    Args:
      files: paths, relative to the working directory or to the checkout.
      bindings: lines such as `TRAIN_STEPS = 100`.
      known: configurable names and what stands behind them, for the hints of errors.

    Raises:
      ConfigError: a missing file, a syntax error, or an unknown name (the nearest is named).
    """
    gin.clear_config()
    gin.add_config_file_search_path(str(CHECKOUT))
    try:
        gin.parse_config_files_and_bindings(list(files), list(bindings), skip_unknown=False)
    except OSError as error:
        raise ConfigError(f"gin file not found: {error}") from error
    except (ValueError, SyntaxError, TypeError, AttributeError) as error:
        raise ConfigError(_explain(str(error), known)) from error
    _check_macros_are_used()


def check_macros(required: Sequence[str]) -> None:
    """Fails where a macro that a run needs has no value.

    Raises:
      ConfigError: names the macro and how to set it.
    """
    for name in required:
        try:
            value = gin.query_parameter(f"{name}/macro.value")
        except ValueError:
            value = gin.REQUIRED
        if value is gin.REQUIRED:
            raise ConfigError(
                f'{name} has no value: add --gin.{name}="..." or set it in a gin file'
            )


def resolved() -> str:
    """The whole configuration as gin text, saved with the run."""
    return gin.config_str(max_line_length=100)


def _check_macros_are_used() -> None:
    """A macro that nothing reads is most likely a typo of one that something does."""
    config = gin.config._CONFIG
    defined = {scope for scope, selector in config if selector == "gin.macro"}
    used = {
        "/".join(reference.scopes)
        for reference in gin.config.iterate_references(config)
        if reference.selector == "gin.macro"
    }
    for name in sorted(defined - used):
        raise ConfigError(f"macro {name} is set but nothing uses it.{_nearest(name, sorted(used))}")


def _explain(message: str, known: Mapping[str, Callable[..., Any]]) -> str:
    first_line = message.strip().splitlines()[0].strip()
    unknown = re.search(r"No configurable matching (?:reference )?'(?:.*/)?@?([\w.]+)", message)
    if unknown:
        return f"{first_line}{_nearest(unknown.group(1), sorted(known))}"
    argument = re.search(
        r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'", message
    )
    if argument:
        function = next((known[name] for name in known if name == argument.group(1)), None)
        parameters = sorted(inspect.signature(function).parameters) if function else []
        return f"{first_line}{_nearest(argument.group(2), parameters)}"
    return " ".join(message.split())


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(known)}."
