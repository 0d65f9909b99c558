"""How commands end: a test for every row of the table of statuses in docs/running.md."""

import argparse
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import gin
import numpy as np
import pytest

from ofa_jax import errors
from ofa_jax.checkpoint.errors import CheckpointError
from ofa_jax.checkpoint.manager import CheckpointManager
from ofa_jax.cli import shell
from ofa_jax.cli.inference import run_infer
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.errors import SettingsError, Status, Unfinished
from ofa_jax.inference.answerer import Answerer
from ofa_jax.lock import LOCK_NAME, DirectoryLock, LocalFile
from ofa_jax.runs.engine import Engine
from tests.compiling import QUICK_TO_COMPILE
from tests.integration.tiny_run import TINY, checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]
BREAKING = (
    "--gin.MIXTURE_OR_TASK_MODULE=('tests.cli.breaking_source',)",
    "--gin.MIXTURE_OR_TASK_NAME='breaking_vqa'",
)
NUMBERS = itertools.count()


# What the shell makes of an exception.


@pytest.fixture(autouse=True)
def no_tracebacks(monkeypatch):
    monkeypatch.delenv("OFA_TRACEBACK", raising=False)


def end(error, *, started):
    def command():
        if started:
            errors.started()
        raise error

    return shell.run(command)


MISTAKES = [SettingsError("a"), ValueError("a"), OSError("a"), CheckpointError("a")]


@pytest.mark.parametrize("error", MISTAKES, ids=lambda error: type(error).__name__)
def test_before_the_start_it_is_a_mistake_in_the_settings(capsys, error):
    assert end(error, started=False) == 2
    assert capsys.readouterr().err == "error: a\n"


@pytest.mark.parametrize("error", MISTAKES, ids=lambda error: type(error).__name__)
def test_after_the_start_it_is_a_failure(capsys, error):
    assert end(error, started=True) == 1
    text = capsys.readouterr().err
    assert "in command" in text
    assert re.search(rf"{type(error).__name__}: a\n$", text)


@pytest.mark.parametrize("started", [True, False])
def test_a_failure_outside_is_one_line(capsys, started):
    assert end(errors.OutsideFailure("a worker was killed"), started=started) == 1
    assert capsys.readouterr().err == "error: a worker was killed\n"


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("a"), AttributeError("a")])
def test_bugs_are_failures_at_any_time(capsys, error):
    assert end(error, started=False) == 1
    assert "in command" in capsys.readouterr().err


def test_the_traceback_of_a_mistake_on_request(capsys, monkeypatch):
    monkeypatch.setenv("OFA_TRACEBACK", "1")
    assert end(ValueError("a"), started=False) == 2
    text = capsys.readouterr().err
    assert "in command" in text
    assert text.endswith("error: a\n")


@pytest.mark.parametrize("started", [True, False])
def test_stopping_early_is_no_failure(capsys, started):
    assert end(Unfinished("stopped at step 3 of 9"), started=started) == 75
    assert capsys.readouterr().err == (
        "stopped at step 3 of 9; give the same command again to go on\n"
    )
    assert end(KeyboardInterrupt(), started=started) == 75
    assert capsys.readouterr().err == "stopped; give the same command again to go on\n"


def test_a_command_may_end_with_a_status_of_its_own():
    assert shell.run(lambda: None) == Status.DONE
    assert shell.run(lambda: Status.UNFINISHED) == 75
    # One command does not know of the phase of the one before.
    assert end(ValueError("a"), started=True) == 1
    assert end(ValueError("a"), started=False) == 2


@pytest.fixture
def configured(monkeypatch):
    """What gin makes of a function, which changes the exceptions that come out of it."""
    # gin forgets no name by itself, and a second `train` changes how the first is printed.
    # Its own `copy` shares the tree of names below the first level.
    registry = gin.config.selector_map.SelectorMap()
    for selector, value in gin.config._REGISTRY.items():
        registry[selector] = value
    monkeypatch.setattr(gin.config, "_REGISTRY", registry)

    def make(function, name="train"):
        return gin.external_configurable(function, name, module=f"statuses_{next(NUMBERS)}")

    return make


def test_all_lines_of_a_message_are_shown_and_nothing_of_gin(capsys, configured):
    message = "the weights do not fit:\n  encoder.a: (3, 4) there\n  encoder.b: (5,) here"

    def refuse():
        raise CheckpointError(message)

    assert shell.run(configured(refuse)) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_the_cause_of_a_failure_is_shown_through_gin(capsys, configured):
    def fail():
        errors.started()
        try:
            np.zeros(3) + np.zeros(4)
        except ValueError as error:
            raise CheckpointError("no checkpoint") from error

    assert shell.run(configured(fail)) == 1
    text = capsys.readouterr().err
    assert "operands could not be broadcast together" in text
    assert "direct cause" in text
    assert text.endswith("CheckpointError: no checkpoint\n")


