"""Speed of the input on one core and on two, beside Pillow alone.

    python benchmarks/input.py [--rounds 15] [--images 64] [--workers 3] [--profile]

Photographs of 640 x 480 (JPEG, quality 90) become examples of 384 x 384 with the whole preparation
of pretraining: shard, decoding, random size, crop, RandomAugment, text, padding, batch. Beside it,
in the same run and in turns, Pillow decodes the same files and resizes them to 384 x 384, which is
less work: no random size, no augmentation, no text. Figures are of processor time, so that other
work on the machine hardly changes them; medians over the rounds. `--workers 3` also measures one
and two worker processes, in three rounds; `--rounds 0` leaves out the rest.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import io
import itertools
import json
import os
import pathlib
import platform
import pstats
import statistics
import tempfile
import time

import grain
import numpy as np
import PIL
from PIL import Image, features

from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.sources import locations
from ofa_jax.data.sources.array_record import PreparedSource, shard_name, write_shard
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout

SIZE, WIDTH, HEIGHT = 384, 640, 480
LENGTHS = {"inputs": 120, "targets": 257, "image": SIZE}
BATCH = 16
RECORDS = 64
CAPTIONS = (
    "a chinese temple with golden dragons on its roof under a blue sky",
    "a pink flower in front of dark green leaves in a garden",
    "two people are walking up the stairs of an old building",
    "the sun shines on the petals of a large flower",
)


@functools.cache
def tokenizer() -> Tokenizer:
    """A small tokenizer of the captions; the official one needs its files."""
    text = TrainedBPE.train([f" {caption}" for caption in CAPTIONS], num_merges=200)
    return Tokenizer(text, VocabLayout(num_text=text.num_text))


def photographs() -> list[bytes]:
    """Windows of the two photographs that scikit-image ships, as JPEG files."""
    import skimage.data

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(pixels) for pixels in skimage.data.stereo_motorcycle()[:2]]
    files = []
    for number in range(RECORDS):
        picture = pictures[number % 2]
        share = rng.uniform(0.7, 1.0)
        w, h = share * picture.width, share * picture.width * HEIGHT / WIDTH
        h, w = min(h, picture.height), min(h, picture.height) * WIDTH / HEIGHT
        left, top = rng.uniform(0, picture.width - w), rng.uniform(0, picture.height - h)
        window = picture.resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + w, top + h)
        )
        buffer = io.BytesIO()
        window.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def write_data(directory: pathlib.Path, files: list[bytes]) -> None:
    """A prepared data set that every task of pretraining can read, and its negative samples."""
    box = np.array([[100, 80, 420, 400], [20, 20, 200, 300]], np.float32)
    examples = [
        {
            "image": data,
            "image_id": str(number),
            "captions": list(CAPTIONS),
            "question": "what is in front of the leaves ?",
            "answers": ["flower", "temple"],
            "answer_conf": [1.0, 0.3],
            "boxes": box,
            "labels": ["flower", "leaf"],
            "refexps": ["the large flower in front"],
            "refexp_box_index": [0],
            "text": " ".join(CAPTIONS),
        }
        for number, data in enumerate(files)
    ]
    write_shard(directory / shard_name("train", 0, 1), examples)
    negatives = directory / "negative_sample"
    negatives.mkdir()
    (negatives / "all_captions.txt").write_text("\n".join(CAPTIONS))
    (negatives / "object.txt").write_text("flower\ntemple\nleaf")
    (negatives / "type2ans.json").write_text(json.dumps({"other": ["dog", "cat", "car"]}))
    locations.assign("DATA_DIR", str(directory))


def pretraining_tasks(directory: pathlib.Path) -> dict[str, OFATask]:
    """The tasks of pretraining by kind, prepared exactly as `tasks.families` declares."""
    from tasks.families import FAMILIES

    return {
        name: OFATask(
            name=name,
            family=kind.family,
            instructions=(Instruction.parse(kind.instruction),),
            source=PreparedSource(str(directory)),
            tokenizer=tokenizer,
            prepare=kind.prepare,
            loss_weight=kind.loss_weight,
        )
        for name, kind in FAMILIES.items()
        if name != "image_infilling"  # needs image codes, and has no augmentation
    }


def bare(data: bytes) -> np.ndarray:
    """What any loader must do at least: decode and resize, with Pillow."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def processor_seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def per_core(
    pipelines: dict[str, MixturePipeline], files: list[bytes], rounds: int, images: int
) -> None:
    """Images per second of one core, each pipeline in turns with Pillow alone."""
    batches = max(images // BATCH, 1)
    steps = {name: itertools.count() for name in pipelines}

    def read(name: str) -> None:
        for _ in range(batches):
            pipelines[name].batch(next(steps[name]))

    def resize() -> None:
        for number in range(batches * BATCH):
            bare(files[number % len(files)])

    for name in pipelines:
        read(name)
    resize()
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    ratios: dict[str, list[float]] = {name: [] for name in pipelines}
    alone = []
    for _ in range(rounds):
        for name in pipelines:
            before = processor_seconds(resize)
            seconds[name].append(processor_seconds(lambda name=name: read(name)))
            beside = (before + processor_seconds(resize)) / 2
            alone.append(beside)
            ratios[name].append(beside / seconds[name][-1])
    count = batches * BATCH
    print(f"\n{'':34s}{'images/s/core':>14s}{'of Pillow':>11s}{'lowest':>8s}{'highest':>9s}")
    print(f"{'Pillow: decode, resize to 384':34s}{count / statistics.median(alone):14.0f}")
    for name in pipelines:
        rate, shares = count / statistics.median(seconds[name]), ratios[name]
        print(
            f"{name:34s}{rate:14.0f}{statistics.median(shares):11.0%}"
            f"{min(shares):8.0%}{max(shares):9.0%}"
        )


def worker_seconds() -> float:
    """Processor time of all processes below this one, running ones only (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents, used = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        process = int(path.parent.name)
        parents[process], used[process] = int(fields[1]), int(fields[11]) + int(fields[12])
    below, found = {os.getpid()}, -1
    while len(below) != found:
        found = len(below)
        below |= {process for process, parent in parents.items() if parent in below}
    return sum(used[process] for process in below - {os.getpid()}) / ticks


def with_workers(pipeline_of, rounds: int, batches: int) -> None:
    """One and two worker processes: images per second by the clock, and processor time.

    On a machine with other work the clock says little. Processor time says what two free cores
    would give: workers share nothing, so the rate is that of the workers together until the process
    that takes the batches is busy all the time.
    """
    clock: dict[int, list[float]] = {1: [], 2: []}
    in_workers: dict[int, list[float]] = {1: [], 2: []}
    here: dict[int, list[float]] = {1: [], 2: []}
    count = batches * BATCH
    for _ in range(rounds):
        for workers in clock:
            iterator = pipeline_of(workers).iterate()
            # What was read ahead while the workers started is not counted.
            for _ in range(8 * workers):
                next(iterator)
            start, own, theirs = time.perf_counter(), time.process_time(), worker_seconds()
            for _ in range(batches):
                next(iterator)
            clock[workers].append(count / (time.perf_counter() - start))
            here[workers].append((time.process_time() - own) / count)
            in_workers[workers].append((worker_seconds() - theirs) / count)
            iterator.close()
    print(
        f"\n{'':12s}{'images/s':>10s}{'ms in workers':>15s}{'ms here':>9s}{'two free cores':>16s}"
    )
    possible = {}
    for workers in clock:
        each, own = statistics.median(in_workers[workers]), statistics.median(here[workers])
        possible[workers] = min(workers / each, 1 / own)
        print(
            f"{workers} worker(s){statistics.median(clock[workers]):11.0f}{1e3 * each:15.2f}"
            f"{1e3 * own:9.2f}{possible[workers]:16.0f}"
        )
    ratios = [two / one for one, two in zip(clock[1], clock[2], strict=True)]
    print(
        f"two workers over one: {statistics.median(ratios):.2f} by the clock "
        f"({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{possible[2] / possible[1]:.2f} by processor time"
    )


def processor_name() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=64, help="per measurement")
    parser.add_argument("--workers", type=int, default=0, help="rounds with worker processes")
    parser.add_argument("--profile", action="store_true", help="where the time goes, then stop")
    arguments = parser.parse_args()
    print(f"{processor_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, Pillow {PIL.__version__} "
        f"(JPEG {features.version('jpg')}), grain {grain.__version__}"
    )
    files = photographs()
    print(f"{len(files)} files of {np.mean([len(data) for data in files]) / 1e3:.0f} kB")
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        write_data(directory, files)
        tasks = pretraining_tasks(directory)

        def pipeline(*names: str, workers: int = 0, rates=None, **options) -> MixturePipeline:
            return MixturePipeline(
                tasks=tuple(tasks[one] for one in names),
                rates=rates or (1.0,) * len(names),
                lengths=LENGTHS,
                batch_size=BATCH,
                num_workers=workers,
                **options,
            )

        captioning = pipeline("captioning")
        if arguments.profile:
            with cProfile.Profile() as profile:
                for step in range(max(arguments.images // BATCH, 1)):
                    captioning.batch(step)
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            return
        # The ratios of the official data (SPEC 4.2), without image infilling.
        mixture = {
            "visual_grounding": 1.2,
            "grounded_captioning": 1.2,
            "vqa": 1.1,
            "answer_matching": 1.1,
            "image_text_matching": 5.7,
            "captioning": 5.7,
            "detection": 1.0,
            "text_infilling": 2.0,
        }
        smaller = {"detection": {"image": 256}, "text_infilling": {"image": 0}}
        if arguments.rounds:
            per_core(
                {
                    "captioning (RandomAugment)": captioning,
                    "visual grounding (crop)": pipeline("visual_grounding"),
                    "detection (jitter)": pipeline("detection"),
                    "mixture of pretraining": pipeline(*mixture, rates=tuple(mixture.values())),
                    "the same in three buckets": pipeline(
                        *mixture, rates=tuple(mixture.values()), buckets=smaller
                    ),
                },
                files,
                arguments.rounds,
                arguments.images,
            )
        if arguments.workers:
            with_workers(
                lambda workers: pipeline("captioning", workers=workers),
                arguments.workers,
                batches=24,
            )


if __name__ == "__main__":
    main()
