"""docs/own_data.md as a newcomer follows it: its commands, as they stand, on twenty images."""

import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image

import tasks.own  # noqa: F401
from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.batches.pipeline import evaluation_row
from ofa_jax.data.sources import locations
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.evaluation import scorers
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import EOS_ID, VocabLayout
from tests.shared import gpt2_dir, requires_gpt2

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_data.md").read_text()
COMMANDS = re.findall(r"^python -m ofa_jax\..+$", PAGE, re.MULTILINE)
COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "photos").mkdir()
    lines = ["image,question,answer"]
    for number in range(20):
        colour = COLOURS[number % 4]
        Image.new("RGB", (48, 40), colour).save(tmp_path / "photos" / f"img{number:02}.jpg")
        lines.append(f"img{number:02}.jpg,what colour is the box?,{colour}")
    (tmp_path / "photos" / "photos.csv").write_text("\n".join(lines))
    (tmp_path / "gin_configs").symlink_to(ROOT / "gin_configs")
    return tmp_path


def typed(command, directory, **variables):
    """Types a command in a shell; returns what it printed."""
    script = f'python() {{ "{sys.executable}" "$@"; }}; {command}'
    path = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={**path, "JAX_PLATFORMS": "cpu", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_page_has_five_commands_and_the_data_part_works(directory, monkeypatch):
    assert [re.match(r"python -m ofa_jax\.(\w+)", one)[1] for one in COMMANDS] == [
        "inspect",
        "prepare",
        "train",
        "eval",
        "infer",
    ]
    monkeypatch.chdir(directory)
    assert run_prepare([*COMMANDS[1].split()[3:], "--processes=1"]) == 0
    monkeypatch.setenv("OFA_DATA_DIR", "data/photos")
    assert locations.resolve("{DATA_DIR}") == "data/photos"
    source = PreparedSource("{DATA_DIR}", ("qa",))
    records = {split: source.open(split) for split in ("train", "validation")}
    assert {split: len(found) for split, found in records.items()} == {"train": 16, "validation": 4}
    assert records["validation"][0]["answers"] == ["red"]


def test_one_directory_serves_all_three_tasks(tmp_path, monkeypatch):
    """Two images with everything: each task takes its part, for training and for evaluation."""
    lines = ["image,caption,phrase,box,question,answer"]
    for name in ("a", "b"):
        Image.new("RGB", (64, 32), "red").save(tmp_path / f"{name}.png")
        lines.append(f'{name}.png,a red wall,the left half,"0,0,32,32",what colour?,red')
    (tmp_path / "all.csv").write_text("\n".join(lines))
    options = ["--split=train", f"--out={tmp_path / 'data'}", "--processes=1"]
    assert run_prepare(["--source=table", f"--paths={tmp_path / 'all.csv'}", *options]) == 0
    texts = ["what does the image describe? which region does the text", "what colour? red wall"]
    text = TrainedBPE.train(texts, num_merges=40)
    layout = VocabLayout(num_text=text.num_text, num_codes=16, num_bins=32, max_image_size=32)
    tokenizer = Tokenizer(text, layout)
    tokenizer.save(tmp_path / "vocabulary")
    monkeypatch.setenv("OFA_VOCAB_DIR", str(tmp_path / "vocabulary"))
    monkeypatch.setenv("OFA_DATA_DIR", str(tmp_path / "data"))
    lengths = {"inputs": 64, "targets": 64, "image": 32}
    bins = [layout.bin_start + place for place in (0, 0, 16, 31)]
    expected = {
        "own_captioning": ("what does the image describe?", tokenizer.encode(" a red wall")),
        "own_grounding": (
            'which region does the text " the left half " describe?',
            # The whole image is the model's square, so half of its width is half of the bins.
            bins,
        ),
        "own_vqa": ("what colour?", tokenizer.encode(" red")),
    }
    for name, (asked, answer) in expected.items():
        [(task, _)] = lookup(name)
        records = task.source.open("train")
        assert len(records) == 2
        features = task.read(records, 0, lengths, seed=0)
        assert tokenizer.decode(features["inputs"]).split() == asked.split()
        targets = features["targets"].tolist()
        assert targets[targets.index(answer[0]) :] == [*answer, EOS_ID]
        example, row = evaluation_row(task, records, 1, lengths, seed=0)
        assert scorers.has_truth(task, example)
        assert row["encoder_image_masks"]


@requires_gpt2
@pytest.mark.slow
def test_the_commands_of_the_page(directory):
    """With the smallest model, from weights that were trained for one step, on small images."""
    lengths = '--gin.TASK_FEATURE_LENGTHS={"inputs":64,"targets":96,"image":32}'
    more = f"--gin.TRAIN_STEPS=2 --gin.EVAL_PERIOD=2 {lengths}"
    typed(COMMANDS[1], directory)
    vocabulary = gpt2_dir()
    start = COMMANDS[2].replace("runs/own_vqa'", "runs/start'").replace("'$CHECKPOINT'", "None")
    start += f" --gin.VOCAB_DIR=\"'{vocabulary}'\""
    typed(start, directory, SIZE="nano", MORE=more)
    variables = {"SIZE": "nano", "CHECKPOINT": "runs/start", "MORE": more}
    shown = [typed(command, directory, **variables) for command in COMMANDS]
    assert "fine-tuning own_vqa" in shown[0]
    assert (directory / "runs" / "own_vqa" / "evaluation" / "metrics.json").is_file()
    assert (directory / "runs" / "own_vqa" / "report.html").is_file()
    rows = directory / "runs" / "own_vqa" / "evaluation" / "predictions" / "vqa.jsonl"
    assert len(rows.read_text().splitlines()) == 4
    assert shown[-1].strip()
