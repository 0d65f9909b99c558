"""All hostile inputs that were found so far, each read under a limit of memory and a clock.

One child process reads them all, so the limits cost little; what a reader needs for itself is
loaded before. An input that ends the child fails its test, and a new child reads the rest.
"""

from __future__ import annotations

import base64
import json
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from tests.hostile import child, readers

CASES = {f"{reader}: {what}": (reader, data) for reader, what, data in readers.hostile()}
for _reader, _seeds in readers.seeds().items():
    CASES |= {f"{_reader}: seed {n}": (_reader, data) for n, data in enumerate(_seeds)}
for _path in sorted(pathlib.Path(__file__).with_name("found").glob("*.bin")):
    CASES[f"found: {_path.stem}"] = (_path.stem.rpartition("-")[0], _path.read_bytes())
# Seconds of processor time and MiB that one input may take.
SECONDS, MEBIBYTES = 20, 256


def answers_of_a_child(names: list[str]) -> dict[str, tuple]:
    """What a child said, by case; it may end early."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hostile.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    answers: dict[str, tuple] = {}

    def ask():
        try:
            for name in names:
                reader, data = CASES[name]
                line = json.dumps([name, reader, base64.b64encode(data).decode()])
                process.stdin.write(line + "\n")
            process.stdin.close()
        except BrokenPipeError:
            pass

    threading.Thread(target=ask, daemon=True).start()
    heard = [time.monotonic()]

    def watch():
        while process.poll() is None:
            if time.monotonic() - heard[0] > 5 * child.SECONDS:
                process.kill()
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()
    for line in process.stdout:
        heard[0] = time.monotonic()
        name, *said = json.loads(line)
        answers[name] = tuple(said)
    process.wait()
    return answers


@pytest.fixture(scope="module")
def answers():
    found: dict[str, tuple] = {}
    rest = list(CASES)
    for _ in range(5):
        found |= answers_of_a_child(rest)
        rest = [name for name in CASES if name not in found]
        if not rest:
            break
        # The first that has no answer ended the child.
        found[rest[0]] = (0.0, 0.0, "", "the process that read it ended")
        rest = rest[1:]
    return found


@pytest.mark.parametrize("name", CASES)
def test_inputs_cost_little_and_end_with_one_message(answers, name):
    seconds, mebibytes, _, bad = answers[name]
    assert not bad, bad
    assert seconds < SECONDS
    assert mebibytes < MEBIBYTES
