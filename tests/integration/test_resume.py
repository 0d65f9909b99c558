"""A run that is stopped or killed at any moment ends as if nothing had happened: the same bits.

Dropout, patch sampling, the moving average and the order of the examples must all go on where they
were. A checkpoint that is damaged costs the steps since the one before, not the run.
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ofa_jax.errors import Status
from tests.compiling import QUICK_TO_COMPILE
from tests.integration.tiny_run import TINY, checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Sessions:
    """Runs one training session after another in forks of one process."""

    def __init__(self, directory, settings=TINY):
        self.directory, self.settings = directory, settings
        self.environment = {
            "JAX_PLATFORMS": "cpu",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.forked_sessions"],
            cwd=ROOT,
            env=os.environ | self.environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.count = 0

    def run(self, name, *arguments, kill=None, devices=1):
        """One session of the run in directory `name`; returns (exit status, what it said)."""
        self.count += 1
        output = self.directory / f"{name}.{self.count}.log"
        flags = f"--xla_force_host_platform_device_count={devices} {QUICK_TO_COMPILE}"
        request = {
            "arguments": [*self.settings, f"--gin.MODEL_DIR='{self.directory / name}'", *arguments],
            "output": str(output),
            "environment": {"XLA_FLAGS": flags},
            "kill": kill,
        }
        watchdog = threading.Timer(3600, self.process.kill)
        watchdog.start()
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        watchdog.cancel()
        assert answer, f"the sessions ended:\n{output.read_text()[-3000:]}"
        return int(answer), output.read_text()

    def finish(self, name, *arguments, **options):
        """A session that must come to its end; returns what it said."""
        status, text = self.run(name, *arguments, **options)
        assert status == 0, text[-3000:]
        return text


@pytest.fixture
def sessions(tmp_path):
    started = Sessions(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


def log_lines(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def saved_state(run_dir, step):
    """The whole saved state: parameters, optimizer, statistics, average."""
    path = run_dir / f"checkpoint_{step}" / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True)) as reader:
        names = reader.metadata(path).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
        tree = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=arguments))
    return {jax.tree_util.keystr(key): leaf for key, leaf in jax.tree.leaves_with_path(tree)}


def assert_same_bits(broken, whole, steps):
    # The log has each step once and the final scores, with the same numbers but for the clock.
    changing = {"time", "examples_per_second", "data_wait", "goodput"}
    logged = [(line["step"], "loss" in line) for line in log_lines(broken)]
    assert logged[:steps] == [(step, True) for step in range(1, steps + 1)]
    assert logged[steps:] in ([], [(steps, False)])
    for line, other in zip(log_lines(broken), log_lines(whole), strict=True):
        for key in other.keys() - changing:
            assert line[key] == other[key], (line["step"], key)
    times = [line["time"] for line in log_lines(broken)]
    assert times == sorted(times), "the clock goes on"
    state, other = saved_state(broken, steps), saved_state(whole, steps)
    assert state.keys() == other.keys()
    assert {key.split("'")[1] for key in state} == {"target", "state", "flax_mutables", "ema"}
    for name, leaf in other.items():
        assert state[name].dtype == leaf.dtype
        np.testing.assert_array_equal(state[name], leaf, err_msg=name)


def resumed_step(text):
    found = re.search(r"going on from the checkpoint at step (\d+)", text)
    return int(found[1]) if found else 0


def damage(checkpoint):
    """Cuts the arrays of a checkpoint off, as a full disk or a broken copy does."""
    files = [path for path in (checkpoint / "state").rglob("d/*") if path.stat().st_size > 100]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:100])


def test_a_killed_run_with_a_damaged_checkpoint_ends_with_the_same_bits(tmp_path, sessions):
    steps = 9
    arguments = (f"--gin.TRAIN_STEPS={steps}", "--gin.checkpoints.CheckpointConfig.period=3")
    sessions.finish("whole", *arguments)
    # Killed while it writes the third checkpoint, so the first two are complete.
    status, text = sessions.run("broken", *arguments, kill={"save": 3})
    assert status == -signal.SIGKILL, text[-3000:]
    assert checkpoints(tmp_path / "broken") == [3, 6]
    damage(tmp_path / "broken" / "checkpoint_6")
    text = sessions.finish("broken", *arguments)
    assert "checkpoint 6 is damaged and set aside" in text
    assert "going back to checkpoint 3" in text
    assert resumed_step(text) == 3
    assert_same_bits(tmp_path / "broken", tmp_path / "whole", steps)
    account = json.loads((tmp_path / "broken" / "goodput.json").read_text())["sessions"]
    assert [session["first_step"] for session in account] == [0, 3]


@pytest.mark.slow
def test_twenty_random_kills(tmp_path, sessions):
    steps, kills = 120, 20
    arguments = (f"--gin.TRAIN_STEPS={steps}", "--gin.checkpoints.CheckpointConfig.period=3")
    sessions.finish("whole", *arguments)
    dice, started, during_save = random.Random(0), [], 0
    for number in range(kills):
        if number % 2:
            kill = {"save": dice.randint(1, 2)}
        else:
            kill = {"step": dice.randint(1, 7), "delay": dice.uniform(0.0, 0.05)}
        status, text = sessions.run("broken", *arguments, kill=kill)
        assert status == -signal.SIGKILL, text[-3000:]
        started.append(resumed_step(text))
        leftovers = list((tmp_path / "broken").glob("*orbax-checkpoint-tmp*"))
        during_save += bool(leftovers)
    text = sessions.finish("broken", *arguments)
    assert started == sorted(started), "no session starts before an earlier one"
    assert resumed_step(text) < steps
    assert during_save >= kills // 4, "some were killed while a checkpoint was being written"
    assert_same_bits(tmp_path / "broken", tmp_path / "whole", steps)


@pytest.mark.slow
def test_a_stop_request_saves_and_the_next_start_goes_on(tmp_path, sessions):
    arguments = ("--gin.TRAIN_STEPS=400", "--gin.checkpoints.CheckpointConfig.period=100")
    sessions.finish("whole", *arguments)

    def ask_to_stop():
        path = tmp_path / "broken" / "metrics.jsonl"
        while not (path.exists() and len(path.read_text().splitlines()) >= 20):
            threading.Event().wait(0.05)
        children = pathlib.Path(
            f"/proc/{sessions.process.pid}/task/{sessions.process.pid}/children"
        )
        os.kill(int(children.read_text().split()[0]), signal.SIGTERM)

    threading.Thread(target=ask_to_stop, daemon=True).start()
    status, text = sessions.run("broken", *arguments)
    assert status == Status.UNFINISHED, text[-3000:]
    stopped = log_lines(tmp_path / "broken")[-1]["step"]
    assert 20 <= stopped < 400
    assert f"stopped at step {stopped} of 400; give the same command again" in text
    assert checkpoints(tmp_path / "broken")[-1] == stopped, "saved where it stopped"
    assert resumed_step(sessions.finish("broken", *arguments)) == stopped
    assert_same_bits(tmp_path / "broken", tmp_path / "whole", 400)


@pytest.mark.slow
def test_another_number_of_devices_goes_on_with_the_same_numbers(tmp_path, sessions):
    steps = 8
    arguments = (
        f"--gin.TRAIN_STEPS={steps}",
        "--gin.checkpoints.CheckpointConfig.period=4",
        "--gin_file=gin_configs/sharding/fsdp.gin",
        # Adam divides by the size of a gradient: one that is zero but for rounding must not count.
        "--gin.optimizers.OptimizerConfig.eps=1e-3",
        "--gin.LEARNING_RATE=1e-4",
    )
    sessions.finish("eight", *arguments, devices=8)
    expected = saved_state(tmp_path / "eight", steps)
    losses = [line["loss"] for line in log_lines(tmp_path / "eight") if "loss" in line]
    for devices in (1, 2, 4, 8):
        name = f"resumed_{devices}"
        shutil.copytree(tmp_path / "eight", tmp_path / name)
        shutil.rmtree(tmp_path / name / f"checkpoint_{steps}")
        text = sessions.finish(name, *arguments, devices=devices)
        assert resumed_step(text) == 4
        assert ("now placed on" in text) == (devices != 8)
        again = [line["loss"] for line in log_lines(tmp_path / name) if "loss" in line]
        np.testing.assert_allclose(again, losses, rtol=1e-5)
        state = saved_state(tmp_path / name, steps)
        for key, leaf in expected.items():
            np.testing.assert_allclose(state[key], leaf, rtol=1e-5, atol=1e-5, err_msg=key)
