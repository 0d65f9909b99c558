"""What all launchers share: arguments, checks before anything is started, and running or printing.

A launcher builds a list of steps (files to write, commands to run) from its arguments, and
`carry_out` runs them or, with --dry_run, prints them. Standard library only: a login node or a
laptop without JAX can launch.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
# Where scripts and manifests are written; git ignores it.
SCRIPTS = pathlib.PurePosixPath("runs/launch")
# Exit statuses of `ofa_jax.errors.Status` that decide here: finished, a mistake in the settings
# (the same command fails again), stopped early (the same command goes on).
DONE, SETTINGS_MISTAKE, AGAIN = 0, 2, 75

# What trains under each engine, as a module. t5x itself must be installed where it trains.
ENGINES = {"native": "ofa_jax.train", "t5x": "t5x.train"}
_OF_T5X = re.compile(
    r"^\s*(from t5x\b|import t5x\b|(from|import) ofa_jax\.t5x\b|import __main__\b)", re.MULTILINE
)
_OF_NATIVE = re.compile(r"^(train_script\.|MODEL\s*=\s*@models\.OFA\(\))", re.MULTILINE)
_FIRST_OF_T5X = "gin_configs/t5x/train.gin"

_BATCH_SIZE = re.compile(r"^BATCH_SIZE\s*=\s*(\d+)", re.MULTILINE)
_MESH = re.compile(r"^(?:partitioning\.)?Partitioner\.(dcn_)?mesh\s*=\s*(.+)$", re.MULTILINE)
_MESH_IN_BLOCK = re.compile(r"^\s+(dcn_)?mesh\s*=\s*(.+)$", re.MULTILINE)
_INCLUDE = re.compile(r"""^include\s+['"](.+?)['"]""", re.MULTILINE)


class LaunchError(ValueError):
    """Arguments that cannot work; one line that says what would."""


@dataclasses.dataclass(frozen=True)
class File:
    """A file that a launch writes.

    Attributes:
      path: relative to the checkout.
      text: its content.
    """

    path: pathlib.PurePosixPath
    text: str

    def show(self) -> str:
        """The shell command that writes it."""
        end = "END_OF_FILE"
        while end in self.text:
            end += "_"
        return f"cat > {shlex.quote(str(self.path))} <<'{end}'\n{self.text}{end}"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that a launch runs in the checkout.

    Attributes:
      words: program and arguments.
    """

    words: tuple[str, ...]

    def show(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.words)


Step = File | Command


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The arguments that every launcher has; gin arguments are taken out before.

    Args:
      name: of the launcher's file.
      description: one sentence.
    """
    result = argparse.ArgumentParser(
        prog=f"python launch/{name}.py",
        description=description,
        epilog="--gin_file=FILE and --gin.NAME=VALUE go to python -m ofa_jax.train, or t5x's "
        "train.py, as they are.",
        allow_abbrev=False,
    )
    result.add_argument("--name", default="ofa", help="of the job (default: ofa)")
    result.add_argument(
        "--engine",
        choices=ENGINES,
        default="native",
        help="native: python -m ofa_jax.train; t5x: upstream t5x, with files of gin_configs/t5x",
    )
    result.add_argument(
        "--dry_run", action="store_true", help="print commands and files, start nothing"
    )
    return result


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates a launcher's own arguments from those of training.

    Args:
      arguments: command line without the program's name.

    Returns:
      (own arguments, gin arguments in their order, each one word).

    Raises:
      LaunchError: `--gin_file` without a file, or a control character in an own argument.
    """
    own, gin, rest = [], [], list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--gin_file":
            if not rest:
                raise LaunchError("--gin_file needs a file")
            word = f"--gin_file={rest.pop(0)}"
        (gin if word.startswith(("--gin.", "--gin_file=")) else own).append(word)
    for word in own:
        # A line break would begin a new line of the script that the argument goes into.
        if any(unicodedata.category(character) == "Cc" for character in word):
            raise LaunchError(f"{word!r} has a line break or another control character in it")
    return own, gin


def training_words(gin: Sequence[str], python: str, engine: str) -> tuple[str, ...]:
    """The training command.

    Args:
      gin: arguments for it.
      python: interpreter on the machine that trains.
      engine: of `ENGINES`.
    """
    return (python, "-m", ENGINES[engine], *gin)


def restarted_words(words: Sequence[str], max_restarts: int, python: str) -> tuple[str, ...]:
    """The command under `restart.py`, which gives it again where that helps.

    Args:
      words: the command.
      max_restarts: how often; 0 leaves restarting to whatever reads the exit status.
      python: interpreter.
    """
    return (python, "launch/restart.py", f"--max_restarts={max_restarts}", "--", *words)


def check_name(name: str) -> None:
    """Names become names of cloud resources.

    Raises:
      LaunchError: not lower-case letters, digits and hyphens, or longer than 40 characters.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise LaunchError(
            f"--name must be lower-case letters, digits and hyphens, at most 40, got {name!r}"
        )


