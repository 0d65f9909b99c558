"""Does training a small part reach what training everything reaches? On the embedded scenes.

    python benchmarks/tuning.py [--seeds 3] [--steps 300] [--output runs/tuning]

From the quickstart's checkpoint, grounding is trained on drawing styles that it never saw, in full
and by each method of parameter-efficient tuning; the table has the accuracy on held-out scenes in
these styles, its share of that of full fine-tuning, and the share of the parameters that was
trained, as means over the seeds. The first row is the quickstart's model as it is. The aim: at
least 90 percent of the accuracy with under 5 percent of the parameters. `make quickstart` comes
first; on two cores a run of 300 steps takes two minutes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import safetensors

from ofa_jax.report.tables import Cell, Table

RUN = "gin_configs/runs/scenes_grounding.gin"
# Method to its further settings. The sizes of the official recipes belong to wider models.
METHODS: dict[str, list[str]] = {
    "full": [],
    "lora": ["LEARNING_RATE=3e-3"],
    "prefix": [
        "LEARNING_RATE=1e-2",
        "models.Tuning.encoder_prefix=20",
        "models.Tuning.decoder_prefix=20",
    ],
    "adapter": ["LEARNING_RATE=3e-3", "models.Tuning.adapter_dim=16"],
    "bitfit": ["LEARNING_RATE=3e-3"],
}
METRIC = "accuracy_at_0.5"


def train(method: str, seed: int, directory: pathlib.Path, arguments: argparse.Namespace) -> None:
    """One run; a run that is finished stays as it is."""
    command = [sys.executable, "-m", "ofa_jax.train", f"--gin_file={RUN}"]
    if method != "full":
        command.append(f"--gin_file=gin_configs/runs/finetune/tuning_{method}.gin")
    settings = [
        *METHODS[method],
        f'MODEL_DIR="{directory}"',
        f'INITIAL_CHECKPOINT_PATH="{arguments.checkpoint}"',
        f"RANDOM_SEED={seed}",
        f"TRAIN_STEPS={arguments.steps}",
        f"evaluation.EvaluationConfig.final_num_examples={arguments.examples}",
    ]
    subprocess.run([*command, *(f"--gin.{setting}" for setting in settings)], check=True)


def result(method: str, directory: pathlib.Path) -> tuple[float, float]:
    """Accuracy of a run and the share of its parameters that was trained."""
    metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
    [scores] = metrics["tasks"].values()
    whole = metrics["run"]["num_parameters"]
    trained = whole
    if method != "full":
        with safetensors.safe_open(directory / "tuned.safetensors", "numpy") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        trained = 0
        for shape in shapes:
            size = 1
            for length in shape:
                size *= length
            trained += size
    return scores[METRIC], trained / whole


def table(results: dict[str, list[tuple[float, float]]], start: float | None) -> Table:
    """The table of all methods; differences between seeds are shown as the range."""
    full = statistics.mean(score for score, _ in results["full"])
    rows = []
    if start is not None:
        rows.append((Cell("start"), _percent(start), _percent(start / full), _percent(0.0)))
    for method, found in results.items():
        scores = [score for score, _ in found]
        mean = statistics.mean(scores)
        spread = f"({100 * min(scores):.1f} to {100 * max(scores):.1f})" if len(found) > 1 else ""
        cell = Cell(f"{100 * mean:.1f}%", mean, note=spread)
        rows.append((Cell(method), cell, _percent(mean / full), _percent(found[0][1])))
    heads = ("Trained", "Acc@0.5", "Of full fine-tuning", "Parameters trained")
    return Table(heads, tuple(rows))


def _percent(share: float) -> Cell:
    return Cell(f"{100 * share:.1f}%", share)


def main() -> None:
    """Trains what is not yet there and writes the table; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="runs/quickstart")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--examples", type=int, default=512, help="held-out scenes per score")
    parser.add_argument("--output", default="runs/tuning")
    arguments = parser.parse_args()
    if "full" not in arguments.methods:
        parser.error("--methods needs 'full', which the others are compared with")
    output = pathlib.Path(arguments.output)
    results: dict[str, list[tuple[float, float]]] = {}
    for method in arguments.methods:
        results[method] = []
        for seed in range(arguments.seeds):
            directory = output / f"{method}_{seed}"
            train(method, seed, directory, arguments)
            results[method].append(result(method, directory))
    scored = pathlib.Path(arguments.checkpoint) / "metrics.json"
    start = None
    if scored.is_file():
        splits = json.loads(scored.read_text(encoding="utf-8")).get("splits", {})
        start = splits.get("unseen_style", {}).get("visual_grounding", {}).get(METRIC)
    made = table(results, start)
    (output / "table.md").write_text(made.to_markdown(), encoding="utf-8")
    (output / "table.csv").write_text(made.to_csv(), encoding="utf-8")
    print(made.to_markdown())


if __name__ == "__main__":
    main()
