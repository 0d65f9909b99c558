"""Reading gin files: includes, overrides from the command line, and errors that help.

Run files use t5x's vocabulary: macros in capitals, then bindings of the names that
`ofa_jax.cli.bindings` registers; an error says which name is nearest.
"""

from __future__ import annotations

import difflib
import inspect
import io
import os
import pathlib
import re
import tokenize
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import gin

from ofa_jax import bundled, schema
from ofa_jax.cli import engines

# Those of gin_configs/runs/train.gin: run files serve all scripts, of which one reads more than
# another, and a binding may stand in the place of a macro. Any other that nothing reads is a typo.
RUN_MACROS = frozenset({
    "MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE", "TASK_FEATURE_LENGTHS", "BATCH_SIZE",
    "RANDOM_SEED", "TRAIN_STEPS", "MODEL_DIR", "INITIAL_CHECKPOINT_PATH", "EVAL_PERIOD",
    "STATS_PERIOD", "CHECKPOINT_PERIOD", "KEEP_CHECKPOINTS", "BEST_METRIC", "SAVE_TRAINED",
    "LEARNING_RATE", "WARMUP_STEPS", "WARMUP_RATIO",
})  # fmt: skip

_OVERRIDE = re.compile(r"^--gin\.([^=]+)=(.*)$", re.DOTALL)
# An option whose value is the next word; argparse takes them so, too.
_NAME_ALONE = re.compile(r"^--gin(\.[^=]+|_bindings|_search_paths)$")
# t5x's other way to give bindings, each a line of gin.
_BINDINGS = re.compile(r"^--gin_bindings=(.*)$", re.DOTALL)
_SEARCH_PATHS = re.compile(r"^--gin_search_paths=(.*)$", re.DOTALL)

_INCLUDE = re.compile(r"""^(\s*include\s+)(['"])(.+?)\2""", re.MULTILINE)
# Macros and settings of these names are paths; `~` and `$NAME` in them are those of a shell.
_PATHS = re.compile(r"\w*_(dir|path)", re.IGNORECASE)
# Includes in one another, from the file of the command line on.
_DEEPEST_INCLUDE = 16
# Characters of a long override that messages repeat.
_SHOWN = 200


class ConfigError(ValueError):
    """A gin file or override that cannot be used."""


