"""The directory that a preparation writes: what is finished and what was begun.

    OUT/train-00000-of-00008.array_record        finished shards, renamed when they were complete
    OUT/manifest.json                            written last
    OUT/.unfinished-train/plan.json              what was begun, until the split is finished
    OUT/.unfinished-train/<shard>.json           counts and checksum of each finished shard
    OUT/.unfinished-train/<shard>.<random>.tmp   a shard in work

A shard counts as finished when its counts are there, which are written after it. So a kill at any
moment loses the shards in work and nothing else.
"""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Sequence

from ofa_jax.atomic import JsonObject
from ofa_jax.data.preparation import manifest
from ofa_jax.data.preparation.plan import ConversionPlan
from ofa_jax.data.preparation.shards import ShardResult
from ofa_jax.data.preparation.storage import Storage
from ofa_jax.digest import OtherInputsError
from ofa_jax.schema import SchemaError, parse_json


class OutputDirectory:
    """Where one split is prepared.

    Attributes:
      storage: the directory.
      work: name of the directory in it of what is unfinished.
    """

    def __init__(self, storage: Storage, plan: ConversionPlan):
        self.storage = storage
        self.work = f".unfinished-{plan.split}"
        self._plan = plan

    def finished_manifest(self) -> JsonObject | None:
        """The manifest, where this very split is prepared already; else None.

        Raises:
          OtherInputsError: the directory was prepared, or begun, from other data or with other
            settings, and the plan does not say to overwrite.
          ValueError: the directory holds shards of this split that nothing describes, or lacks
            shards that its manifest describes.
        """
        try:
            return self._finished_manifest()
        except ValueError:
            if not self._plan.overwrite:
                raise
        self._remove_split()
        return self._finished_manifest()

    def _finished_manifest(self) -> JsonObject | None:
        wanted = manifest.identity(self._plan)
        existing = manifest.read(self.storage)
        begun = manifest.read(self.storage, f"{self.work}/plan.json")
        for found in (existing, begun):
            if found is not None:
                manifest.refuse_other(str(self.storage), found, wanted)
        entry = (existing or {}).get("splits", {}).get(self._plan.split)
        if entry is None:
            if begun is None and (strange := self._shards()):
                raise ValueError(
                    f"{self.storage} holds {strange[0]}, and nothing says how it was made: "
                    "take another directory, or --overwrite"
                )
            return None
        for shard in entry["shards"]:
            if self.storage.size(shard["name"]) != shard["bytes"]:
                raise ValueError(
                    f"{self.storage}: {shard['name']} is not the file of {shard['bytes']} bytes "
                    f"that {manifest.NAME} describes; --overwrite prepares {self._plan.split} again"
                )
        return existing

    def _shards(self) -> list[str]:
        names = self.storage.names(f"{self._plan.split}-")
        return [name for name in names if name.endswith(".array_record")]

    def _remove_split(self) -> None:
        """Removes what was made of other inputs; the manifest first, so that a kill leaves none."""
        existing = manifest.read(self.storage)
        if existing is not None:
            existing["splits"].pop(self._plan.split, None)
            if existing["splits"]:
                self.storage.write(manifest.NAME, manifest.as_json(existing).encode())
            else:
                self.storage.remove(manifest.NAME)
        self.storage.remove_directory(self.work)
        for name in self._shards():
            self.storage.remove(name)

    def begin(self) -> None:
        """Notes what is begun."""
        text = manifest.as_json(manifest.identity(self._plan))
        self.storage.write(f"{self.work}/plan.json", text.encode())

    def result(self, shard: int) -> ShardResult | None:
        """What is known of a finished shard; None where it is not, or its file is another.

        A damaged note counts as none: its shard is made again.
        """
        name = self._plan.shard_name(shard)
        noted = self.storage.read(f"{self.work}/{name}.json")
        if noted is None:
            return None
        try:
            result = ShardResult.from_dict(parse_json(noted, name))
        except (AttributeError, KeyError, TypeError, SchemaError):
            return None
        return result if self.storage.size(name) == result.size else None

    def results(self) -> dict[int, ShardResult]:
        """Finished shards by number."""
        found = ((shard, self.result(shard)) for shard in range(self._plan.num_shards))
        return {shard: result for shard, result in found if result is not None}

    def commit(self, shard: int, path: pathlib.Path, result: ShardResult) -> None:
        """Gives a complete shard its name and notes that it is finished, in this order.

        Args:
          result: what it holds.
        """
        name = self._plan.shard_name(shard)
        self.storage.adopt(path, name)
        self.storage.write(f"{self.work}/{name}.json", manifest.as_json(result.as_dict()).encode())

    def finish(self, results: Sequence[ShardResult]) -> JsonObject:
        """Writes the manifest and removes what only an unfinished preparation needs.

        Args:
          results: every shard, in order.

        Returns:
          The manifest.

        Raises:
          OtherInputsError: a file of the source changed while it was read.
        """
        if changed := self._plan.changes():
            raise OtherInputsError(
                f"{self.storage}: {changed[0]} while it was prepared, so shards hold two states; "
                "give the command again with --overwrite"
            )
        value = manifest.with_split(manifest.read(self.storage), self._plan, results)
        self.storage.write(manifest.NAME, manifest.as_json(value).encode())
        self.storage.remove_directory(self.work)
        return value


def temporary_name(plan: ConversionPlan, shard: int) -> str:
    """A name under which to write a shard before it is complete, unlike every other."""
    return f"{plan.shard_name(shard)}.{uuid.uuid4().hex}.tmp"
