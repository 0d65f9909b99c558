"""Raw files of all nineteen slots, prepared, inspected, trained on by the documented commands."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tasks.pretrain_slots import SLOTS
from tests.inspection.raw_files import COUNT, write_raw
from tests.shared import gpt2_dir, requires_gpt2

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "data.md"


def run(words, directory):
    """Runs `python ...` in a directory; returns the finished process."""
    assert words[0] == "python"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("OFA_DATA_DIR", None)
    return subprocess.run(
        [sys.executable, *words[1:]],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def train_words(directory, run_dir):
    return [
        *("python", "-m", "ofa_jax.train"),
        "--gin_file=gin_configs/models/nano.gin",
        "--gin_file=gin_configs/runs/pretrain.gin",
        f'--gin.DATA_DIR="{directory / "data"}"',
        f'--gin.VOCAB_DIR="{gpt2_dir()}"',
        f'--gin.MODEL_DIR="{directory / run_dir}"',
        "--gin.TRAIN_STEPS=3",
        "--gin.BATCH_SIZE=8",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 257, 'image': 64}",
        "--gin.models.OFA.max_positions=512",
        "--gin.models.OFA.sample_patch_num=0",
        "--gin.train_script.train.stats_period=1",
        "--gin.inputs.DatasetConfig.num_workers=0",
    ]


def test_the_page_has_every_command():
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")  # continued lines
    blocks = [shlex.split(block.split("```")[0]) for block in text.split("```bash\n")[1:]]
    for slot in SLOTS:
        assert list(slot.command) in blocks, f"docs/data.md lacks the command of {slot.name}"
        assert f"\n### {slot.name}\n" in text
        assert slot.title in text


@pytest.mark.slow
@requires_gpt2
def test_all_slots_by_the_commands_of_the_page(tmp_path):
    write_raw(tmp_path / "raw")
    for slot in SLOTS:
        finished = run([*slot.command, "--processes=1"], tmp_path)
        assert finished.returncode == 0, f"{slot.name}: {finished.stderr[-2000:]}"
        manifest = json.loads((tmp_path / "data" / slot.name / "manifest.json").read_text())
        assert manifest["splits"]["train"]["examples"] == COUNT
        assert not manifest["splits"]["train"]["dropped"]

    finished = run(["python", "-m", "ofa_jax.negatives", "data"], tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]
    vocabulary = f"--vocab_dir={gpt2_dir()}"
    for path, task in (
        ("data/vg_regions", "vg_regions_grounded_captioning"),
        ("raw/vqa", "ofa_answer_matching"),
    ):
        words = ["python", "-m", "ofa_jax.inspect", path, vocabulary, "--out=inspection"]
        finished = run(words, tmp_path)
        assert finished.returncode == 0, finished.stderr[-2000:]
        assert f"task {task}: " in finished.stdout
        assert "faults: none" in finished.stdout
        assert (tmp_path / "inspection" / "index.html").is_file()

    finished = run(train_words(tmp_path, "run"), ROOT)
    assert finished.returncode == 0, finished.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert np.isfinite([line["loss"] for line in lines]).all()
    seen = {key.removeprefix("loss/") for line in lines for key in line if "loss/" in key}
    assert seen <= {name for slot in SLOTS for name in slot.tasks}
    assert len(seen) > 8
    assert (tmp_path / "run" / "checkpoint_3").is_dir()

    for name in ("sbu", "gqa"):
        shutil.rmtree(tmp_path / "data" / name)
    finished = run(train_words(tmp_path, "without"), ROOT)
    assert finished.returncode == 2
    line = finished.stderr.strip().splitlines()[-1]
    assert line.startswith(
        "error: 'ofa_pretrain' has no train data for gqa, sbu (no such directory"
    )
    setting, zeros = "--gin.inputs.DatasetConfig.rates=", "{'gqa': 0, 'sbu': 0}"
    assert line.endswith(f'leave them out: {setting}"{zeros}"')
