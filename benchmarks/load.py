"""Memory of `infer` and `eval` over thousands of images, and what ten kills leave of them.

    python -m benchmarks.load [--images 2000] [--examples 5000] [--kills 10] [--seed 0]

Makes JPEG files with a rectangle each, a vocabulary, prepared shards, and the smallest model after
one step of training. Then each command runs once, while the memory of its processes is sampled, and
once more where it is killed (SIGKILL) at moments drawn from the seed and started again until it is
done. Both must leave the same files. Run it from the root of the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout

SIDE = 32
LENGTHS = f"--gin.TASK_FEATURE_LENGTHS={{'inputs': 32, 'targets': 8, 'image': {SIDE}}}"
MARKS = (500, 1000, 2000, 5000)
_PERIOD = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200)}


def write_images(directory: pathlib.Path, count: int) -> None:
    """JPEG files of 96 x 72 with one rectangle each, and a table of phrases and boxes."""
    dice, lines = np.random.default_rng(0), ["image,phrase,box"]
    directory.mkdir()
    for number in range(count):
        pixels = dice.integers(180, 230, (72, 96, 3), np.uint8)
        x, y = int(dice.integers(0, 60)), int(dice.integers(0, 40))
        name = list(COLOURS)[number % 3]
        pixels[y : y + 30, x : x + 30] = COLOURS[name]
        Image.fromarray(pixels).save(directory / f"{number:05}.jpg")
        lines.append(f'{number:05}.jpg,the {name} box,"{x},{y},{x + 30},{y + 30}"')
    (directory / "table.csv").write_text("\n".join(lines))


def write_vocabulary(directory: pathlib.Path) -> None:
    """The instructions' words."""
    words = 'which region does the text " the red green blue box " describe? what image'
    text = TrainedBPE.train([f" {words}"] * 2, num_merges=100)
    layout = VocabLayout(num_text=text.num_text, num_codes=16, num_bins=32, max_image_size=SIDE)
    Tokenizer(text, layout).save(directory)


def command(verb: str, *options: object) -> list[str]:
    """A command of the library."""
    return [sys.executable, "-m", f"ofa_jax.{verb}", *map(str, options)]


def prepare(directory: pathlib.Path, images: int, examples: int) -> None:
    """Everything that the two commands read: images, shards, a checkpoint."""
    write_images(directory / "few", images)
    write_images(directory / "many", examples)
    write_vocabulary(directory / "vocabulary")
    table = directory / "many" / "table.csv"
    commands = [
        command(
            *("prepare", "--source=table", f"--paths={table}", f"--out={directory / 'data'}"),
            *("--split=validation", "--processes=1"),
        ),
        command(
            *("prepare", "--source=table", f"--paths={directory / 'few' / 'table.csv'}"),
            *(f"--out={directory / 'data'}", "--split=train", "--processes=1"),
        ),
        command(
            *("train", "--gin_file=gin_configs/models/nano.gin"),
            "--gin_file=gin_configs/runs/finetune/own_grounding.gin",
            *(f"--gin.MODEL_DIR='{directory / 'run'}'", f"--gin.DATA_DIR='{directory / 'data'}'"),
            *(f"--gin.VOCAB_DIR='{directory / 'vocabulary'}'", "--gin.TRAIN_STEPS=1", LENGTHS),
            *("--gin.EVAL_PERIOD=0", "--gin.checkpoints.CheckpointConfig.best_metric=''"),
            "--gin.evaluation.EvaluationConfig.final_num_examples=8",
        ),
    ]
    for one in commands:
        done = subprocess.run(one, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(one)}\n{done.stderr[-3000:]}")


def memory(process: int) -> float:
    """MiB that a process and its children hold, shared pages counted in each."""
    total, waiting = 0, [process]
    while waiting:
        one = waiting.pop()
        try:
            total += int(pathlib.Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE
            for task in pathlib.Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):  # It has just ended.
            continue
    return total / (1 << 20)


class Lines:
    """Counts the lines of a file that grows."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path, self._read, self.count = path, 0, 0

    def look(self) -> int:
        """How many there are now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
            self._read, self.count = self._read + len(content), self.count + content.count(b"\n")
        return self.count


def run(
    arguments: list[str],
    lines: pathlib.Path,
    log: pathlib.Path,
    life: float | None = None,
    *,
    from_start: bool = True,
) -> tuple[int, list[tuple[float, int, float]]]:
    """Runs a command, and kills it `life` seconds after its start, at the latest with its first
    new line; or so many seconds behind that line.

    Returns:
      Its status, and samples (seconds, answered lines, MiB).
    """
    samples, counter, began = [], Lines(lines), time.monotonic()
    old, since = counter.look(), began if from_start else None
    with log.open("a") as output, subprocess.Popen(arguments, stdout=output, stderr=output) as one:
        while one.poll() is None:
            now = time.monotonic()
            if counter.look() > old and (from_start or since is None):
                since = -math.inf if from_start and life is not None else now
            if life is not None and since is not None and now - since > life:
                one.kill()
                break
            samples.append((now - began, counter.look(), memory(one.pid)))
            time.sleep(_PERIOD)
    return one.returncode, samples


