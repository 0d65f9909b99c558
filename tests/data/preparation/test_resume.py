"""Killed at random moments and started again, preparation ends with the same bytes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ofa_jax.data.sources.array_record import PreparedSource
from tests.data.preparation import fault_set

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Images are made smaller, so a record takes some milliseconds, and nearly every shard has
# something to drop.
BROKEN, SHARDS, SIZE = 60, 30, (480, 320)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    directory = tmp_path_factory.mktemp("few")
    return fault_set.write(directory, records=600, broken=BROKEN, picture_size=SIZE)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    directory = tmp_path_factory.mktemp("many")
    return fault_set.write(directory, records=2_400, broken=BROKEN, picture_size=SIZE)


def start(faults, out, processes) -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "ofa_jax.prepare"),
        *("--source=tsv", "--layout=vision_language", f"--paths={faults.path}", f"--out={out}"),
        *("--resize_short_side=96", f"--num_shards={SHARDS}", f"--processes={processes}"),
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(faults, out, processes) -> dict[str, bytes]:
    process = start(faults, out, processes)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    return {path.name: path.read_bytes() for path in out.iterdir()}


def shards(out) -> set[pathlib.Path]:
    return set(out.glob("*.array_record"))


def kill_at_random(faults, out, processes, rng, *, whole_group: bool) -> bool:
    """Starts a preparation and kills it while it writes; whether it was still at work."""
    before = shards(out)
    process = start(faults, out, processes)
    deadline = time.monotonic() + 120
    # Up to the first new shard nothing random happens, however slow the machine starts.
    while shards(out) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.25))
    at_work = process.poll() is None
    # Killing the parent alone must end its processes as well.
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
    return at_work


def check(faults, tmp_path, *, kills: int, seed: int) -> None:
    expected = finish(faults, tmp_path / "uninterrupted", 1)
    assert len(expected) == SHARDS + 1
    out = tmp_path / "killed"
    out.mkdir()
    rng = np.random.default_rng(seed)
    hits = 0
    for kill in range(kills):
        processes = 2 - kill % 2
        hits += kill_at_random(faults, out, processes, rng, whole_group=kill % 4 < 2)
    assert hits == kills, "preparation ended before it was killed"
    assert not (out / "manifest.json").exists()
    assert finish(faults, out, 2) == expected
    rows = len(faults.path.read_bytes().splitlines())
    assert len(PreparedSource(str(out)).open("train")) == rows - BROKEN


def test_two_kills(few, tmp_path):
    check(few, tmp_path, kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_kills(many, tmp_path, seed):
    check(many, tmp_path, kills=10, seed=seed)


def test_processes_end_with_a_killed_parent(few, tmp_path):
    out = tmp_path / "orphans"
    process = start(few, out, 2)
    while len(shards(out)) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    children = [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and _parent(int(name)) == process.pid
    ]
    assert len(children) >= 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(_parent(child) is not None for child in children):
        assert time.monotonic() < deadline, "processes outlive their parent"
        time.sleep(0.02)


def _parent(process: int) -> int | None:
    """The parent of a living process; None where it has ended."""
    try:
        status = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    state, parent = status.rpartition(")")[2].split()[:2]
    return None if state == "Z" else int(parent)
