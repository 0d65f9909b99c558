"""Runs a launcher as a user does, with no cloud program on the PATH."""

import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
GIN = (
    "--gin_file=gin_configs/models/base.gin",
    "--gin_file=gin_configs/runs/pretrain.gin",
    "--gin_file=gin_configs/sharding/fsdp.gin",
    "--gin.MODEL_DIR='/mnt/b/runs/it\\'s \"1\" $HOME'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 80, 'targets': 60, 'image': 384}",
)
# Two hosts of fsdp.gin need nothing else.
PLAIN = ("--gin_file=gin_configs/runs/quickstart.gin", "--gin.MODEL_DIR='/mnt/b/runs/a'")


def launch(name, *arguments, path=""):
    """The finished process of `python launch/<name>.py`; `path` is its whole PATH."""
    return subprocess.run(
        [sys.executable, f"launch/{name}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path or "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def dry_run(name, *arguments):
    """What --dry_run prints."""
    done = launch(name, "--dry_run", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def gin_of(line):
    """The gin arguments of a command line, as the shell would hand them on."""
    return tuple(word for word in shlex.split(line) if word.startswith("--gin"))


def line_with(text, part):
    """The one line that holds a part."""
    (line,) = [line for line in text.splitlines() if part in line]
    return line


def files_of(text):
    """Path to content of the files that --dry_run shows."""
    found = {}
    for block in text.split("cat > ")[1:]:
        head, _, rest = block.partition(" <<'END_OF_FILE'\n")
        found[head] = rest.partition("END_OF_FILE\n")[0]
    return found
