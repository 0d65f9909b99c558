"""The demo under load: many clients at once, none lost, how long they wait, and its memory.

    python -m benchmarks.demo [--checkpoint runs/quickstart] [--requests 200] [--clients 16]

Starts `python -m ofa_jax.demo` on a free port of this machine, asks every client's questions over
HTTP, a different task with each, and samples the memory of the server. Before the clock starts each
batch size is compiled. Run it from the root of the repository.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import httpx
from PIL import Image

from ofa_jax.scenes.source import ScenesSource

_PAGE = os.sysconf("SC_PAGE_SIZE")
_QUESTIONS: Sequence[tuple[str, str]] = (
    ("captioning", ""),
    ("vqa", "question"),
    ("visual_grounding", "caption"),
    ("grounded_captioning", "region"),
)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def question(number: int, source: ScenesSource) -> tuple[dict[str, str], bytes]:
    """The form and the image of one question, about a scene of its own."""
    example = source[number % len(source)]
    buffer = io.BytesIO()
    Image.fromarray(example["image"]).save(buffer, "PNG")
    task, field = _QUESTIONS[number % len(_QUESTIONS)]
    values = {
        "question": example["question"],
        "caption": (example["refexps"] or example["labels"])[0],
        "region": ",".join(f"{side:g}" for side in example["boxes"][0]),
    }
    return {"task": task, **({field: values[field]} if field else {})}, buffer.getvalue()


class Memory(threading.Thread):
    """Samples the resident memory of a process, in MB."""

    def __init__(self, process: int) -> None:
        """Starts to sample."""
        super().__init__(daemon=True)
        self._path, self._done = f"/proc/{process}/statm", threading.Event()
        self.samples: list[float] = []
        self.start()

    def run(self) -> None:
        """Samples until it is stopped."""
        while not self._done.wait(0.2):
            with open(self._path) as file:
                self.samples.append(int(file.read().split()[1]) * _PAGE / 1e6)

    def stop(self) -> list[float]:
        """What was sampled."""
        self._done.set()
        self.join()
        return self.samples


def ask_all(address: str, requests: int, clients: int, source: ScenesSource) -> list[float]:
    """Asks from several clients at once.

    Returns:
      Seconds that each question took; one that failed stops everything.
    """

    def ask(number: int) -> float:
        form, image = question(number, source)
        before = time.monotonic()
        answer = client.post("/api/answer", data=form, files={"image": ("scene.png", image)})
        if answer.status_code != 200:
            raise RuntimeError(f"{form}: {answer.status_code} {answer.text}")
        return time.monotonic() - before

    limits = httpx.Limits(max_connections=clients)
    with (
        httpx.Client(base_url=address, timeout=600, limits=limits) as client,
        concurrent.futures.ThreadPoolExecutor(clients) as pool,
    ):
        return list(pool.map(ask, range(requests)))


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the command line.

    Returns:
      answered, p50 and p95 in seconds, questions per second, memory in MB and its growth from the
      first to the last quarter of the questions.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="runs/quickstart")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args(arguments)
    port, source = free_port(), ScenesSource("tiny", "validation")
    command = [sys.executable, "-m", "ofa_jax.demo", f"--port={port}"]
    server = subprocess.Popen([*command, f"--checkpoint={options.checkpoint}"])
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            time.sleep(0.5)
            if server.poll() is not None:
                raise RuntimeError("the demo did not start")
            try:
                httpx.get(f"{address}/api/tasks")
                break
            except httpx.TransportError:
                continue
        # Every size of a batch of every task, as far as chance brings them about.
        for clients in (1, 4, 8, options.clients, options.clients):
            ask_all(address, 6 * clients, clients, source)
        memory, before = Memory(server.pid), time.monotonic()
        seconds = sorted(ask_all(address, options.requests, options.clients, source))
        rate = len(seconds) / (time.monotonic() - before)
        samples = memory.stop()
    finally:
        server.terminate()
        server.wait()
    quarter = max(1, len(samples) // 4)
    found = {
        "answered": float(len(seconds)),
        "p50": statistics.median(seconds),
        "p95": seconds[int(0.95 * (len(seconds) - 1))],
        "per_second": rate,
        "memory": statistics.median(samples[:quarter]),
        "growth": statistics.median(samples[-quarter:]) - statistics.median(samples[:quarter]),
    }
    print(
        f"{len(seconds)} of {options.requests} questions from {options.clients} clients answered, "
        f"p50 {found['p50']:.3f} s, p95 {found['p95']:.3f} s, {rate:.1f} questions/s; memory "
        f"{found['memory']:.0f} MB, {found['growth']:+.1f} MB from the first to the last quarter"
    )
    return found


if __name__ == "__main__":
    main()
