"""Prepares a split on one machine, in parallel over processes.

Each process takes whole shards, one after the other, and holds one example at a time. Processes
are started anew (spawned), so they hold nothing of their parent, and end with it.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ofa_jax.atomic import JsonObject
from ofa_jax.data.preparation.output_directory import OutputDirectory, temporary_name
from ofa_jax.data.preparation.plan import ConversionPlan, Estimate
from ofa_jax.data.preparation.shards import PreparationError, ShardResult, write_shard
from ofa_jax.data.preparation.storage import LocalStorage
from ofa_jax.data.preparation.tally import Tally
from ofa_jax.data.sources.example import Records
from ofa_jax.errors import started

# Records done and examples kept, of all shards together.
ReportCounts = Callable[[int, int], None]

_POLL_SECONDS = 0.25


def prepare(
    plan: ConversionPlan,
    estimate: Estimate,
    out: str | pathlib.Path,
    *,
    processes: int = 1,
    progress: ReportCounts | None = None,
) -> JsonObject:
    """Prepares a split, or what is missing of it.

    Args:
      plan: what to do.
      estimate: how large it will be.
      out: the directory to write.
      processes: how many work; with one, this process does.
      progress: called with the records done and examples kept so far, those of earlier runs
        included.

    Returns:
      The manifest of the directory.

    Raises:
      ValueError: other settings, too little space, a bad record where the plan is strict.
      OSError: the directory cannot be written, or the source not be read.
      PreparationError: a process was killed.
    """
    storage = LocalStorage(out)
    directory = OutputDirectory(storage, plan)
    storage.make()
    with storage.lock():
        finished = directory.finished_manifest()
        if finished is not None:
            storage.remove_directory(directory.work)
            return finished
        storage.remove_remains(directory.work)
        results = directory.results()
        done = sum(result.size for result in results.values())
        storage.check_space(max(0, estimate.stored_bytes - done))
        directory.begin()
        if not plan.strict:  # Else the source is being checked to its end.
            started()
        board = _ScoreBoard.of_size(plan.num_shards)
        for shard, result in results.items():
            board.post(shard, result.tally)
        missing = [shard for shard in range(plan.num_shards) if shard not in results]

        def report() -> None:
            if progress is not None:
                progress(board.records, board.examples)

        report()
        if processes > 1 and len(missing) > 1:
            written = _in_processes(plan, directory, board, missing, processes, report)
        else:
            written = _in_this_process(plan, directory, board, missing, report)
        try:
            for shard, result in written:
                results[shard] = result
        except BaseException:
            # A full disk, for one, must not stay full of what nobody can use.
            storage.remove_remains(directory.work)
            raise
        report()
        return directory.finish([results[shard] for shard in range(plan.num_shards)])


class _Stopped(Exception):
    """Another process failed, or the user stopped the preparation."""


class _ScoreBoard:
    """Records done and examples kept of every shard, and whether to stop, in shared memory.

    Attributes:
      counts: int64[2 * shards + 1] that processes share.
    """

    def __init__(self, counts: ctypes.Array):
        self.counts = counts

    @classmethod
    def of_size(cls, num_shards: int) -> _ScoreBoard:
        context = multiprocessing.get_context("spawn")
        return cls(context.RawArray(ctypes.c_int64, 2 * num_shards + 1))

    def post(self, shard: int, tally: Tally) -> None:
        if self.counts[-1]:
            raise _Stopped
        self.counts[2 * shard] = tally.records
        self.counts[2 * shard + 1] = tally.examples

    def stop(self) -> None:
        self.counts[-1] = 1

    @property
    def records(self) -> int:
        return sum(self.counts[0:-1:2])

    @property
    def examples(self) -> int:
        return sum(self.counts[1:-1:2])


def _one_shard(
    plan: ConversionPlan,
    directory: OutputDirectory,
    shard: int,
    records: Records,
    progress: Callable[[Tally], None],
) -> ShardResult:
    temporary = pathlib.Path(str(directory.storage), directory.work, temporary_name(plan, shard))
    try:
        result = write_shard(plan, shard, temporary, records=records, progress=progress)
    except RuntimeError as error:
        # The ArrayRecord library's own errors, a full disk for example.
        raise OSError(f"cannot write {temporary}: {error}") from error
    directory.commit(shard, temporary, result)
    return result


def _in_this_process(
    plan: ConversionPlan,
    directory: OutputDirectory,
    board: _ScoreBoard,
    missing: list[int],
    report: Callable[[], None],
) -> Iterator[tuple[int, ShardResult]]:
    records = plan.source.open(plan.split)
    reported = time.monotonic()

    def posting(shard: int) -> Callable[[Tally], None]:
        def post(tally: Tally) -> None:
            nonlocal reported
            board.post(shard, tally)
            if time.monotonic() - reported > _POLL_SECONDS:
                reported = time.monotonic()
                report()

        return post

    for shard in missing:
        yield shard, _one_shard(plan, directory, shard, records, posting(shard))


def _in_processes(
    plan: ConversionPlan,
    directory: OutputDirectory,
    board: _ScoreBoard,
    missing: list[int],
    processes: int,
    report: Callable[[], None],
) -> Iterator[tuple[int, ShardResult]]:
    pool = concurrent.futures.ProcessPoolExecutor(
        max_workers=min(processes, len(missing)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(plan, directory, board.counts),
    )
    with pool:
        waiting = {pool.submit(_worker_shard, shard): shard for shard in missing}
        try:
            while waiting:
                done, _ = concurrent.futures.wait(
                    waiting, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
                )
                report()
                for future in done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise PreparationError(
                "a process was killed, by the system for its memory perhaps: give the same command "
                "again to go on, with fewer --processes"
            ) from error
        finally:
            # Does nothing after a good end. Else shards in work are given up at their next record.
            board.stop()
            pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(plan: ConversionPlan, directory: OutputDirectory, counts: ctypes.Array) -> None:
    """Opens the source once, and watches the parent: a killed parent cannot say goodbye."""
    # Ctrl-C reaches every process of a terminal; the parent then stops the others in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    records = plan.source.open(plan.split)
    _worker.update(plan=plan, directory=directory, board=_ScoreBoard(counts), records=records)


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _worker_shard(shard: int) -> ShardResult:
    plan, directory, board = _worker["plan"], _worker["directory"], _worker["board"]

    def post(tally: Tally) -> None:
        board.post(shard, tally)

    return _one_shard(plan, directory, shard, _worker["records"], post)
