"""The other library's half of a comparison: a child process in a Python of its own.

It reads one line of JSON for each request and answers with one line, the seconds that it took, so
that the two libraries need not share an environment and can take turns (`benchmarks.turns`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, cast

DIRECTORY = pathlib.Path(__file__).parent


class Peer:
    """A running child process.

    Attributes:
      pid: its process, whose memory can be asked for.
    """

    def __init__(self, python: str, script: str, *arguments: str, environment: Any = None) -> None:
        self._process = subprocess.Popen(
            [python, str(DIRECTORY / script), str(os.cpu_count()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )
        self._input = cast(IO[str], self._process.stdin)
        self._output = cast(IO[str], self._process.stdout)
        self.pid = self._process.pid

    def call(self, **asked: Any) -> Callable[[], float]:
        """What makes one request and returns its seconds.

        Raises:
          SystemExit: (by what is returned) the process has ended.
        """

        def run() -> float:
            print(json.dumps(asked), file=self._input, flush=True)
            line = self._output.readline()
            if not line:
                raise SystemExit(f"the peer process ended on the request {asked}")
            return float(line)

        return run

    def highest_memory(self) -> float:
        """MiB: the highest resident size that the process has had."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


def add_official_arguments(parser: argparse.ArgumentParser) -> None:
    """`--official PYTHON CODE`, for `official_model`."""
    parser.add_argument(
        "--official",
        nargs=2,
        metavar=("PYTHON", "CODE"),
        help="a Python with torch and what the official code imports, and a checkout of that code",
    )


@contextlib.contextmanager
def official_model(named: list[str] | None, size: str, images: int) -> Iterator[Peer | None]:
    """The official model of a size with random weights; None where no code is named."""
    if named is None:
        yield None
        return
    python, code = named
    path = [os.path.join(code, "fairseq"), code]
    inherited: Mapping[str, str] = os.environ
    if inherited.get("PYTHONPATH"):
        path.insert(0, inherited["PYTHONPATH"])
    peer = Peer(
        python,
        "torch_official.py",
        size,
        str(images),
        environment={"PYTHONPATH": os.pathsep.join(path)},
    )
    try:
        yield peer
    finally:
        peer.close()
