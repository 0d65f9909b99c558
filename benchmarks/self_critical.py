"""Do captions get better when CIDEr-D rewards them? On the embedded scenes.

    python benchmarks/self_critical.py [--seeds 3] [--steps 200 300] [--output runs/self_critical]

From the quickstart's checkpoint, captioning alone is trained with cross entropy (first stage). From
there it goes on in two ways: with cross entropy, and self-critically, over equally many steps of
equally many images. The table has CIDEr-D against the true captions of held-out scenes, as the
rewards have it (with an end mark, SPEC 5.5.2) and without, and the share of captions that the truth
checker accepts: means over the seeds with their range. `make quickstart` comes first.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

from ofa_jax.metrics.caption import cider_d
from ofa_jax.report.tables import Cell, Table
from ofa_jax.runs.objective import reward_text

FIRST = "gin_configs/runs/scenes_captioning.gin"
SELF_CRITICAL = "gin_configs/runs/scenes_captioning_scst.gin"
# Row of the table to (run file, the row that it starts from or None for the given checkpoint).
ROWS = {
    "cross entropy": (FIRST, None),
    "more cross entropy": (FIRST, "cross entropy"),
    "self-critical": (SELF_CRITICAL, "cross entropy"),
}
METRICS = ("cider_d_with_end", "cider_d", "true")


def run_directory(row: str, seed: int, arguments: argparse.Namespace) -> pathlib.Path:
    """Where the run of a row with a seed lies."""
    return pathlib.Path(arguments.output) / f"{row.replace(' ', '_')}_{seed}"


def train(row: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """One run, or what is left of it; gives its scores."""
    run_file, start = ROWS[row]
    directory = run_directory(row, seed, arguments)
    first, second = arguments.steps
    settings = {
        "MODEL_DIR": directory,
        "INITIAL_CHECKPOINT_PATH": (
            run_directory(start, seed, arguments) if start else arguments.checkpoint
        ),
    }
    numbers = {
        # A second stage of cross entropy must not read the images of the first in its order.
        "RANDOM_SEED": seed if start is None else 1000 + seed,
        "TRAIN_STEPS": second if start else first,
        # The second stage begins where the schedule of the first ended: low, without warm-up.
        **({"LEARNING_RATE": arguments.second_rate, "WARMUP_STEPS": 0} if start else {}),
        "evaluation.EvaluationConfig.final_num_examples": arguments.examples,
    }
    command = [sys.executable, "-m", "ofa_jax.train", f"--gin_file={run_file}"]
    command += [f'--gin.{name}="{value}"' for name, value in settings.items()]
    command += [f"--gin.{name}={value}" for name, value in numbers.items()]
    subprocess.run(command, check=True)
    metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
    [scores] = metrics["tasks"].values()
    return {**scores, "cider_d_with_end": with_end_mark(directory)}


def with_end_mark(directory: pathlib.Path) -> float:
    """CIDEr-D of a run's predictions with the end as a word, which the rewards count too.

    Many captions of scenes have three words. Without an end mark they have no 4-gram, and lose a
    quarter of the score that the reward gives them.
    """
    lines = (
        (directory / "predictions" / "captioning.jsonl").read_text(encoding="utf-8").splitlines()
    )
    rows = [json.loads(line) for line in lines]
    hypotheses = [reward_text(row["prediction_text"]) for row in rows]
    references = [[reward_text(text) for text in row["references"]] for row in rows]
    return float(cider_d(hypotheses, references).mean())


def table(results: dict[str, list[dict[str, float]]], start: dict[str, float] | None) -> Table:
    """Means over the seeds, with the range."""
    rows = []
    if start:
        rows.append((Cell("start"), *(_cell([start[name]], 3) for name in METRICS)))
    for row, found in results.items():
        cells = [_cell([scores[name] for scores in found], 3) for name in METRICS]
        rows.append((Cell(row), *cells))
    heads = ("Trained", "CIDEr-D with end mark", "CIDEr-D", "True captions")
    return Table(heads, tuple(rows))


def _cell(values: list[float], digits: int) -> Cell:
    mean = statistics.mean(values)
    spread = f"({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return Cell(f"{mean:.{digits}f}", mean, note=spread)


def main() -> None:
    """Trains what is not yet there and writes the table; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="runs/quickstart")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, nargs=2, default=(200, 300), metavar=("FIRST", "SECOND")
    )
    parser.add_argument("--second_rate", type=float, default=2e-4, help="of both second stages")
    parser.add_argument("--examples", type=int, default=1024, help="held-out scenes per score")
    parser.add_argument("--output", default="runs/self_critical")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for seed in range(arguments.seeds):
        for row in ROWS:
            results[row].append(train(row, seed, arguments))
    scored = pathlib.Path(arguments.checkpoint)
    start = None
    if (scored / "metrics.json").is_file():
        tasks = json.loads((scored / "metrics.json").read_text(encoding="utf-8"))["tasks"]
        if "captioning" in tasks:
            start = {**tasks["captioning"], "cider_d_with_end": with_end_mark(scored)}
    output = pathlib.Path(arguments.output)
    made = table(results, start)
    (output / "table.md").write_text(made.to_markdown(), encoding="utf-8")
    (output / "table.csv").write_text(made.to_csv(), encoding="utf-8")
    print(made.to_markdown())


if __name__ == "__main__":
    main()
