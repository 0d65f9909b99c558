"""The grain executor: deterministic batches of a mixture.

Batch t is a pure function of (tasks, rates, buckets, seed, t): `mixing` says which
examples of which tasks it holds, every source is shuffled over all its records anew each epoch,
each host takes every n-th example, and each example has its own random generator. Resuming is
`iterate(start_step=t)`, whatever the number of hosts or workers was before.

Does not import TensorFlow or seqio, so worker processes stay small.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from absl import flags

from ofa_jax.data.batches.buckets import Buckets, by_task
from ofa_jax.data.batches.mixing import BatchPlan, MixturePlan, RateSchedule, tempered_rates
from ofa_jax.data.batches.skipped import SkippedRecords
from ofa_jax.data.ops.image import TRUNCATED_IMAGES
from ofa_jax.data.sources.array_record import PreparedRecords
from ofa_jax.data.sources.example import InstructionError, Records
from ofa_jax.data.tasks import features as rows
from ofa_jax.data.tasks.features import FeatureRow
from ofa_jax.data.tasks.instruction import trim_at_eos
from ofa_jax.data.tasks.task import Lengths, OFATask, check_lengths
from ofa_jax.errors import OutsideFailure

__all__ = [
    "BAD_RECORD_ERRORS",
    "ON_BAD_RECORD",
    "RATE_SOURCES",
    "MixturePipeline",
    "WorkerDiedError",
    "evaluation_row",
    "fill_batch",
]

RATE_SOURCES = ("declared", "examples")
ON_BAD_RECORD = ("error", "skip")

# What a damaged or unfitting record raises in its source or preparation. An error of the disk or
# the network is none: it stops the run.
BAD_RECORD_ERRORS = (ValueError, LookupError, TypeError, ArithmeticError)

_IMAGE_KEYS = ("encoder_images", "encoder_image_masks", "encoder_image_holes")
# Sets of so many records are shuffled by a table.
_SMALL = 4096
# What grain says when a worker process is gone.
_WORKER_DEATH = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")
# More batches than any run takes.
_ENDLESS = 2**62


class WorkerDiedError(OutsideFailure):
    """A worker process of the input is gone; nothing is wrong with the data that is known."""


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
      num_threads: reading threads of this process or of each worker; each reads whole batches.
      prefetch: batches read ahead.
      rate_by: "declared" mixes by `rates`, "examples" by the number of records of each task.
      maximum: largest rate; those above are cut (after `rate_by`, before `temperature`).
      temperature: rates are raised to 1 / temperature, as in seqio.
      rate_schedule: step to task, variant, family or pattern to a factor of its rate; 1 for those
        not named.
      rate_interpolation: how shares change between these steps, "linear" or "constant".
      buckets: task or family to the lengths that it has instead of `lengths`; `image` 0 for tasks
        without images. A batch holds tasks of the same lengths only.
      on_bad_record: "error", or "skip" for an example without weight in its place.
      truncated_images: "drop" takes an image that is cut off for a bad record, "decode" takes what
        there is of it.
      skipped: the account of bad records, filled by `iterate`.
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
    rate_by: str = "declared"
    maximum: float | None = None
    temperature: float = 1.0
    rate_schedule: Mapping[int, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    rate_interpolation: str = "linear"
    buckets: Mapping[str, Lengths] = dataclasses.field(default_factory=dict)
    on_bad_record: str = "error"
    truncated_images: str = "drop"
    skipped: SkippedRecords = dataclasses.field(
        default_factory=SkippedRecords, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.batch_size % self.num_hosts:
            raise ValueError(
                f"batch_size = {self.batch_size} does not divide over {self.num_hosts} hosts"
            )
        if len(self.tasks) != len(self.rates) or not all(rate > 0 for rate in self.rates):
            raise ValueError("every task of a mixture needs one positive rate")
        for name, known in (
            ("rate_by", RATE_SOURCES),
            ("on_bad_record", ON_BAD_RECORD),
            ("truncated_images", TRUNCATED_IMAGES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"DatasetConfig.{name} must be one of {', '.join(known)}, got "
                    f"{getattr(self, name)!r}"
                )
        self._buckets  # noqa: B018  (lengths that cannot be are refused at once)

    def batch(self, step: int) -> FeatureRow:
        """Batch number `step` (from 0) of this host, computed alone.

        A bad record is handled as `on_bad_record` says, and not counted.
        """
        return self._reader(step)[0]

    def iterate(self, start_step: int = 0) -> Iterator[FeatureRow]:
        """Batches from number `start_step` on, read ahead in threads or processes.

        Args:
          start_step: number of the first batch.

        Yields:
          Rows stacked to this host's share of the batch; with buckets, shapes differ from batch to
          batch, and those of a bucket without images have no keys of images.

        Raises:
          InstructionError: a bad record, unless these are skipped.
          ValueError: a task of which most records are bad.
          WorkerDiedError: a worker process was killed.
        """
        # Imported where it is needed: a second for whoever only declares or answers.
        import grain

        options = grain.ReadOptions(
            num_threads=self.num_threads, prefetch_buffer_size=self.prefetch
        )
        # One element is one batch: workers take turns by batch, so the content of a batch does not
        # depend on their number, and it is stacked where it is read.
        steps = grain.MapDataset.range(start_step, _ENDLESS)
        stream = steps.map(self._reader).to_iter_dataset(options)
        if self.num_workers:
            # grain's worker processes read absl flags, which only absl's own entry points parse.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.num_workers))
        with contextlib.closing(iter(stream)) as iterator, self._worker_deaths():
            for batch, reasons, notes in iterator:
                for task_id, lines in notes.items():
                    self.skipped.count_truncated(self.tasks[task_id].name, lines)
                for task_id, number in enumerate(np.bincount(batch["task_ids"])):
                    if number:
                        name = self.tasks[task_id].name
                        self.skipped.count(name, reasons.get(task_id, []), int(number))
                yield batch

    @contextlib.contextmanager
    def _worker_deaths(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            death = _WORKER_DEATH.match(str(error))
            if death is None:
                raise
            raise WorkerDiedError(
                f"one of the {self.num_workers} input workers ended with exit code {death[1]}; the "
                "system kills processes (-9) when its memory is used up, of which fewer "
                "DatasetConfig.num_workers take less. The same command goes on"
            ) from None

    def plan(self, step: int) -> BatchPlan:
        """Which examples the global batch number `step` holds."""
        return self._plan.batch(step)

    def shares(self, step: int) -> np.ndarray:
        """float64[tasks]: expected share of each task at a step."""
        return self._plan.schedule.shares(step)

    def example_batch(self, size: int = 1) -> FeatureRow:
        """A batch with every key and the largest shapes, to initialize a model; reads nothing."""
        return rows.stack_rows([rows.empty_row(self.lengths)] * size)

    @functools.cached_property
    def _buckets(self) -> Buckets:
        return Buckets.of_tasks(self.tasks, self.lengths, self.buckets)

    @functools.cached_property
    def _opened(self) -> tuple[Records, ...]:
        return tuple(task.source.open(self.split) for task in self.tasks)

    @functools.cached_property
    def _sizes(self) -> tuple[int, ...]:
        for task, records in zip(self.tasks, self._opened):
            if not len(records):
                raise ValueError(f"task {task.name!r} has no {self.split} examples")
        return tuple(map(len, self._opened))

    @functools.cached_property
    def _plan(self) -> MixturePlan:
        rates = self._sizes if self.rate_by == "examples" else self.rates
        rates = tempered_rates(rates, maximum=self.maximum, temperature=self.temperature)
        factors = {
            step: by_task(values, self.tasks, "DatasetConfig.rate_schedule")
            for step, values in self.rate_schedule.items()
        }
        names = [task.name for task in self.tasks]
        schedule = RateSchedule.with_factors(
            dict(zip(names, rates)), factors, self.rate_interpolation
        )
        return MixturePlan(schedule, self.batch_size, self._buckets.of_task)

    def _check_lengths_of_buckets(self) -> None:
        """Fails at the start where a task's sequences do not fit its bucket."""
        for task, bucket in zip(self.tasks, self._buckets.of_task):
            lengths = self._buckets.lengths[bucket]
            if lengths == self.lengths:
                continue
            try:
                check_lengths(
                    task,
                    lengths,
                    split=self.split,
                    seed=self.seed,
                    skip_bad=self.on_bad_record == "skip",
                    truncated_images=self.truncated_images,
                )
            except InstructionError:
                raise
            except ValueError as error:
                raise ValueError(f"DatasetConfig.buckets: {error}") from error

    @functools.cached_property
    def _reader(self) -> _BatchReader:
        self._check_lengths_of_buckets()
        return _BatchReader(
            plan=self._plan,
            tasks=self.tasks,
            sizes=self._sizes,
            prepared=tuple(
                records if isinstance(records, PreparedRecords) else None
                for records in self._opened
            ),
            lengths=self._buckets.lengths,
            split=self.split,
            seed=self.seed,
            num_hosts=self.num_hosts,
            host=self.host,
            skip_bad_records=self.on_bad_record == "skip",
            truncated_images=self.truncated_images,
        )


