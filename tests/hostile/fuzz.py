"""Fuzz targets of all readers of foreign files: `make fuzz`, or `python -m tests.hostile.fuzz tar`.

hypothesis changes right files and hostile ones: bytes are replaced, cut out and inserted. What
is neither read nor refused with one message is made small and written to `found/`, which the
tests replay from then on. Under the memory limit a reader that believes a number fails here too.
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import resource
import sys
import tempfile
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import readers

FOUND = pathlib.Path(__file__).with_name("found")
# Bytes of the largest start, inputs of one round, and MiB beyond what the process has.
_TOKENS = [b"9" * 20, b"-1", b"\xff" * 8, b"[" * 99, b"\0", b"1e999", b"null", b"\n"]
_LARGEST, _ROUND, _MEMORY = 4096, 300, 1024


def _starts(name: str) -> list[bytes]:
    hostile = [data for reader, _, data in readers.hostile() if reader == name]
    return [*readers.seeds()[name], *(data for data in hostile if len(data) <= _LARGEST)]


def _changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, length, piece in changes:
        start = place % (len(data) + 1)
        data = data[:start] + piece + data[start + length :]
    return data


def fuzz(name: str, seconds: float) -> int:
    """Fuzzes a reader; returns how many inputs it read.

    Raises:
      Exception: what the reader should not raise; the input is in `found/`.
    """
    tokens = st.sampled_from(_TOKENS)
    change = st.tuples(st.integers(0, _LARGEST), st.integers(0, 16), st.binary(max_size=8) | tokens)
    count, end = 0, time.monotonic() + seconds

    @settings(
        max_examples=_ROUND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(_starts(name)), st.lists(change, max_size=6))
    def one(start, changes):
        nonlocal count
        data = _changed(start, changes)
        if time.monotonic() > end:
            return
        count += 1
        with tempfile.TemporaryDirectory() as directory:
            try:
                readers.read(name, pathlib.Path(directory), data)
            except Exception:
                FOUND.mkdir(exist_ok=True)
                (FOUND / f"{name}-smallest.bin").write_bytes(data)
                raise

    while time.monotonic() < end:
        one()
    return count


def main() -> None:
    """Fuzzes the readers that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz")
    parser.add_argument("readers", nargs="*", help=", ".join(readers.READERS))
    parser.add_argument("--seconds", type=float, default=60, help="for each reader")
    options = parser.parse_args()
    failed = []
    for name in options.readers or readers.READERS:
        readers.read(name, pathlib.Path(tempfile.mkdtemp()), readers.seeds()[name][0])
        now = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        limit = now * resource.getpagesize() + (_MEMORY << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            print(f"{name}: {fuzz(name, options.seconds)} inputs", flush=True)
        except Exception as error:
            path = FOUND / f"{name}-smallest.bin"
            kept = FOUND / f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.bin"
            path.replace(kept)
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}; see {kept}", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