# Options of the command line that give macros, which messages name instead.
_flags: dict[str, str] = {}


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates t5x-style `--gin.NAME=VALUE` from the other command-line arguments.

    `--gin.NAME VALUE` and `--gin_bindings='NAME = VALUE'` are the same. The directories of
    `--gin_search_paths=A,B` are handed to gin, as t5x does.

    Args:
      arguments: command line without the program's name.

    Returns:
      (other arguments, gin bindings `NAME = VALUE`).
    """
    others, bindings = [], []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if _NAME_ALONE.match(argument) and rest:
            argument = f"{argument}={rest.pop(0)}"
        if match := _OVERRIDE.match(argument):
            bindings.append(f"{match.group(1)} = {match.group(2)}")
        elif match := _BINDINGS.match(argument):
            bindings.append(match.group(1))
        elif match := _SEARCH_PATHS.match(argument):
            for directory in filter(None, match.group(1).split(",")):
                gin.add_config_file_search_path(
                    _shell_path("--gin_search_paths", directory.strip())
                )
        else:
            others.append(argument)
    return others, bindings


def parse(
    files: Sequence[str],
    overrides: Sequence[str],
    known: Mapping[str, Callable[..., object]],
    *,
    required: Sequence[str] = (),
    types: Mapping[str, object] | None = None,
    flags: Mapping[str, str] | None = None,
) -> None:
    """Parses gin files in order, then bindings that override them, and checks every macro.

    Args:
      files: paths, relative to the working directory or to `bundled.DIRECTORY`.
      overrides: lines such as `TRAIN_STEPS = 100`.
      known: configurable names and what stands behind them, for the hints of errors.
      required: macros that must have a value.
      types: annotation of macros (`ofa_jax.schema`); those not named here may be anything.
      flags: macro to the option that gives it, for messages.

    Raises:
      ConfigError: a missing file, a syntax error, an unknown name (the nearest is named), a macro
        without value, of another type, or read by nothing.
    """
    _start_afresh(flags)
    for file in files:
        try:
            gin.parse_config_file(_located(file, asked_by="--gin_file"), skip_unknown=False)
        except ConfigError as error:
            # gin adds a line for each file that includes the next.
            raise ConfigError(str(error).splitlines()[0]) from None
        except Exception as error:  # gin and Python's tokenizer raise any kind on a bad text.
            raise ConfigError(f"{file}: {_explain(error, known)}") from error
    for binding in overrides:
        name, _, value = (part.strip() for part in binding.partition("="))
        try:
            written = _as_text(value, _annotation(name, known, types or {}))
            gin.parse_config(f"{name} = {written}", skip_unknown=False)
        except Exception as error:
            name, value, message = name[:_SHOWN], value[:_SHOWN], _explain(error, known)
            if "malformed node" in message or "Failed to parse token" in message:
                named = value.strip().capitalize()
                right = f"--gin.{name}='\"{value}\"'"
                message = f"{value} is no value of gin; here, texts need quotes, as in {right}"
                if named in ("True", "False", "None"):
                    message = f"{value} is no value of gin; write {named}"
            raise ConfigError(f"--gin.{name}={value}: {message}") from error
    _expand_paths()
    _forget_unused_models()
    check(required=required, types=types or {})
    _check_unused(known)
    try:
        gin.finalize()
    except Exception as error:
        raise ConfigError(_explain(error, known)) from error


def _start_afresh(flags: Mapping[str, str] | None) -> None:
    gin.clear_config()
    _flags.clear()
    _flags.update(flags or {})
    _GinFile.opened.clear()
    # Ours, which knows where included files lie; gin's own takes a relative path for a package.
    gin.config._FILE_READERS[:] = [(_GinFile, os.path.isfile)]  # pyrefly: ignore[unsupported-operation]


_TASK_MACROS = {"MIXTURE_OR_TASK_NAME": str, "MIXTURE_OR_TASK_MODULE": str | Sequence[str]}
_TASK_SETTING = re.compile(r"DatasetConfig\.(module|mixture_or_task_name)")


def check_task(
    files: Sequence[str], overrides: Sequence[str], flags: Mapping[str, str] | None = None
) -> None:
    """Fails on an unknown task within a second, before JAX loads: reads two macros alone.

    Whatever else is wrong is left to `parse`, which says more.

    Args:
      files: as for `parse`.
      overrides: likewise.
      flags: likewise.

    Raises:
      ValueError: no such module or task.
    """
    from ofa_jax.data.tasks.registration import import_modules, lookup

    _start_afresh(flags)
    try:
        paths = [_located(file, asked_by="--gin_file") for file in files]
        texts = [*overrides, *(pathlib.Path(path).read_text("utf-8") for path in paths)]
        if any(_TASK_SETTING.search(text) for text in texts):
            return
        for path in paths:
            gin.parse_config_file(path, skip_unknown=True)
        for binding in overrides:
            name, _, value = (part.strip() for part in binding.partition("="))
            if name in _TASK_MACROS:
                gin.parse_config(f"{name} = {_as_text(value, _TASK_MACROS[name])}")
        name, modules = (gin.query_parameter(f"{name}/macro.value") for name in _TASK_MACROS)
        schema.check_values(_TASK_MACROS, dict(zip(_TASK_MACROS, (name, modules))), "")
    except Exception:  # gin and Python's tokenizer raise any kind on a bad text.
        return
    modules = (modules,) if isinstance(modules, str) else tuple(modules)
    import_modules(modules, setting="MIXTURE_OR_TASK_MODULE")
    lookup(name, setting="MIXTURE_OR_TASK_NAME")


def _annotation(
    name: str, known: Mapping[str, Callable[..., object]], types: Mapping[str, object]
) -> object:
    """The type of a macro or setting, None where nothing says it."""
    owner, _, field = name.rpartition("/")[2].rpartition(".")
    if not owner:
        return types.get(field)
    owners = [known[one] for one in known if one == owner or one.endswith(f".{owner}")]
    hints = typing.get_type_hints(owners[0], include_extras=True) if len(owners) == 1 else {}
    return hints.get(field)


def _as_text(value: str, annotation: object) -> str:
    """A value as gin reads it: a text may come without quotes where the type says text."""
    if annotation is None:
        return value
    try:
        parsed = gin.config.parse_value(value)
        if isinstance(parsed, str | gin.config.ConfigurableReference):
            return value
        schema.check_values({"value": annotation}, {"value": parsed}, "")
        return value
    except Exception:  # gin and Python's tokenizer raise any kind on a bad text.
        if value in ("None", "True", "False"):
            return value
        try:
            schema.check_values({"value": annotation}, {"value": value}, "")
        except schema.SchemaError:
            return value
        return repr(value)


def check(
    *, required: Sequence[str] = (), types: Mapping[str, object] | None = None, t5x: bool = False
) -> None:
    """Checks every macro and scope of what gin has parsed.

    Args:
      required: macros that must have a value.
      types: annotation of macros (`ofa_jax.schema`); those not named here may be anything.
      t5x: whether t5x's scripts read the files.

    Raises:
      ConfigError: a macro without value, of another type, or read by nothing; a scope that nothing
        opens.
    """
    _check_required()
    _check_macros(required, types or {}, t5x=t5x)
    _check_scopes(_T5X_SCOPES if t5x else ())


def resolved() -> str:
    """The whole configuration as gin text, saved with the run."""
    return gin.config_str(max_line_length=100)


class _GinFile(io.StringIO):
    """The text of a gin file, whose includes are whole paths; a byte-order mark is left out."""

    opened: ClassVar[list[str]] = []

    def __init__(self, path: str):
        self.name = path
        # gin reads an included file while its includer is open.
        if len(self.opened) > _DEEPEST_INCLUDE:
            chain = " includes ".join(self.opened[-3:])
            raise ConfigError(f"includes are nested deeper than {_DEEPEST_INCLUDE}: {chain}")
        self.opened.append(path)

        def whole(match: re.Match[str]) -> str:
            start, quote, file = match.groups()
            return f"{start}{quote}{_located(file, asked_by=path)}{quote}"

        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
        if engines.is_of_t5x(text):
            raise ConfigError(
                f"{path} is a gin file of t5x: give it to t5x's scripts, or --engine=t5x to a "
                "launcher, plan and ablate (docs/t5x.md); the file of that name in "
                "gin_configs/runs or gin_configs/models is for here"
            )
        super().__init__(_INCLUDE.sub(whole, text))

    def close(self) -> None:
        self.opened.pop()
        super().close()


def _located(file: str, *, asked_by: str) -> str:
    """Whole path of a gin file: from the working directory, of the library, or beside its includer.

    Raises:
      ConfigError: there is none; names those of similar names.
    """
    _shell_path(asked_by, file)
    directories = (pathlib.Path(asked_by).parent, *gin.config._LOCATION_PREFIXES[1:])
    try:
        return str(bundled.gin_file(file, directories).resolve())
    except ValueError as error:
        raise ConfigError(f"{asked_by}: {error}") from None


def _expand_paths() -> None:
    """Replaces `~` and `$NAME` in settings that are paths; they mostly come past the shell."""
    for (scope, selector), bound in gin.config._CONFIG.items():
        for parameter, value in bound.items():
            name = scope if selector == "gin.macro" else parameter
            if _PATHS.fullmatch(name) and isinstance(value, str):
                bound[parameter] = _shell_path(name, value)


def _shell_path(name: str, value: str) -> str:
    found = os.path.expanduser(os.path.expandvars(value))
    if "$" in found:
        raise ConfigError(f"{name}: {value}: a variable in it is not set")
    return found


def _forget_unused_models() -> None:
    """A run of another model need not give what the shared file requires of OFA."""
    config = gin.config._CONFIG
    used = {reference.selector for reference in gin.config.iterate_references(config)}
    for key, bound in list(config.items()):
        is_other_model = key[1].endswith("models.OFA") and key[1] not in used
        if is_other_model and all(map(_is_missing, bound.values())):
            del config[key]


def _check_required() -> None:
    for (_, selector), bound in gin.config._CONFIG.items():
        for name, value in bound.items() if selector != "gin.macro" else ():
            if not _is_missing(value):
                continue
            setting = f"{'.'.join(selector.split('.')[-2:])}.{name}"
            hint = f"add --gin.{setting}=... or set it in a gin file"
            if setting == "models.OFA.size":
                hint = "include a model file, for example --gin_file=gin_configs/models/base.gin"
            raise ConfigError(f"{setting} has no value: {hint}")


def _is_missing(value: object) -> bool:
    return value is gin.REQUIRED or getattr(value, "scopes", ())[-1:] == ["gin.REQUIRED"]


def with_macros(message: str) -> str:
    """A message of the library in the words of gin files: macros where they give a value."""
    for (_, selector), bound in gin.config._CONFIG.items():
        owner = selector.rpartition(".")[2]
        for name, value in bound.items():
            if getattr(value, "selector", "") == "gin.macro" and selector != "gin.macro":
                # A word alone may be meant otherwise.
                whole = rf"{owner}\.{name}" if "_" not in name else rf"({owner}\.)?{name}"
                message = re.sub(rf"(?<![\w./-]){whole}(?![\w(])", value.scopes[-1], message)
    return _with_flags(message)


_LOCATION = re.compile(r"set DatasetConfig\.locations = \{'(\w+)': 'DIRECTORY'\}")


def _with_flags(message: str) -> str:
    """A message in the words of the command line, where it has options of its own for macros."""

    def give(match: re.Match[str]) -> str:
        macro = f"--gin.{match[1]}" if (match[1], "gin.macro") in gin.config._CONFIG else None
        option = _flags.get(match[1], macro)
        return match[0] if option is None else f"give {option}=DIRECTORY"

    message = _LOCATION.sub(give, message)
    for macro, flag in _flags.items():
        message = re.sub(rf"(?<![\w./{{-]){macro}(?=:)", flag, message)
    return message


# Of t5x's three data sets, of which a run may leave out one.
_T5X_SCOPES = ("train", "train_eval", "infer_eval")


def _check_scopes(fine: Sequence[str]) -> None:
    """Fails on a binding in a scope that nothing opens: it would be taken and never used."""
    config = gin.config._CONFIG
    opened = {
        "/".join(reference.scopes[: depth + 1])
        for reference in gin.config.iterate_references(config)
        for depth in range(len(reference.scopes))
        if reference.selector != "gin.macro"
    }
    for (scope, selector), bound in config.items():
        if scope and scope not in opened and scope not in fine and not selector.startswith("gin."):
            name = next(iter(bound))
            raise ConfigError(
                f"{scope}/{selector}.{name} is set but nothing uses the scope {scope!r}; "
                f"write {selector}.{name}"
            )


def _check_unused(known: Mapping[str, Callable[..., object]]) -> None:
    """Fails on settings of what nothing refers to: they would be taken and never used.

    Args:
      known: as in `parse`; one name alone is that of the entry point, as is `*_script.*`.
    """
    config = gin.config._CONFIG
    referred = {reference.selector for reference in gin.config.iterate_references(config)}
    for (_, selector), bound in config.items():
        entry = "_script." in selector or list(known) == [selector]
        if entry or selector in referred or selector.startswith("gin."):
            continue
        name = next(iter(bound))
        raise ConfigError(
            f"{selector}.{name} is set but nothing uses @{selector}(); bind it where it belongs, "
            "as docs/configuration.md shows"
        )


def _check_macros(required: Sequence[str], types: Mapping[str, object], *, t5x: bool) -> None:
    config = gin.config._CONFIG
    values = {
        scope: bound.get("value")
        for (scope, selector), bound in config.items()
        if selector == "gin.macro"
    }
    used = {
        "/".join(reference.scopes)
        for reference in gin.config.iterate_references(config)
        if reference.selector == "gin.macro"
    }
    # A macro that nothing reads is most likely a typo of one that something does.
    for name in sorted(values.keys() - used - set(required) - RUN_MACROS):
        near = engines.hint(name, t5x=t5x) or _nearest(name, sorted(used))
        raise ConfigError(f"macro {name} is set but nothing uses it.{near}")
    for name in sorted(used - values.keys() - set(required)):
        hint = _nearest(name, sorted(values))
        raise ConfigError(f"macro {name} is read but never set.{hint}")
    for name in (*required, *sorted(values.keys() & used if t5x else values)):  # see RUN_MACROS
        value = values.get(name, gin.REQUIRED)
        if _is_missing(value):
            raise ConfigError(_missing(name))
        if getattr(value, "selector", "") != "gin.macro":
            schema.check_values({name: types.get(name, object)}, {name: value}, "")


def _missing(name: str) -> str:
    if name in _flags:
        return f"{_flags[name]} is missing: give {_flags[name]}=..."
    say = f"add --gin.{name}=... or set it in a gin file"
    if name == "MIXTURE_OR_TASK_NAME":
        say = f"add a run file such as --gin_file=gin_configs/runs/quickstart.gin, or {say[4:]}"
    return f"{name} has no value: {say}"


def explain_t5x(error: BaseException) -> str | None:
    """What gin says of a setting under t5x's scripts, with what would be right; None of others."""
    message, registry = str(error), gin.config._REGISTRY
    known = {".".join(name.split(".")[-2:]): one.wrapped for name, one in registry.items()}
    is_gins = isinstance(error, (ValueError, AttributeError)) and _UNKNOWN.search(message)
    return _explain(error, known, t5x=True) if is_gins or _ARGUMENT.search(message) else None


