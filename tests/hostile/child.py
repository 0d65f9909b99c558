"""Reads inputs in a process of its own, under a limit of memory and a clock.

Its standard input is the corpus: JSON lines of (number, reader, base64). It answers each with a
line: number, seconds, MiB that the process grew by, and what the reader said. A reader that hangs
or fills the memory ends the process, and the input it was at is the one without an answer.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import resource
import sys
import tempfile
import time
import traceback

MEMORY = 768 << 20
SECONDS = 30


def main() -> None:
    """Answers until the input ends."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from tests.hostile import readers

    # Readers import what they need at first use, which is none of an input's memory.
    with tempfile.TemporaryDirectory() as directory:
        for name, data in readers.seeds().items():
            readers.read(name, pathlib.Path(directory), data[0])
    now = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    for line in sys.stdin:
        number, name, encoded = json.loads(line)
        data = base64.b64decode(encoded)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        with tempfile.TemporaryDirectory() as directory:
            try:
                said, bad = readers.read(name, pathlib.Path(directory), data), ""
            except BaseException:
                said, bad = "", traceback.format_exc(limit=-6)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(json.dumps([number, time.process_time() - began, grown, said, bad]), flush=True)


if __name__ == "__main__":
    main()