@dataclasses.dataclass(frozen=True)
class _BatchReader:
    """Reads one host's share of any batch. Picklable; opens sources where it runs.

    Attributes:
      plan: which examples a batch holds.
      tasks: tasks of the mixture.
      sizes: records of each task.
      prepared: of each task, its prepared records, so that all workers read the same state of them
        without looking again; None for other sources.
      lengths: task feature lengths of each bucket.
      split: split of the sources.
      seed: seed of order, preparation and noise.
      num_hosts: hosts that share the global batch.
      host: index of this host.
      skip_bad_records: whether an example without weight takes the place of a bad record.
      truncated_images: what becomes of images that are cut off.
    """

    plan: MixturePlan
    tasks: tuple[OFATask, ...]
    sizes: tuple[int, ...]
    prepared: tuple[PreparedRecords | None, ...]
    lengths: tuple[Lengths, ...]
    split: str
    seed: int
    num_hosts: int
    host: int
    skip_bad_records: bool
    truncated_images: str

    def __call__(self, step: int) -> tuple[FeatureRow, dict[int, list[str]], dict[int, list[str]]]:
        """The rows of a batch; what was wrong with bad records, and with images, by task id."""
        plan = self.plan.batch(int(step))
        lengths = self.lengths[plan.bucket]
        found, reasons, notes = [], {}, {}
        mine = slice(self.host, None, self.num_hosts)
        places = [
            (task_id, position, self._record_number(task_id, position))
            for task_id, position in zip(
                plan.task_ids[mine].tolist(), plan.positions[mine].tolist(), strict=True
            )
        ]
        for task_id, _, index in places:
            if (records := self.prepared[task_id]) is not None:
                records.read_ahead([index])
        for task_id, position, index in places:
            try:
                row, remarks = self._row(task_id, position, index, lengths)
                found.append(row)
                if remarks:
                    notes.setdefault(task_id, []).extend(remarks)
            except BAD_RECORD_ERRORS as error:
                if not self.skip_bad_records:
                    raise
                reasons.setdefault(task_id, []).append(str(error))
                found.append(rows.empty_row(lengths, task_id))
        batch = rows.stack_rows(found)
        if not lengths["image"]:
            batch = {key: value for key, value in batch.items() if key not in _IMAGE_KEYS}
        return batch, reasons, notes

    def _record_number(self, task_id: int, position: int) -> int:
        name = self.tasks[task_id].name
        order_seed = (self.seed * 1_000_003 + zlib.crc32(name.encode())) % 2**32
        return _record_number(self.sizes[task_id], order_seed, position)

    def _row(
        self, task_id: int, position: int, index: int, lengths: Lengths
    ) -> tuple[FeatureRow, list[str]]:
        task = self.tasks[task_id]
        notes: list[str] = []
        features = task.read(
            self._records[task_id],
            index,
            lengths,
            seed=self.seed,
            epoch=position // self.sizes[task_id],
            train=True,
            truncated_images=self.truncated_images,
            notes=notes,
        )
        if not np.isfinite(features["loss_weights"]).all():
            raise InstructionError(
                f"task {task.name!r}, record {index}: its confidence is not a finite number"
            )
        return rows.pad_row(features, lengths, task_id), notes

    @functools.cached_property
    def _records(self) -> list[Records]:
        return [
            task.source.open(self.split) if records is None else records
            for task, records in zip(self.tasks, self.prepared)
        ]

    def __getstate__(self) -> dict[str, object]:
        # Open files stay where they were opened.
        return {key: value for key, value in self.__dict__.items() if key != "_records"}