_UNKNOWN = re.compile(
    r"No configurable matching (?:reference )?'(?:.*/)?@?([\w.]+)|"
    r"Couldn't resolve selector ([\w.]+)"
)
_ARGUMENT = re.compile(r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'")


def _explain(
    error: BaseException, known: Mapping[str, Callable[..., object]], *, t5x: bool = False
) -> str:
    message = str(error)
    if isinstance(error, RecursionError):
        message = "brackets are nested too deeply"
    elif isinstance(error, tokenize.TokenError):
        message = f"{error.args[0]}, line {error.args[1][0]}"
    first_line = (message.strip() or type(error).__name__).splitlines()[0].strip()
    if unknown := _UNKNOWN.search(message):
        name = unknown[1] or unknown[2]
        return f"{first_line}{engines.hint(name, t5x=t5x) or _nearest(name, sorted(known))}"
    if argument := _ARGUMENT.search(message):
        owner = ".".join(argument[1].split(".")[-2:])
        function = next((known[name] for name in known if name in (owner, argument[1])), None)
        parameters = sorted(inspect.signature(function).parameters) if function else []
        hint = engines.hint(f"{owner}.{argument[2]}", t5x=t5x)
        return f"{first_line}{hint or _nearest(argument[2], parameters)}"
    return " ".join(message[: 10 * _SHOWN].split())


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(known)}."
