"""One writer at a time in a directory: refused, taken over, lost, and what is on the disk."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from ofa_jax import lock
from ofa_jax.errors import SettingsError
from ofa_jax.lock import DirectoryLock, LocalFile

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOLD = """
import pathlib, sys, time
from ofa_jax.lock import DirectoryLock, LocalFile
with DirectoryLock(LocalFile(pathlib.Path(sys.argv[1])), "the directory"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


def locked(path, **options):
    return DirectoryLock(LocalFile(path), "model_dir runs/mine", **options)


@pytest.fixture
def holder(path):
    """Another process that holds the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def edit(path, **changes):
    """As another machine, or another time, would have written it."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes) + "\n")


def test_a_second_start_says_who_holds_the_directory(path, holder):
    with pytest.raises(SettingsError) as error, locked(path):
        pass
    message = str(error.value)
    assert message.startswith(f"model_dir runs/mine is in use by process {holder.pid} on ")
    assert " since 20" in message
    assert message.endswith("wait for it, end it, or take another directory")


def test_it_is_gone_after_a_good_end_and_after_an_error(path):
    for error in (None, ValueError):
        try:
            with locked(path):
                assert json.loads(path.read_text())["process"] == os.getpid()
                if error:
                    raise error
        except ValueError:
            pass
        assert not path.exists()


def test_a_killed_holder_is_followed_at_once(path, holder):
    holder.send_signal(signal.SIGKILL)
    # Not waited for: a process that ended is gone, also while its parent has not looked.
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    started = time.monotonic()
    with locked(path):
        assert time.monotonic() - started < 5
    holder.wait()


def test_a_process_that_got_the_number_of_the_holder_is_another(path, holder):
    edit(path, process_start="17")
    with locked(path):
        assert json.loads(path.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"machine": "another boot"}])
def test_of_another_machine_the_beat_decides(path, holder, other):
    """The numbers of its processes say nothing here; its clock is not asked."""
    edit(path, beat=0, **other)
    started = time.monotonic()
    with locked(path, beat_period=0.1, silent_after=0.5):
        assert time.monotonic() - started >= 0.5

    edit_later = threading.Timer(0.3, lambda: edit(path, beat=1))
    path.write_text(json.dumps({"host": "elsewhere", "process": 7, "since": "1999", "beat": 0}))
    edit_later.start()
    with (
        pytest.raises(SettingsError, match="process 7 on elsewhere since 1999"),
        locked(path, beat_period=0.1, silent_after=60.0),
    ):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"process": "x"}', "[" * 100_000])
def test_a_damaged_lock_is_watched_and_taken(path, content):
    path.write_text(content)
    with locked(path, beat_period=0.1, silent_after=0.3):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert not path.exists()


def test_the_beat_counts_while_it_is_held(path):
    with locked(path, beat_period=0.05) as held:
        until = time.monotonic() + 30
        while json.loads(path.read_text())["beat"] < 12 and time.monotonic() < until:
            time.sleep(0.05)
        assert json.loads(path.read_text())["beat"] >= 12
        held.check()


def test_who_was_silent_for_too_long_learns_of_it(path):
    """As a machine that slept: another one has gone on, and this one must not write any more."""
    with locked(path, beat_period=0.05) as held:
        edit(path, host="elsewhere", process=7, lock="another")
        held._thread.join(30)
        with pytest.raises(RuntimeError, match=r"mine .*taken over .* 7 on elsewhere"):
            held.check()
    assert json.loads(path.read_text())["process"] == 7, "the lock of the other one stays"


def test_of_many_at_once_one_wins(path):
    """Eight starts at a stale lock; each holds it until all have tried."""
    path.write_text(json.dumps({"host": "elsewhere", "process": 7, "beat": 0}))
    all_tried, won, refused = threading.Barrier(8), [], []

    def start():
        try:
            with locked(path, beat_period=0.1, silent_after=0.3):
                won.append(1)
                all_tried.wait(60)
        except SettingsError:
            refused.append(1)
            all_tried.wait(60)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)


def test_without_locks_in_the_file_system_it_still_keeps_others_out(path, holder, monkeypatch):
    def unsupported(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with pytest.raises(SettingsError, match="is in use by"), locked(path):
        pass