def _record_number(size: int, seed: int, position: int) -> int:
    """The record at one position of an endless stream that has a new order every epoch."""
    if size > _SMALL:
        return int(cast(int, _shuffled(size, seed)[position]))
    epoch, place = divmod(position, size)
    return int(_permutation(size, seed, epoch)[place])


@functools.lru_cache(maxsize=256)
def _shuffled(size: int, seed: int) -> Sequence[int]:
    """A permutation by formula: no memory, but half a millisecond a record for very small sets."""
    import grain

    return cast(Sequence[int], grain.MapDataset.range(size).seed(seed).shuffle().repeat())


@functools.lru_cache(maxsize=256)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed, counter=epoch)).permutation(size)


def evaluation_row(
    task: OFATask,
    records: Records,
    index: int,
    lengths: Lengths,
    *,
    seed: int,
    truncated_images: str = "decode",
) -> tuple[dict, FeatureRow]:
    """One example, prepared for evaluation.

    Args:
      records: of its source.
      index: number of the record.
      lengths: task feature lengths.
      seed: seed of the examples' generators.
      truncated_images: see `OFATask.prepared`.

    Returns:
      (prepared example, with the truth where there is one; row). Where a text to infill is longer
      than the model reads, the truth is the part that it reads (SPEC 4.3.8).

    Raises:
      InstructionError: the example does not fit the task.
    """
    rng = task.rng(seed, 0, index)
    example = task.prepared(
        records[index], rng, lengths, train=False, truncated_images=truncated_images
    )
    features = task.features(example, rng, lengths, train=False)
    if task.masks_text:
        text = task.tokenizer().decode(trim_at_eos(features["targets"]))
        example = {**example, task.instructions[0].target_slot.field: text.strip()}
    return example, rows.pad_row(features, lengths, 0)


def fill_batch(batch: list[FeatureRow], size: int) -> FeatureRow:
    """Stacks rows, filled up with copies of the first to `size` examples."""
    return rows.stack_rows([*batch, *[batch[0]] * (size - len(batch))])