def check_bucket(name: str) -> None:
    """Buckets become directories and words of scripts.

    Raises:
      LaunchError: no name that Cloud Storage gives to a bucket; "" is none and right.
    """
    if name and not re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", name):
        raise LaunchError(
            f"--bucket must be the name of a bucket (lower-case letters, digits, -, _ and .), "
            f"without gs://, got {name!r}"
        )


def check_words(options: argparse.Namespace, *names: str) -> None:
    """Fails where a value that goes into a directive of SLURM is more than one plain word.

    Raises:
      LaunchError: naming the argument.
    """
    for name in names:
        value = getattr(options, name)
        if not re.fullmatch(r"[\w%./,:@+=~-]*", value):
            raise LaunchError(f"--{name} must be one word, without quotes and #, got {value!r}")


def check_positive(options: argparse.Namespace, *names: str, least: int = 1) -> None:
    """Fails where a count is too small.

    Raises:
      LaunchError: naming the argument.
    """
    for name in names:
        if getattr(options, name) < least:
            raise LaunchError(f"--{name} must be {least} or more, got {getattr(options, name)}")


def check_gin(gin: Sequence[str], devices: int, *, engine: str, shared_directory: bool) -> None:
    """Checks what can be checked of the training command without starting it.

    Args:
      gin: arguments of training.
      devices: devices of all hosts and slices together.
      engine: that reads the files.
      shared_directory: whether several machines write to MODEL_DIR, which must then be absolute.

    Raises:
      LaunchError: no or a missing gin file, one of the other engine, a mesh of another number of
        devices, a batch that does not divide, a MODEL_DIR that hosts do not share.
    """
    files = [word.partition("=")[2] for word in gin if word.startswith("--gin_file=")]
    if not files:
        directory = "t5x" if engine == "t5x" else "runs"
        raise LaunchError(
            f"give at least one --gin_file, such as gin_configs/{directory}/pretrain.gin"
        )
    texts = [_gin_text(file) for file in files]
    _check_engines(files, texts, engine)
    parts = (word[len("--gin.") :].partition("=") for word in gin if "--gin." in word)
    bindings = {name: value for name, _, value in parts}
    _check_mesh(texts, bindings, devices)
    model_dir = bindings.get("MODEL_DIR", "").strip("'\"")
    if "://" in model_dir and not model_dir.startswith("gs://"):
        raise LaunchError(
            f"MODEL_DIR {model_dir} is no directory; mount the bucket and give its directory"
        )
    if engine == "t5x" and model_dir and not model_dir.startswith(("/", "gs://")):
        raise LaunchError(f"MODEL_DIR must be a whole path for t5x, got {model_dir}")
    if shared_directory and not model_dir.startswith(("/", "gs://")):
        raise LaunchError(
            "MODEL_DIR must be a whole path that all hosts see, or the address of a bucket, for "
            "example --gin.MODEL_DIR='\"/mnt/BUCKET/runs/mine\"' or "
            f"--gin.MODEL_DIR='\"gs://BUCKET/runs/mine\"'; got {model_dir or 'none'}"
        )