def content(directory: pathlib.Path) -> dict[str, str]:
    """Digests of what a command leaves, without times."""
    found = {}
    for path in sorted(directory.rglob("*")):
        kept = path.relative_to(directory).parts[0] in ("predictions", "examples", "submissions")
        if path.is_file() and kept:
            found[str(path.relative_to(directory))] = hashlib.sha256(path.read_bytes()).hexdigest()
    metrics = json.loads((directory / "metrics.json").read_text())
    found["metrics"] = json.dumps({name: metrics[name] for name in ("tasks", "splits")})
    return found


def measure(name: str, verb: str, options: list[str], rest: argparse.Namespace) -> float:
    """One command without kills, and one with; returns by how many MiB the first grew.

    From a quarter of its lines to the last one.
    """
    directory = rest.directory
    whole, killed = directory / f"{name}_whole", directory / f"{name}_killed"
    log = directory / f"{name}.log"
    for old in (whole, killed):
        shutil.rmtree(old, ignore_errors=True)
    names = {"infer": "predictions/answers.jsonl"}
    lines = names.get(verb, "work/visual_grounding.00000-of-00001.jsonl")
    arguments = command(verb, *options, f"--output={whole}")
    status, samples = run(arguments, whole / lines, log)
    if status:
        raise SystemExit(f"{name}: status {status}\n{log.read_text()[-3000:]}")
    first = next(seconds for seconds, count, _ in samples if count)
    last = next(seconds for seconds, count, _ in samples if count == samples[-1][1])
    shown = [
        f"{mark}: {next(size for _, count, size in samples if count >= mark):.0f}"
        for mark in MARKS
        if mark <= samples[-1][1]
    ]
    end = max(size for seconds, _, size in samples if seconds >= last)
    print(
        f"{name}: {samples[-1][1]} lines, first after {first:.1f} s, last after {last:.1f} s, done "
        f"after {samples[-1][0]:.1f} s; MiB at {', '.join(shown)}; highest {end:.0f} behind the "
        "last line",
        flush=True,
    )
    sizes = [
        next(size for _, count, size in samples if count >= part * samples[-1][1])
        for part in (0.25, 1)
    ]
    growth = sizes[1] - sizes[0]
    if not rest.kills:
        return growth
    dice, moments = random.Random(rest.seed), []
    arguments[-1] = f"--output={killed}"
    for _ in range(rest.kills):
        # A third dies before it has answered anything anew.
        early = dice.random() < 1 / 3
        life = dice.uniform(0, first if early else (last - first) / (2 * rest.kills))
        status, _ = run(arguments, killed / lines, log, life, from_start=early)
        if status != -9:
            raise SystemExit(f"{name}: status {status} before kill {len(moments) + 1}")
        moments.append(Lines(killed / lines).look())
    status, _ = run(arguments, killed / lines, log)
    if status:
        raise SystemExit(f"{name}: status {status} behind the kills\n{log.read_text()[-3000:]}")
    one, other = content(whole), content(killed)
    different = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    print(f"{name}: {rest.kills} kills at {moments} lines; different: {different or 'nothing'}")
    if different:
        raise SystemExit(1)
    return growth


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Runs the command line; returns the growth of each command, see `measure`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=pathlib.Path, help="kept; default a temporary one")
    parser.add_argument("--only", choices=("infer", "eval"))
    options, growth = parser.parse_args(arguments), []
    with tempfile.TemporaryDirectory() as temporary:
        options.directory = options.directory or pathlib.Path(temporary)
        options.directory.mkdir(exist_ok=True)
        print(f"load {os.getloadavg()[0]:.1f}", flush=True)
        if not (options.directory / "run").exists():
            prepare(options.directory, options.images, options.examples)
        run_dir, data = options.directory / "run", options.directory / "data"
        asked = [f"--checkpoint={run_dir}", f"--image={options.directory / 'few'}"]
        # Eight tokens each, whatever a model of one step says.
        asked.append("--gin.DECODING={'beam': 2, 'max_len_b': 8}")
        if options.only != "eval":
            growth.append(measure("infer", "infer", asked, options))
        scored = [f"--checkpoint={run_dir}", "--task=own_grounding", "--module=tasks.own"]
        scored += [f"--data={data}", f"--vocabulary={options.directory / 'vocabulary'}", LENGTHS]
        if options.only != "infer":
            growth.append(measure("eval", "eval", scored, options))
    return growth


if __name__ == "__main__":
    main()
