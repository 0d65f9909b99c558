"""The grain executor: deterministic batches of a mixture.

Batch t is a pure function of (tasks and rates, seed, t): every source is shuffled over all its
records, tasks are interleaved at fixed proportions by their rates, each host takes every n-th
example, and each example has its own random generator. Resuming is `iterate(start_step=t)`,
whatever the number of hosts or workers was before.

Does not import TensorFlow or seqio, so worker processes stay small.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator

import grain
from absl import flags

from ofa_jax.data import features as rows
from ofa_jax.data.features import Row
from ofa_jax.data.instruction import trim_at_eos
from ofa_jax.data.task import Lengths, OFATask, Records


@dataclasses.dataclass(frozen=True)
class _ReadRow:
    """Reads the example at one position of a shuffled, repeated stream of record numbers."""

    task: OFATask
    task_id: int
    records: Records
    lengths: Lengths
    seed: int
    train: bool

    def __call__(self, position: int, index: int) -> Row:
        features = self.task.read(
            self.records,
            int(index),
            self.lengths,
            seed=self.seed,
            epoch=position // len(self.records),
            train=self.train,
        )
        return rows.pad_row(features, self.lengths, self.task_id)


@dataclasses.dataclass(frozen=True)
class MixturePipeline:
    """Training batches of one mixture for one host.

    Attributes:
      tasks: tasks of the mixture; `task_ids` of a batch index this tuple.
      rates: their positive rates, in the same order.
      lengths: task feature lengths (`inputs`, `targets` in tokens, `image` in pixels).
      batch_size: examples of the global batch.
      split: split of the sources.
      seed: seed of order, preparation and noise.
      num_hosts: hosts that share the global batch.
      host: index of this host.
      num_workers: worker processes; 0 reads in threads of this process.
      num_threads: reading threads of this process where `num_workers` is 0.
      prefetch: batches read ahead.
    """

    tasks: tuple[OFATask, ...]
    rates: tuple[float, ...]
    lengths: Lengths
    batch_size: int
    split: str = "train"
    seed: int = 0
    num_hosts: int = 1
    host: int = 0
    num_workers: int = 0
    num_threads: int = 1
    prefetch: int = 4

    def __post_init__(self) -> None:
        if self.batch_size % self.num_hosts:
            raise ValueError(
                f"BATCH_SIZE = {self.batch_size} does not divide over {self.num_hosts} hosts"
            )
        if len(self.tasks) != len(self.rates) or not all(rate > 0 for rate in self.rates):
            raise ValueError("every task of a mixture needs one positive rate")

    def examples(self) -> grain.MapDataset[Row]:
        """The endless stream of this host's rows, with random access."""
        streams = []
        for task_id, task in enumerate(self.tasks):
            records = task.source.open(self.split)
            if not len(records):
                raise ValueError(f"task {task.name!r} has no {self.split} examples")
            read = _ReadRow(task, task_id, records, self.lengths, self.seed, True)
            order_seed = (self.seed * 1_000_003 + zlib.crc32(task.name.encode())) % 2**32
            stream = grain.MapDataset.range(len(records)).seed(order_seed).shuffle().repeat()
            streams.append(stream.map_with_index(read))
        mixed = streams[0]
        if len(streams) > 1:
            total = sum(self.rates)
            mixed = grain.MapDataset.mix(streams, [rate / total for rate in self.rates])
        return mixed[self.host :: self.num_hosts]

    def batch(self, step: int) -> Row:
        """Batch number `step` (from 0) of this host, computed alone."""
        size = self.batch_size // self.num_hosts
        stream = self.examples()
        return rows.stack_rows(stream[step * size + offset] for offset in range(size))

    def iterate(self, start_step: int = 0) -> Iterator[Row]:
        """Batches from number `start_step` on, read ahead in threads or processes.

        Args:
          start_step: number of the first batch.

        Yields:
          Rows stacked to this host's share of the batch.
        """
        size = self.batch_size // self.num_hosts
        # Batched before the read-ahead: workers then take turns by batch, and the content of a
        # batch does not depend on their number.
        batches = self.examples()[start_step * size :].batch(
            size, drop_remainder=True, batch_fn=rows.stack_rows
        )
        options = grain.ReadOptions(
            num_threads=self.num_threads, prefetch_buffer_size=self.prefetch
        )
        stream = batches.to_iter_dataset(options)
        if self.num_workers:
            # grain's worker processes read absl flags, which only absl's own entry points parse.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.num_workers))
        return iter(stream)


def evaluation_rows(
    task: OFATask, lengths: Lengths, *, split: str, seed: int, count: int
) -> Iterator[tuple[int, dict, Row]]:
    """The first `count` examples of a split, prepared for evaluation, in record order.

    Args:
      task: the task.
      lengths: task feature lengths.
      split: split of the source.
      seed: seed of the examples' generators.
      count: at most this many.

    Yields:
      record number, prepared example (with the truth), row. Where a text to infill is longer than
      the model reads, the truth is the part that it reads (SPEC 4.3.8).

    Raises:
      InstructionError: an example does not fit the task.
    """
    records = task.source.open(split)
    for index in range(min(count, len(records))):
        rng = task.rng(seed, 0, index)
        example = task.prepared(records[index], rng, lengths, train=False)
        features = task.features(example, rng, lengths, train=False)
        if task.masks_text:
            text = task.tokenizer().decode(trim_at_eos(features["targets"]))
            example = {**example, task.instructions[0].target_slot.field: text.strip()}
        yield index, example, rows.pad_row(features, lengths, 0)


def fill_batch(batch: list[Row], size: int) -> Row:
    """Stacks rows, filled up with copies of the first to `size` examples."""
    return rows.stack_rows([*batch, *[batch[0]] * (size - len(batch))])