def test_numbers_of_options_have_ascii_digits():
    assert (shell.whole(" 12"), shell.whole("-3"), shell.real("1.5e0")) == (12, -3, 1.5)
    for given in ("1_0", "１０", "9" * 40, "1.5", "many", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is no whole number"):
            shell.whole(given)
    for given in ("nan", "inf", "1_0", "1e999", "1e", "９"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no number"):
            shell.real(given)


def test_sigterm_ends_a_command_with_its_status():
    code = (
        "import time; from ofa_jax.cli import shell\n"
        "def work():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "raise SystemExit(shell.run(work))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == "SIGTERM; give the same command again to go on\n"
    assert process.returncode == 75


@pytest.mark.parametrize("command", ["sizes", "convert"])
def test_devices_that_are_not_there(command):
    arguments = {"sizes": ["--size=nano"], "convert": ["--size=nano", "--target=x.pt"]}[command]
    if command == "convert":
        arguments += ["--target_format=fairseq"]
    done = subprocess.run(
        [sys.executable, "-m", f"ofa_jax.{command}", *arguments],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cuda"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    [line] = [line for line in done.stderr.splitlines() if "cuda_stub" not in line][-1:]
    assert line.startswith("error: JAX_PLATFORMS=cuda asks for devices that cannot be used: ")
    assert "Traceback" not in done.stderr


# What a run makes of it.


def test_a_disk_that_fails_in_the_middle(runs, tmp_path, monkeypatch):
    """What was trained is saved, the command fails, and goes on when it is given again."""
    monkeypatch.setenv("OFA_TEST_BREAK", f"{tmp_path / 'broken'}:20:error")
    status, text = runs.start(*BREAKING)
    assert status == 1
    assert "Traceback" in text
    assert "\nOSError: [Errno 5] Input/output error: 'records.tsv'\n" in text
    # Records 17 to 24 are those of batch 2.
    assert checkpoints(runs.directory) == [2]
    assert runs.start(*BREAKING)[0] == 0
    assert checkpoints(runs.directory)[-1] == 3


def test_a_worker_that_is_killed(runs, monkeypatch, capsys):
    """What was trained is saved, one line says what happened, and the same command goes on."""
    read = MixturePipeline.iterate

    def dying(self, start_step=0):
        with self._worker_deaths():
            yield from itertools.islice(read(self, start_step), 2)
            raise RuntimeError("Worker process was terminated unexpectedly with exit code -9.")

    with monkeypatch.context() as patch:
        patch.setattr(MixturePipeline, "iterate", dying)
        status, text = runs.start()
    assert status == 1
    assert "Traceback" not in text
    [line] = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "input workers ended with exit code -9; the system kills processes" in line
    assert checkpoints(runs.directory) == [2]
    assert runs.start()[0] == 0
    assert checkpoints(runs.directory)[-1] == 3


def test_a_source_that_fails_at_once_is_a_mistake(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("OFA_TEST_BREAK", f"{tmp_path / 'broken'}:3:error")
    status, text = runs.start(*BREAKING)
    assert status == 2
    assert text == "error: [Errno 5] Input/output error: 'records.tsv'\n"
    assert not (runs.directory / "metrics.jsonl").exists()


def test_a_checkpoint_that_cannot_be_written(runs, monkeypatch):
    def full(self, step, tree):
        raise CheckpointError(f"checkpoint {step} needs 3 GiB")

    monkeypatch.setattr(CheckpointManager, "_check_space", full)
    status, text = runs.start()
    assert status == 1
    assert "Traceback" in text
    assert text.endswith("CheckpointError: checkpoint 3 needs 3 GiB\n")


def test_a_bug_of_numpy(runs, monkeypatch):
    def broken_step(*arguments):
        return np.zeros(3) + np.zeros(4)

    monkeypatch.setattr(Engine, "train_step", lambda self, shardings: broken_step)
    status, text = runs.start()
    assert status == 1
    assert "in broken_step" in text
    assert "ValueError: operands could not be broadcast together" in text.splitlines()[-1]


def test_a_directory_in_use(runs):
    runs.directory.mkdir()
    with DirectoryLock(LocalFile(runs.directory / LOCK_NAME), "the directory"):
        before = sorted(path.name for path in runs.directory.iterdir())
        status, text = runs.start()
        assert status == 2
        assert text.startswith(
            f"error: MODEL_DIR {runs.directory} is in use by process {os.getpid()} on "
        )
        assert len(text.splitlines()) == 1
        assert sorted(path.name for path in runs.directory.iterdir()) == before, (
            "nothing is touched"
        )


def test_sigterm_in_the_final_evaluation(runs, monkeypatch):
    """It stops at the next batch, not after the minutes of all of them, and goes on later."""
    answer, batches = Answerer.__call__, []

    def stopped_answer(self, *arguments, **options):
        batches.append(None)
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(self, *arguments, **options)

    evaluated = (
        "--gin.evaluation.EvaluationConfig.final_num_examples=20",
        "--gin.evaluation.EvaluationConfig.batch_size=4",
    )
    with monkeypatch.context() as patch:
        patch.setattr(Answerer, "__call__", stopped_answer)
        status, text = runs.start(*evaluated)
    assert status == 75, text
    assert len(batches) == 2
    assert text.endswith("give the same command again to go on\n")
    assert not (runs.directory / "metrics.json").exists()
    status, text = runs.start(*evaluated)
    assert status == 0, text
    assert json.loads((runs.directory / "metrics.json").read_text())["tasks"]["vqa"]["n"] == 20


# The same with real processes.


class Command:
    """Processes of the tiny run."""

    def __init__(self, directory):
        self.directory, self.run = directory, directory / "run"
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": QUICK_TO_COMPILE,
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *arguments, around=(), **environment):
        return subprocess.Popen(
            [
                sys.executable, *around, "-m", "ofa_jax.train", *TINY,
                f"--gin.MODEL_DIR='{self.run}'", *arguments,
            ],
            cwd=ROOT, env=self.environment | environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def wait(self, process):
        text = process.communicate(timeout=900)[0]
        return process.returncode, text

    def steps(self):
        path = self.run / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_launcher_starts_a_failed_run_again(command, workers):
    """A disk that fails, or a worker process that the system kills: one restart, and finished."""
    # Workers read ahead: the death must come after what they may have read before step 1.
    what, steps = ("200:kill", 80) if workers else ("13:error", 8)
    around = ("launch/restart.py", "--max_restarts=1", "--pause=0", "--", sys.executable)
    process = command.start(
        *BREAKING,
        f"--gin.TRAIN_STEPS={steps}",
        f"--gin.inputs.DatasetConfig.num_workers={workers}",
        around=around,
        OFA_TEST_BREAK=f"{command.directory / 'broken'}:{what}",
    )
    status, text = command.wait(process)
    assert status == 0, text[-3000:]
    assert text.count("exit status 1; restart 1 of 1") == 1
    assert text.count("saving what is trained so far") == 1
    if workers:
        assert "\nerror: one of the 2 input workers ended with exit code -9; the system " in text
        assert "Traceback" not in text
        assert "going on from the checkpoint at step" in text
    else:
        assert "OSError: [Errno 5] Input/output error: 'records.tsv'" in text
    assert checkpoints(command.run)[-1] == steps


@pytest.mark.slow
def test_two_starts_in_one_directory_and_a_kill(command):
    """The second start leaves the first alone; after kill -9 the next goes on at once."""
    arguments = ("--gin.TRAIN_STEPS=100000", "--gin.checkpoints.CheckpointConfig.period=5")
    first = command.start(*arguments)
    drain = threading.Thread(target=first.stdout.read, daemon=True)
    drain.start()
    try:
        until = time.monotonic() + 600
        while command.steps() < 8 and time.monotonic() < until:
            time.sleep(0.1)
        status, text = command.wait(command.start(*arguments))
        assert status == 2, text[-3000:]
        assert f"error: MODEL_DIR {command.run} is in use by process {first.pid} on " in text
        seen = command.steps()
        while command.steps() < seen + 5 and time.monotonic() < until:
            time.sleep(0.1)
        assert command.steps() >= seen + 5, "the first one goes on"
    finally:
        first.kill()
        first.wait()
    last = checkpoints(command.run)[-1]
    status, text = command.wait(command.start(f"--gin.TRAIN_STEPS={last + 50}"))
    assert status == 0, text[-3000:]
    assert f"was locked by process {first.pid} on " in text
    assert "going on from the checkpoint at step" in text


@pytest.mark.parametrize("given", ["0,0,1_0,9", "0,0,１０,9", "0,0,nan,9", "0,0,,9"], ids=ascii)
def test_a_region_is_written_in_ascii_digits(given, capsys):
    with pytest.raises(SystemExit) as status:
        run_infer(["--image=a.png", f"--region={given}"])
    assert status.value.code == 2
    assert "is not x0,y0,x1,y1" in capsys.readouterr().err
