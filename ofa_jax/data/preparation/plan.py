"""What one preparation does: which records, into which shards, under which settings.

Shard k of n holds what is kept of records [k * N // n, (k + 1) * N // n) of the source, in their
order. So a shard's bytes are a function of the plan and k alone: not of the number of processes,
nor of what was finished before a kill.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from ofa_jax import digest
from ofa_jax.atomic import JsonObject
from ofa_jax.data.preparation.conversion import convert_without_codes, read_record
from ofa_jax.data.preparation.images import codes_per_image
from ofa_jax.data.preparation.reasons import RejectedExample
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.preparation.tally import Tally
from ofa_jax.data.sources import array_record, schema, split_paths
from ofa_jax.data.sources.example import Records, Source
from ofa_jax.data.sources.left_out import LeftOut

TARGET_SHARD_BYTES = 256 << 20
# Even a small set is cut into some shards, so that several processes have work.
_SMALL_SHARD_RECORDS = 500
_SMALL_SET_SHARDS = 16
_SAMPLED_RECORDS = 24


@dataclasses.dataclass(frozen=True)
class ConversionPlan:
    """One split of one source, to be prepared.

    Attributes:
      source: where the records come from; picklable.
      description: what the manifest says about the source, values that JSON can hold.
      split: split of the source, and of what is prepared.
      num_records: records that are read, from the first on.
      num_shards: shards that they are cut into.
      settings: what is done to each example.
      inputs: identities of the files and directories that the source reads, by path.
      limit: at most this many records were asked for; None: all.
      strict: whether the first bad record ends the preparation.
      overwrite: whether what was made of other inputs is removed, not refused.
      left_out: items of the source's files that stand in no record, by reason.
    """

    source: Source
    description: Mapping[str, object]
    split: str
    num_records: int
    num_shards: int
    settings: ConversionSettings
    inputs: Mapping[str, object] = dataclasses.field(default_factory=dict)
    limit: int | None = None
    strict: bool = False
    overwrite: bool = False
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)

    def shard_name(self, shard: int) -> str:
        """File name of shard number `shard`."""
        return array_record.shard_name(self.split, shard, self.num_shards)

    @property
    def with_truth(self) -> bool:
        """Whether examples without truth are dropped, as everywhere but in test splits."""
        return not schema.may_lack_truth(self.split)

    def shard_range(self, shard: int) -> range:
        """Numbers of the records that go into a shard."""
        return range(
            shard * self.num_records // self.num_shards,
            (shard + 1) * self.num_records // self.num_shards,
        )

    def as_dict(self) -> dict[str, object]:
        """What must be equal for two preparations to write equal shards, for the manifest."""
        return {
            "source": dict(self.description),
            "inputs": dict(self.inputs),
            "limit": self.limit,
            "num_records": self.num_records,
            "num_shards": self.num_shards,
        }

    def changes(self) -> list[str]:
        """What has changed in the source's files since the plan was made."""
        return digest.differences(self.inputs, source_inputs(self.source, self.split))


def source_inputs(source: Source, split: str) -> JsonObject:
    """Identities of the files and directories that a source reads, by path."""
    return digest.identities(split_paths.of_source(source, split))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a sample of the records says about the whole.

    Attributes:
      stored_bytes: bytes of all shards, about.
      tally: what became of the sampled records.
    """

    stored_bytes: int
    tally: Tally = dataclasses.field(default_factory=Tally)


def estimate(plan: ConversionPlan, records: Records) -> Estimate:
    """Converts a few records, evenly spread, to know how large and how good the whole will be.

    Args:
      plan: its number of shards does not matter.
      records: the opened source.

    Returns:
      The estimate; of equal plans always the same.
    """
    codes = np.zeros(codes_per_image(plan.settings), np.int32)
    count = min(_SAMPLED_RECORDS, plan.num_records)
    total, tally = 0, Tally()
    for index in np.linspace(0, plan.num_records - 1, count).astype(int).tolist():
        try:
            converted = convert_without_codes(
                read_record(records, index), plan.settings, with_truth=plan.with_truth
            )
        except RejectedExample as rejection:
            tally.drop(index, None, rejection)
            continue
        example = converted.example
        tally.keep(example["type"], converted.removed_boxes, converted.notes)
        if converted.square is not None:
            # Real codes are as long, and take a network some time.
            example = {**example, "image_codes": codes}
        total += len(array_record.encode_example(example))
    return Estimate(total * plan.num_records // max(1, count), tally)


def make_plan(
    source: Source,
    description: Mapping[str, object],
    split: str,
    *,
    settings: ConversionSettings,
    num_shards: int | None = None,
    shard_bytes: int = TARGET_SHARD_BYTES,
    limit: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    go_on: bool = False,
) -> tuple[ConversionPlan, Estimate]:
    """Looks at a source and decides how its records are cut into shards.

    Args:
      source: where the records come from.
      description: what the manifest says about it.
      split: which split.
      settings: what is done to each example.
      num_shards: how many shards; None: by their size.
      shard_bytes: bytes of a shard, about, where `num_shards` is None.
      limit: only the first so many records.
      strict: whether the first bad record ends the preparation.
      overwrite: whether what was made of other inputs is removed, not refused.
      go_on: whether to make a plan even where every record of a sample is bad.

    Returns:
      The plan, and what a sample of the records says about the result.

    Raises:
      ValueError: an empty source, a number that cannot be, or only bad records in a sample.
    """
    for name, value in (("num_shards", num_shards), ("shard_bytes", shard_bytes), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    # Before the source is opened: what changes from here on is seen at the end.
    inputs = source_inputs(source, split)
    records = source.open(split)
    num_records = len(records)
    if limit is not None:
        num_records = min(limit, num_records)
    if not num_records:
        raise ValueError(f"the source has no {split} records")
    if num_shards is not None and num_shards > num_records:
        raise ValueError(f"num_shards is {num_shards}, but there are only {num_records} records")
    plan = ConversionPlan(
        source=source,
        description=description,
        split=split,
        num_records=num_records,
        num_shards=num_shards or 1,
        settings=settings,
        inputs=inputs,
        limit=limit,
        strict=strict,
        overwrite=overwrite,
        left_out=getattr(records, "left_out", LeftOut()),
    )
    estimated = estimate(plan, records)
    if not estimated.tally.examples and not go_on:
        named = next(iter(estimated.tally.dropped.named.values()))[0]["detail"]
        counts = ", ".join(f"{reason} {n}" for reason, n in estimated.tally.dropped.counts.items())
        raise ValueError(
            f"all {estimated.tally.records} records that were looked at would be dropped "
            f"({counts}), such as {named}; --go_on prepares what there is"
        )
    if num_shards is None:
        by_size = math.ceil(estimated.stored_bytes / shard_bytes)
        by_count = min(_SMALL_SET_SHARDS, math.ceil(num_records / _SMALL_SHARD_RECORDS))
        plan = dataclasses.replace(plan, num_shards=min(num_records, max(1, by_size, by_count)))
    return plan, estimated
