"""Writes one shard: the unit of work of both engines, and of going on after a kill."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable

from ofa_jax.atomic import JsonObject
from ofa_jax.data.preparation.conversion import (
    Converted,
    convert_without_codes,
    read_record,
    with_codes,
)
from ofa_jax.data.preparation.plan import ConversionPlan
from ofa_jax.data.preparation.reasons import RejectedExample, one_line
from ofa_jax.data.preparation.tally import Tally
from ofa_jax.data.sources import array_record
from ofa_jax.data.sources.example import Example, Records
from ofa_jax.digest import file_sha256

# Images whose codes are made together. A network on an accelerator wants batches; other
# examples are written one by one.
_ENCODED_AT_ONCE = 64


class PreparationError(RuntimeError):
    """A preparation that broke off; giving the same command again goes on."""


class StrictError(ValueError):
    """A bad record of a preparation that must have none."""


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """A finished shard.

    Attributes:
      name: file name.
      size: bytes.
      sha256: hexadecimal digest of the file.
      tally: what was kept and dropped of the shard's records.
    """

    name: str
    size: int
    sha256: str
    tally: Tally

    def as_dict(self) -> dict[str, object]:
        """All of it, values that JSON can hold."""
        return {**self.file_entry(), "tally": self.tally.as_dict()}

    def file_entry(self) -> dict[str, object]:
        """What the manifest says about the file."""
        return {
            "name": self.name,
            "examples": self.tally.examples,
            "bytes": self.size,
            "sha256": self.sha256,
        }

    @classmethod
    def from_dict(cls, values: JsonObject) -> ShardResult:
        """The inverse of `as_dict`."""
        tally = Tally.from_dict(values["tally"])
        return cls(values["name"], values["bytes"], values["sha256"], tally)


def write_shard(
    plan: ConversionPlan,
    shard: int,
    path: str | pathlib.Path,
    *,
    records: Records | None = None,
    progress: Callable[[Tally], None] | None = None,
) -> ShardResult:
    """Converts the records of one shard and writes them to a file.

    One example is in memory at a time; with image codes, a batch of them.

    Args:
      shard: number of the shard.
      path: where to write; a temporary name, since a kill leaves it unfinished.
      records: the opened source, where the caller has it; None opens it.
      progress: called after every record with the counts so far.

    Returns:
      What was written. The file is on disk, not only in the system's cache.

    Raises:
      StrictError: a bad record, where the plan is strict.
      OSError: the file cannot be written, or the source not be read.
    """
    if records is None:
        records = plan.source.open(plan.split)
    tally = Tally()
    waiting: list[Converted] = []
    batch_size = _ENCODED_AT_ONCE if plan.settings.image_tokenizer else 1
    with array_record.ShardWriter(path) as writer:
        for index in plan.shard_range(shard):
            example: Example = {}
            try:
                example = read_record(records, index)
                converted = convert_without_codes(
                    example, plan.settings, with_truth=plan.with_truth
                )
            except RejectedExample as rejection:
                identifier = example.get("example_id", example.get("image_id"))
                identifier = None if identifier is None else one_line(identifier)
                if plan.strict:
                    place = f"record {index}" + (f" ({identifier!r})" if identifier else "")
                    raise StrictError(f"{place}: {rejection}") from rejection
                tally.drop(index, identifier, rejection)
            else:
                waiting.append(converted)
                tally.keep(converted.example["type"], converted.removed_boxes, converted.notes)
            if len(waiting) == batch_size or index == plan.shard_range(shard)[-1]:
                for complete in with_codes(waiting, plan.settings):
                    writer.write_record(array_record.encode_example(complete.example))
                waiting.clear()
            if progress is not None:
                progress(tally)
    size = os.path.getsize(path)
    return ShardResult(plan.shard_name(shard), size, file_sha256(path), tally)