def _check_engines(files: Sequence[str], texts: Sequence[str], engine: str) -> None:
    """Fails on a file of the other engine, and where t5x's own does not come first."""
    for file, text in zip(files, texts, strict=True):
        of = "t5x" if _OF_T5X.search(text) else "native" if _OF_NATIVE.search(text) else engine
        if of != engine:
            raise LaunchError(
                f"{file} is a gin file of the engine {of}: give --engine={of}, or take one of "
                f"gin_configs/{'t5x' if engine == 't5x' else 'runs'}"
            )
    if engine == "t5x" and not _OF_T5X.search(texts[0]):
        raise LaunchError(f"--engine=t5x: the first --gin_file is {_FIRST_OF_T5X}, not {files[0]}")


def _gin_text(file: str) -> str:
    """Content of a gin file with what it includes in place."""
    path = next((p for p in (pathlib.Path(file), CHECKOUT / file) if p.is_file()), None)
    if path is None:
        raise LaunchError(f"--gin_file: there is no {file}")
    return _INCLUDE.sub(lambda match: _gin_text(match[1]), path.read_text(encoding="utf-8"))


def _mesh_of(text: str) -> dict[str, str]:
    """{"mesh": ..., "dcn_mesh": ...} as far as a gin file sets them; the last line wins."""
    blocks = re.findall(r"^partitioning\.Partitioner:\n((?:[ \t]+.*\n?)+)", text, re.MULTILINE)
    found = [*_MESH.findall(text), *(m for block in blocks for m in _MESH_IN_BLOCK.findall(block))]
    return {f"{dcn}mesh": value.split("#")[0].strip().strip("'\"") for dcn, value in found}


def _check_mesh(texts: Sequence[str], bindings: dict[str, str], devices: int) -> None:
    meshes: dict[str, str] = {}
    for text in texts:
        meshes |= _mesh_of(text)
    meshes |= _mesh_of("\n".join(f"{name} = {value}" for name, value in bindings.items()))
    sizes = {name: re.findall(r"(\w+)\s*=\s*(-?\d+)", spec) for name, spec in meshes.items()}
    axes = [(axis, int(size)) for pairs in sizes.values() for axis, size in pairs]
    known = math.prod(size for _, size in axes if size > 0)
    filled = any(size == -1 for _, size in axes)
    shown = ", ".join(f"{name} {spec}" for name, spec in meshes.items() if spec)
    if axes and (devices % known or (not filled and known != devices)):
        raise LaunchError(
            f"{shown} {'needs a multiple of' if filled else 'has'} {known} devices, but this "
            f"launch has {devices}; data=-1 takes as many as there are"
        )
    batch = bindings.get("BATCH_SIZE", "").strip()
    for text in texts if not batch else ():
        batch = [batch, *_BATCH_SIZE.findall(text)][-1]
    parts = devices // math.prod(size for axis, size in axes if axis == "model" and size > 0)
    if batch.isdigit() and int(batch) % parts:
        lower = int(batch) // parts * parts
        raise LaunchError(
            f"BATCH_SIZE {batch} does not divide over the {parts} parts that the batch is split "
            f"into on {devices} devices; the nearest is {f'{lower} or ' if lower else ''}"
            f"{lower + parts}"
        )


def require(program: str, advice: str) -> None:
    """Fails where a program is not installed.

    Args:
      program: its name.
      advice: how one gets it.

    Raises:
      LaunchError: naming it.
    """
    if shutil.which(program) is None:
        raise LaunchError(f"{program} is not on the PATH; {advice}, or use --dry_run")


def carry_out(steps: Sequence[Step], *, dry_run: bool) -> int:
    """Writes the files and runs the commands in order, or prints all of them.

    Args:
      steps: of the launch.
      dry_run: only print.

    Returns:
      Exit status: that of the first command that failed, otherwise 0.
    """
    for step in steps:
        if dry_run:
            print(step.show())
            continue
        print(f"+ {step.show() if isinstance(step, Command) else step.path}", flush=True)
        if isinstance(step, File):
            path = CHECKOUT / step.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
            continue
        status = subprocess.run(step.words, cwd=CHECKOUT, check=False).returncode
        if status:
            return status
    return 0


def main(launch: Callable[[list[str], list[str]], int]) -> int:
    """Runs a launcher; a mistake in the arguments is one line and exit status 2.

    Args:
      launch: from own arguments and gin arguments to an exit status.
    """
    try:
        return launch(*split_arguments(sys.argv[1:]))
    except (LaunchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return SETTINGS_MISTAKE
