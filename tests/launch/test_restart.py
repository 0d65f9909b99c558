"""What ends a training process, and what the supervisor makes of it."""

import json
import signal
import subprocess
import sys
import time

import pytest

from ofa_jax.errors import Status
from tests.launch.launcher import ROOT


def restart(program, *arguments, max_restarts=2):
    return subprocess.Popen(
        [
            sys.executable, "launch/restart.py", f"--max_restarts={max_restarts}", "--pause=0",
            "--", sys.executable, "-c", program, *arguments,
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_launchers_know_the_statuses_of_the_library():
    code = "import commands; print(commands.DONE, commands.SETTINGS_MISTAKE, commands.AGAIN)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "launch",
        capture_output=True,
        text=True,
        check=True,
    )
    known = (Status.DONE, Status.SETTINGS, Status.UNFINISHED)
    assert done.stdout.split() == [str(int(status)) for status in known]


@pytest.mark.parametrize(
    ("program", "status", "starts"),
    [
        ("print('done')", 0, 1),
        ("print('give the same command again to go on')", 0, 1),
        ("raise SystemExit(2)", 2, 1),
        ("raise ValueError('a bug')", 75, 3),
        ("raise SystemExit(75)", 75, 3),
        ("import os; os.kill(os.getpid(), 9)", 75, 3),
    ],
)
def test_statuses(program, status, starts):
    process = restart("print('start', flush=True);" + program)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == status, output
    assert output.count("start\n") == starts


def test_goes_on_until_finished(tmp_path):
    counter = tmp_path / "starts"
    program = (
        "import pathlib, sys; path = pathlib.Path(sys.argv[1]);"
        "count = len(path.read_text()) if path.exists() else 0; path.write_text('x' * (count + 1));"
        "sys.exit(0 if count else 75)"
    )
    process = restart(program, str(counter))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "restart 1 of 2" in output


def test_a_signal_is_handed_on_once_and_ends_it():
    program = (
        "import signal, time\n"
        "def stop(*_):\n"
        "    print('stopped at step 3')\n"
        "    raise SystemExit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = restart(program, max_restarts=5)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75
    assert output.count("stopped at step 3") == 1
    assert "restart 1" not in output


@pytest.mark.slow
def test_local_launcher_trains_on_two_processes(tmp_path):
    directory = tmp_path / "run"
    settings = [
        "--gin_file=gin_configs/runs/quickstart.gin",
        "--gin_file=gin_configs/sharding/fsdp.gin",
        "--gin.MIXTURE_OR_TASK_NAME='scenes_vqa'",
        "--gin.TRAIN_STEPS=4",
        "--gin.WARMUP_STEPS=1",
        "--gin.BATCH_SIZE=4",
        "--gin.EVAL_PERIOD=0",
        "--gin.models.OFA.encoder_layers=1",
        "--gin.models.OFA.decoder_layers=1",
        "--gin.models.OFA.width=32",
        "--gin.models.OFA.ffn_dim=64",
        "--gin.train_script.train.stats_period=1",
        "--gin.evaluation.EvaluationConfig.final_num_examples=0",
        "--gin.evaluation.EvaluationConfig.unseen_tasks=()",
        "--gin.log.LogConfig.tensorboard=False",
        f"--gin.MODEL_DIR='{directory}'",
    ]
    started = time.monotonic()
    done = subprocess.run(
        [
            sys.executable, "launch/local.py", "--devices_per_process=2", "--max_restarts=0",
            f"--python={sys.executable}", *settings,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "process 0 of 2 (from plain variables), 2 of 4 devices" in done.stdout
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert (directory / "checkpoint_4").is_dir()
    assert time.monotonic() - started < 900
