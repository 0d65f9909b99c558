"""Images per second of the input from a local disk and from a bucket, in turns in one run.

    python -m benchmarks.buckets [--rounds 5] [--batches 24] [--delay 0.03] [--workers 0]

The bucket is our own server of the storage protocol (tests/storage_server.py) in a process of its
own on this machine; it waits `--delay` seconds before each download, as a bucket does. Photographs
of 640 x 480 become examples of 384 x 384 as in `benchmarks/input.py`. A round reads the same
batches from the disk; from the server with one request at a time, with many, into an empty cache
("cold") and out of a full one ("warm"). Needs gcsfs. Run it from the root of the repository.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Generator
from typing import cast

import numpy as np

from benchmarks.input import (
    BATCH,
    LENGTHS,
    photographs,
    pretraining_tasks,
    processor_name,
    write_data,
)
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.sources import bucket_file
from ofa_jax.data.sources.array_record import PreparedSource
from tests.storage_server import StorageServer

ADDRESS = "gs://bucket/data"
CACHE_GB = 1.0


def serve(directory: str, delay: float, connection) -> None:
    """Serves the shards of a directory until the other end says stop."""
    with StorageServer("bucket") as server:
        for path in pathlib.Path(directory).glob("*.array_record"):
            server.storage.write("bucket", f"data/{path.name}", path.read_bytes(), {})
        server.fault = lambda name, start, stop: time.sleep(delay)
        connection.send(server.environment)
        connection.recv()


def use(cache: str, read_ahead: int) -> None:
    """Settings of the next pipeline and its workers."""
    bucket_file.configure(cache=cache, cache_gb=CACHE_GB, read_ahead=read_ahead)
    bucket_file._connection_of.cache_clear()


def rate(directory: str, batches: int, workers: int, threads: int) -> tuple[float, list]:
    """Images per second after the first batch, and the sums of the batches' images."""
    task = pretraining_tasks(pathlib.Path("unused"))["captioning"]
    task = dataclasses.replace(task, source=PreparedSource(directory))
    pipeline = MixturePipeline(
        (task,), (1.0,), LENGTHS, BATCH, num_workers=workers, num_threads=threads
    )
    iterator, sums = pipeline.iterate(), []
    start = time.perf_counter()
    for number in range(batches + 1):
        batch = next(iterator)
        sums.append(float(np.sum(batch["encoder_images"], dtype=np.float64)))
        if not number:
            start = time.perf_counter()
    seconds = time.perf_counter() - start
    cast(Generator, iterator).close()
    return batches * BATCH / seconds, sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=24, help="per measurement")
    parser.add_argument("--delay", type=float, default=0.03, help="seconds before each answer")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{processor_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        data = pathlib.Path(name) / "data"
        data.mkdir()
        # No record comes twice, nor is any read ahead twice: a cold cache has nothing of use.
        needed = BATCH * (arguments.batches + 8 * max(arguments.workers, 1))
        write_data(data, list(itertools.islice(itertools.cycle(photographs()), needed)))
        here, there = multiprocessing.get_context("spawn").Pipe()
        server = multiprocessing.get_context("spawn").Process(
            target=serve, args=(str(data), arguments.delay, there), daemon=True
        )
        server.start()
        os.environ.update(here.recv())
        for number in range(arguments.rounds):
            cache = f"{name}/cache{number}"
            settings = {
                "local disk": (str(data), "", 64),
                "bucket, one by one": (ADDRESS, "", 1),
                "bucket, read ahead": (ADDRESS, "", 64),
                "bucket, cold cache": (ADDRESS, cache, 64),
                "bucket, warm cache": (ADDRESS, cache, 64),
            }
            sums = set()
            for title, (directory, cache_directory, read_ahead) in settings.items():
                use(cache_directory, read_ahead)
                found, batches = rate(
                    directory, arguments.batches, arguments.workers, arguments.threads
                )
                rates.setdefault(title, []).append(found)
                sums.add(tuple(batches))
            assert len(sums) == 1, "the batches differ"
        here.send("stop")
        server.join()
    print(f"\n{'':22s}{'images/s':>10s}{'lowest':>8s}{'highest':>9s}{'of the disk':>13s}")
    for title, values in rates.items():
        ratios = [value / disk for value, disk in zip(values, rates["local disk"], strict=True)]
        print(
            f"{title:22s}{statistics.median(values):10.0f}{min(values):8.0f}{max(values):9.0f}"
            f"{statistics.median(ratios):13.0%}"
        )


if __name__ == "__main__":
    main()
