"""The command `ofa`: `ofa train ...` is `python -m ofa_jax.train ...`; likewise the others."""

from __future__ import annotations

import importlib
import os
import pathlib
import sys
from collections.abc import Sequence

from ofa_jax import extras
from ofa_jax.errors import Status
from ofa_jax.schema import nearest

# Entry points, in the order of a first acquaintance, with what `ofa --help` says of them.
COMMANDS = {
    "train": "train, evaluate and report the run of a gin file",
    "report": "write the page of a run again; compare runs; the tables of the paper",
    "infer": "answer an instruction about images",
    "demo": "serve a page on which a model is asked, and the same over HTTP",
    "eval": "predict and score the splits of a task",
    "convert": "convert checkpoints: fairseq, HuggingFace, our own",
    "prepare": "make checked shards of a data set",
    "inspect": "show what a data set holds, and what tasks make of it",
    "negatives": "collect wrong captions and answers for matching",
    "sizes": "print parameters, operations and memory of every size",
    "plan": "say what a training step needs on any mesh",
    "ablate": "train changed mixtures over equal seeds, and compare them",
}
_COMPLETION = """\
declare -A _ofa_options
_ofa() {
  local word="${COMP_WORDS[COMP_CWORD]}" name="${COMP_WORDS[1]}"
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "COMMANDS --help --version --completion" -- "$word"))
  elif [[ "$word" == -* ]]; then
    if [[ -z "${_ofa_options[$name]}" ]]; then
      _ofa_options[$name]="$(ofa "$name" --help 2>/dev/null | grep -oE -e '--[a-z_]+' | sort -u)"
    fi
    COMPREPLY=($(compgen -W "${_ofa_options[$name]}" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "${word#=}"))
  fi
}
complete -o filenames -F _ofa ofa"""
_SHELLS = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}


def _module(name: str) -> str:
    """The module behind a command; some are packages."""
    package = pathlib.Path(__file__).with_name(name).is_dir()
    return f"ofa_jax.{name}.__main__" if package else f"ofa_jax.{name}"


def _help() -> str:
    rows = "\n".join(f"  {name:<10} {about}" for name, about in COMMANDS.items())
    return f"""usage: ofa COMMAND ...

OFA in JAX: one model for captions, questions, boxes and image codes.

{rows}

ofa COMMAND --help shows its options. The same: python -m ofa_jax.COMMAND ...

  --version                 print the version
  --completion bash|zsh     complete commands and options: eval "$(ofa --completion bash)"

A command ends with 0 done, 1 a failure, 2 a mistake in the settings, 75 unfinished."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `ofa`; returns the exit status of the command."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_help())
    elif name == "--version":
        from ofa_jax import __version__

        print(f"ofa {__version__}")
    elif name == "--completion" and len(rest) == 1 and rest[0] in _SHELLS:
        print(_SHELLS[rest[0]] + _COMPLETION.replace("COMMANDS", " ".join(COMMANDS)))
    elif name == "--completion":
        print("error: --completion: give bash or zsh", file=sys.stderr)
        return Status.SETTINGS
    elif name not in COMMANDS:
        hint = nearest(name, list(COMMANDS)) or "; see ofa --help"
        print(f"error: there is no command {name!r}{hint}", file=sys.stderr)
        return Status.SETTINGS
    else:
        # As under `python -m`: modules of the user lie in the working directory.
        if not sys.flags.safe_path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        sys.argv = [f"ofa {name}", *rest]
        try:
            entry_point = importlib.import_module(_module(name)).main
            return entry_point()
        except ImportError as error:  # where an entry point imports it before it has started
            if (line := extras.advice(error)) is None:
                raise
            print(f"error: {line}", file=sys.stderr)
            return Status.SETTINGS
    return Status.DONE


if __name__ == "__main__":
    sys.exit(main())
