"""From settings to commands, and from finished runs to the table."""

import csv
import json
import pathlib
import shlex
import subprocess
import sys

import pytest

from ofa_jax.ablation import execution
from ofa_jax.ablation.results import write_results
from ofa_jax.ablation.runs import plan, shell_line
from ofa_jax.cli import ablation as command_line
from tests.ablation.faked import ablation, finish, finish_all

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "gin_configs" / "ablations"


def test_rows_and_runs(tmp_path):
    runs = plan(ablation(tmp_path, temperatures=(2,), rate_grid={"vqa": (1, 2), "detection": (0,)}))
    assert [run.row.name for run in runs[:6]] == [
        "full", "without text infilling", "without detection",
        "vqa 1, detection 0", "vqa 2, detection 0", "temperature 2",
    ]  # fmt: skip
    assert [run.seed for run in runs] == [0] * 6 + [1] * 6 + [2] * 6
    assert shlex.split(shell_line(runs[1]))[3:] == [
        "--gin_file=gin_configs/runs/quickstart.gin",
        "--gin.TRAIN_STEPS=30",
        "--gin.RANDOM_SEED=0",
        "--gin.inputs.DatasetConfig.rates={'text_infilling': 0}",
        f"--gin.MODEL_DIR='{tmp_path}/runs/without_text_infilling/seed_0'",
    ]
    # Nothing but the mixture differs between rows of one seed.
    assert set(runs[0].settings) == set(runs[5].settings) - {
        "--gin.inputs.DatasetConfig.temperature=2"
    }


