"""The setup of a TPU host, run in bash where only Python 3.10 is there, and what follows."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.launch.launcher import PLAIN, ROOT, dry_run, files_of

TPU = ("--tpu_type=v5litepod-4", "--zone=z")
# What the script needs besides the programs that stand in for others.
SYSTEM = ("bash", "chmod", "cp", "env", "gzip", "ln", "mkdir", "mktemp", "rm", "tar", "touch")
# `python -c ...` asks which Python it is, `-m venv` makes an environment, `-m pip` installs.
PYTHON = """#!/bin/bash
case "$1 $2" in
"-c "*) exit {fits} ;;
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip") echo "pip $*" >> "$HOME/log"; {pip} ;;
"--version "*) echo "Python {version}" ;;
esac
"""


def program(directory, name, text):
    path = directory / name
    path.write_text(text if text.startswith("#!") else f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def python(directory, name, version, *, pip="true"):
    fits = int(not (3, 11) <= tuple(map(int, version.split("."))) < (3, 14))
    program(directory, name, PYTHON.format(fits=fits, pip=pip, version=version))


@pytest.fixture
def host(tmp_path):
    """A home with the checkout's archive, and a directory that is the whole PATH."""
    (tmp_path / "bin").mkdir()
    for name in SYSTEM:
        (found,) = [p for p in (pathlib.Path("/usr/bin") / name, pathlib.Path("/bin") / name)
                    if p.exists()][:1]  # fmt: skip
        (tmp_path / "bin" / name).symlink_to(found)
    program(tmp_path / "bin", "sleep", "exit 0")
    program(tmp_path / "bin", "curl", "exit 6")
    program(tmp_path / "bin", "sudo", 'echo "sudo $*" >> "$HOME/log"; exit 1')
    (tmp_path / "constraints.txt").write_text("")
    subprocess.run(["tar", "-czf", "ofa_jax.tar.gz", "constraints.txt"], cwd=tmp_path, check=True)
    return tmp_path


def setup(host, *arguments):
    script = files_of(dry_run("tpu", *TPU, *arguments, *PLAIN))["runs/launch/ofa/setup.sh"]
    environment = {"HOME": str(host), "PATH": str(host / "bin")}
    done = subprocess.run(
        [host / "bin/bash", "-c", script], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    log = host / "log"
    return done, log.read_text() if log.exists() else ""


def uv(host, text='mkdir -p .venv/bin && cp "$HOME/new_python" .venv/bin/python'):
    python(host, "new_python", "3.12")
    program(host / "bin", "uv", f'echo "uv $*" >> "$HOME/log"\n{text}')


def test_a_host_with_a_fitting_python_uses_it(host):
    python(host / "bin", "python3", "3.10")
    python(host / "bin", "python3.12", "3.12")
    done, log = setup(host)
    assert done.returncode == 0, done.stderr
    assert log == "pip -m pip install --quiet -c constraints.txt -e .[train,tpu,gs]\n"
    # Once more is harmless, and keeps the environment.
    again, log = setup(host)
    assert again.returncode == 0
    assert log.count("pip -m pip") == 2


def test_uv_brings_a_python_where_only_3_10_is_there(host):
    python(host / "bin", "python3", "3.10")
    uv(host)
    # What an earlier setup made with 3.10 is replaced.
    (host / "ofa_jax/.venv/bin").mkdir(parents=True)
    python(host / "ofa_jax/.venv/bin", "python", "3.10")
    done, log = setup(host)
    assert done.returncode == 0, done.stderr
    assert log.splitlines() == [
        "uv venv --quiet --seed --python 3.12 .venv",
        "pip -m pip install --quiet -c constraints.txt -e .[train,tpu,gs]",
    ]


def test_uv_is_installed_by_pip_first(host):
    uv(host)
    (host / "bin/uv").rename(host / "uv")
    bring = 'mkdir -p "$HOME/.local/bin" && cp "$HOME/uv" "$HOME/.local/bin/uv"'
    python(host / "bin", "python3", "3.10", pip=bring)
    done, log = setup(host)
    assert done.returncode == 0, done.stderr
    assert log.splitlines()[0] == "pip -m pip install --quiet --user uv"


def test_no_python_at_all_ends_with_one_line_and_the_status_of_a_mistake(host):
    python(host / "bin", "python3", "3.10", pip="exit 1")
    done, log = setup(host)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "setup: no Python 3.11 to 3.13 here (Python 3.10); neither uv nor apt has one"
    )
    assert "sudo apt-get -qq update" in log


def test_pip_is_tried_three_times(host):
    python(host / "bin", "python3.11", "3.11", pip="exit 1")
    done, log = setup(host)
    assert done.returncode == 2
    assert log.count("pip -m pip install") == 3
    assert "setup: pip could not install ofa_jax" in done.stderr


def test_a_bucket_that_cannot_be_mounted_is_named(host):
    python(host / "bin", "python3.11", "3.11")
    program(host / "bin", "sudo", "exit 0")
    program(host / "bin", "id", "echo 0")
    program(host / "bin", "gcsfuse", "exit 1")
    program(host / "bin", "mountpoint", "exit 1")
    done, _ = setup(host, "--bucket=b")
    assert done.returncode == 2
    assert "setup: gs://b cannot be mounted" in done.stderr


@pytest.mark.parametrize(
    ("status", "times"), [(2, 1), (255, 3)], ids=["a mistake", "a lost connection"]
)
def test_the_launcher_stops_where_the_setup_cannot_succeed(tmp_path, status, times):
    """gcloud hands on the status of what it ran; a setup that says 2 is not paid for again."""
    program(
        tmp_path,
        "gcloud",
        f"""echo "$*" >> {tmp_path}/log
case "$*" in
*describe*) echo '{json.dumps({"state": {"state": "ACTIVE"}})}' ;;
*setup.sh*zone*) case "$*" in *ssh*) exit {status} ;; esac ;;
esac""",
    )
    code = (
        "import pathlib, sys; sys.path.insert(0, 'launch'); import commands, tpu; tpu._POLL = 0; "
        f"commands.SCRIPTS = pathlib.PurePosixPath({str(tmp_path)!r}); "
        "sys.exit(commands.main(tpu.launch))"
    )
    words = [sys.executable, "-c", code, *TPU, "--name=stopped", "--max_restarts=2", *PLAIN]
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=False)
    log = (tmp_path / "log").read_text()
    assert log.count("bash ~/setup.sh") == times
    assert done.returncode == (2 if status == 2 else 75)
    assert ("delete stopped" in log) == (status == 2)