def test_runs_of_t5x(tmp_path):
    """Rates by gin under t5x's name of them; a whole evaluation at the last step."""
    settings = ablation(tmp_path, gin_files=("gin_configs/t5x/quickstart.gin",))
    run = plan(settings, "t5x")[1]
    words = shlex.split(shell_line(run))
    assert words[1:3] == ["-m", "t5x.train"]
    assert "--gin.inputs.DatasetConfig.rates={'text_infilling': 0}" in words
    assert {"--gin.EVAL_PERIOD=30", "--gin.CHECKPOINT_PERIOD=30"} < set(words)
    assert run.results == run.directory / "inference_eval"
    launched = shlex.split(shell_line(run, ("python", "launch/local.py", "--dry_run")))
    done = subprocess.run(
        [sys.executable, *launched[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "-m t5x.train" in done.stdout
    run.results.mkdir(parents=True)
    facts = {"run": {"steps": 30, "seed": 0}, "tasks": {}}
    (run.results / "metrics.json").write_text(json.dumps(facts))
    assert run.state() == "finished"


def test_files_of_the_other_engine_are_refused(tmp_path, monkeypatch, capsys):
    settings = ablation(tmp_path)
    monkeypatch.setattr(command_line, "read_settings", lambda files, overrides: settings)
    assert command_line.run_ablate(["--gin_file=x.gin", "--engine=t5x"]) == 2
    line = capsys.readouterr().err
    assert (
        "the first gin file is gin_configs/t5x/train.gin, not gin_configs/runs/quickstart.gin"
        in line
    )


def test_launcher_gets_a_name_that_it_accepts(tmp_path):
    run = plan(ablation(tmp_path))[1]
    words = shlex.split(shell_line(run, ("python", "launch/slurm.py", "--dry_run")))
    assert words[3] == "--name=without-text-infilling-0"
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.arguments[-1] in shlex.split(
        done.stdout.split("-m ofa_jax.train")[1].split(" &\n")[0]
    )


def test_state(tmp_path):
    run = plan(ablation(tmp_path))[0]
    assert run.state() == "new"
    run.remember_settings()
    assert run.state() == "begun"
    finish(run)
    assert run.state() == "finished"
    (longer,) = [r for r in plan(ablation(tmp_path, steps=60)) if r.directory == run.directory][:1]
    with pytest.raises(ValueError, match=r"run of other settings \(now: --gin.TRAIN_STEPS=60\)"):
        longer.state()


def test_table_csv_and_chart(tmp_path):
    settings = ablation(tmp_path)
    path = write_results(settings, finish_all(settings))
    lines = path.read_text().splitlines()
    (head,) = [line for line in lines if line.startswith("| Mixture | Captioning, true |")]
    assert head == "| Mixture | Captioning, true | Detection, recall at 0.5 | VQA, accuracy |"
    rows = [line.split(" | ") for line in lines[lines.index(head) + 2 :][:3]]
    assert [row[0] for row in rows] == ["| full", "| without text infilling", "| without detection"]
    assert rows[2][1].startswith("**75.")
    assert "−11.9*" in rows[2][1]
    assert rows[2][2] == "–"
    assert "*" not in rows[1][1]
    assert "bootstrap" in path.read_text()
    with (tmp_path / "table.csv").open() as file:
        found = {(row["mixture"], row["task"]): row for row in csv.DictReader(file)}
    cell = found["without detection", "captioning"]
    assert cell["seeds"] == "3"
    assert float(cell["difference"]) == pytest.approx(-0.12, abs=0.01)
    assert float(cell["paired_p"]) < float(cell["adjusted_p"]) < 0.05
    assert float(cell["interval_low"]) < -0.05 < 0 >= float(cell["interval_high"])
    assert found["full", "vqa"]["difference"] == ""
    assert (tmp_path / "chart.png").stat().st_size > 10_000


def test_unfinished_rows_say_so(tmp_path):
    settings = ablation(tmp_path)
    assert write_results(settings, plan(settings)) is None
    for run in plan(settings)[:4]:
        finish(run)
    text = write_results(settings, plan(settings)).read_text()
    assert "| full (2 of 3 seeds) |" in text
    assert "| without detection (1 of 3 seeds) |" in text
    assert "±" in text


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch, capsys):
    """Half of the runs are there; the other half is trained, one of them after a stop."""
    settings = ablation(tmp_path)
    for run in plan(settings)[:5]:
        finish(run)
    trained = []

    def train(run):
        trained.append(run.directory)
        if len(trained) == 2:
            return 75
        finish(run)
        return 0

    monkeypatch.setattr(execution, "train", train)
    monkeypatch.setattr(command_line, "read_settings", lambda files, overrides: settings)
    assert command_line.run_ablate(["--gin_file=x.gin"]) == 75
    assert "5 of 9 runs are finished" in capsys.readouterr().out
    assert command_line.run_ablate(["--gin_file=x.gin", "--print_commands"]) == 0
    assert capsys.readouterr().out.count("ofa_jax.train") == 3
    assert command_line.run_ablate(["--gin_file=x.gin"]) == 0
    assert trained == [run.directory for run in (*plan(settings)[5:7], *plan(settings)[6:])]
    assert "9 of 9" not in capsys.readouterr().out
    assert command_line.run_ablate(["--gin_file=x.gin", "--table_only"]) == 0
    assert "9 of 9 runs are finished" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.gin")), ids=lambda path: path.stem)
def test_gin_files(path):
    settings = command_line.read_settings([str(path)], ["ablation.Ablation.seeds = (7,)"])
    assert settings.seeds == (7,)
    assert all((ROOT / file).is_file() for file in settings.gin_files)
    if path.stem == "tasks":
        assert [row.name for row in settings.all_rows()] == [
            "full", "without text infilling", "without image infilling", "without detection",
            "without grounding",
        ]  # fmt: skip
    if path.stem == "leave_one_out":
        assert len(settings.all_rows()) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gin_files": ()}, "gin_files: name the run file"),
        ({"gin_files": "a.gin"}, r"gin_files must be a list, such as \('a.gin',\)"),
        ({"steps": 0}, "steps must be a whole number of 1 or more, got 0"),
        ({"seeds": (0, 0)}, "each seed counts once"),
        ({"seeds": (-1,)}, "seeds must be whole numbers"),
        ({"leave_out": ()}, "nothing to compare with the full mixture"),
        ({"rate_grid": {"vqa": 1.0}}, "'vqa' needs rates of 0 or more such as"),
        ({"temperatures": (0,)}, "temperatures must be positive, got 0"),
        ({"rows": {"a": {"batch_size": 8}}}, "'a' may change rates, .* got batch_size"),
        ({"rows": {"full": {"temperature": 2}}}, "rows need different names: full"),
        (
            {"bindings": {"RANDOM_SEED": "1"}},
            "bindings: RANDOM_SEED is set by directory, seeds, steps",
        ),
        ({"significance": 5}, r"significance must be in \(0, 1\), got 5"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        ablation(tmp_path, **changes)


def test_mistakes_in_gin_are_one_line(capsys):
    tasks = str(CONFIGS / "tasks.gin")
    assert (
        command_line.run_ablate([f"--gin_file={tasks}", "--gin.ablation.Ablation.seed=(1,)"]) == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Did you mean seeds" in error


@pytest.mark.slow
def test_a_real_ablation_of_two_rows(tmp_path):
    small = {
        "EVAL_PERIOD": "0", "WARMUP_STEPS": "1", "BATCH_SIZE": "8",
        "models.OFA.encoder_layers": "1", "models.OFA.decoder_layers": "1",
        "models.OFA.width": "32", "models.OFA.ffn_dim": "64",
        "evaluation.EvaluationConfig.final_num_examples": "4",
        "evaluation.EvaluationConfig.batch_size": "4",
        "evaluation.EvaluationConfig.unseen_tasks": "()",
        "evaluation.EvaluationConfig.extra_splits": "{}",
        "evaluation.EvaluationConfig.bounds": "{}",
        "log.LogConfig.tensorboard": "False",
    }  # fmt: skip
    arguments = [
        sys.executable, "-m", "ofa_jax.ablate", f"--gin_file={CONFIGS / 'tasks.gin'}",
        "--gin.ablation.Ablation.leave_out=('detection',)",
        "--gin.ablation.Ablation.seeds=(0,)",
        "--gin.ablation.Ablation.steps=3",
        f"--gin.ablation.Ablation.bindings={small!r}",
        f"--gin.ablation.Ablation.directory='{tmp_path}'",
    ]  # fmt: skip
    for attempt in range(2):
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        assert ("2 of 2 runs are finished" in done.stdout) == bool(attempt)
        assert "| without detection |" in done.stdout
    left_out = json.loads((tmp_path / "runs/without_detection/seed_0/metrics.json").read_text())
    full = json.loads((tmp_path / "runs/full/seed_0/metrics.json").read_text())
    assert set(full["tasks"]) - set(left_out["tasks"]) == {"detection"}
