"""`manifest.json`: what is in a directory of prepared data, and how it came about.

One manifest describes all splits of a directory. It holds nothing that differs between two runs of
the same preparation: no times, no machine, no number of processes.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import PIL

from ofa_jax import digest
from ofa_jax.atomic import JsonObject
from ofa_jax.checkpoint.bucket import is_remote
from ofa_jax.data.preparation.plan import ConversionPlan
from ofa_jax.data.preparation.shards import ShardResult
from ofa_jax.data.preparation.storage import LocalStorage, Storage
from ofa_jax.data.preparation.tally import Tally
from ofa_jax.data.sources import array_record, bucket_file
from ofa_jax.data.sources.file_cache import cached_by_file
from ofa_jax.digest import file_sha256
from ofa_jax.schema import parse_json

NAME = "manifest.json"
# Counts up whenever the same data and settings give other examples than before.
CONVERSION_VERSION = 3


def identity(plan: ConversionPlan) -> JsonObject:
    """Everything that a plan's bytes depend on, in the form of a manifest with one split.

    Returns:
      `schema_version`, `conversion_version`, `settings`, and `splits` with one entry.
    """
    settings = plan.settings.as_dict()
    tokenizer = plan.settings.image_tokenizer
    if tokenizer and pathlib.Path(tokenizer).is_file():
        settings["image_tokenizer_sha256"] = _digest_once(tokenizer)
    return {
        "schema_version": array_record.VERSION,
        "conversion_version": CONVERSION_VERSION,
        "settings": settings,
        "splits": {plan.split: {**plan.as_dict(), "pillow": PIL.__version__}},
    }


# A large file, and asked for by every shard.
_digest_once = cached_by_file(4)(file_sha256)


def refuse_other(directory: str, existing: JsonObject, wanted: JsonObject) -> None:
    """Fails where a directory was prepared, or begun, from other data or with another setting.

    Args:
      directory: named in the message.
      existing: the directory's manifest, or the identity of what was begun there.
      wanted: identity of the new plan.

    Raises:
      OtherInputsError: the first file or setting that differs.
    """
    [(split, entry)] = wanted["splits"].items()

    def described(one: JsonObject) -> JsonObject:
        values = {name: one.get(name) for name in wanted if name != "splits"}
        if split not in existing.get("splits", {}):
            return values
        # The data first: what changes a file may change the number of records as well.
        return {split: {name: one["splits"][split].get(name) for name in entry}, **values}

    digest.refuse_other(
        directory,
        described(existing),
        described(wanted),
        remedy="take another directory, or the same data and settings, or --overwrite",
    )


def with_split(
    existing: JsonObject | None, plan: ConversionPlan, results: Sequence[ShardResult]
) -> JsonObject:
    """The manifest of a directory after a split is finished.

    Args:
      existing: the directory's manifest before; None: there was none.
      results: its shards, in order.

    Returns:
      The new manifest.
    """
    total = Tally()
    for result in results:
        total.add(result.tally)
    manifest = identity(plan)
    manifest["splits"][plan.split] |= {
        **total.as_dict(),
        "left_out": plan.left_out.as_dict(),
        "shards": [result.file_entry() for result in results],
    }
    others = (existing or {}).get("splits", {})
    manifest["splits"] = dict(sorted({**others, **manifest["splits"]}.items()))
    return manifest


def of_directory(directory: str) -> JsonObject | None:
    """The manifest of a directory here or in a bucket; None where there is none.

    Raises:
      ValueError: the file is not a manifest.
      BucketError: the bucket cannot be read.
    """
    return read(BucketStorage(directory) if is_remote(directory) else LocalStorage(directory))


class BucketStorage:
    """A directory in a bucket, to read only."""

    def __init__(self, address: str):
        """Args: address: such as gs://bucket/directory."""
        self._address = address.rstrip("/")

    def __str__(self) -> str:
        return self._address

    def read(self, name: str) -> bytes | None:
        """Contents of a file; None where there is none."""
        return bucket_file.read_file(f"{self._address}/{name}")


def read(storage: Storage | BucketStorage, name: str = NAME) -> JsonObject | None:
    """A manifest; None where there is none.

    Args:
      name: of the file.

    Raises:
      ValueError: the file is not a manifest.
    """
    data = storage.read(name)
    if data is None:
        return None
    value = parse_json(data, f"{storage}: {name} is damaged, delete it", ValueError)
    if not isinstance(value, dict):
        raise ValueError(f"{storage}: {name} does not hold a JSON object; delete it")
    return value


def as_json(value: JsonObject) -> str:
    """JSON text, the same for the same value."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def verify(directory: str | pathlib.Path) -> int:
    """Compares every shard of a directory with the checksum in its manifest.

    Args:
      directory: a prepared directory.

    Returns:
      Number of shards.

    Raises:
      ValueError: no manifest, or a shard that is missing or differs; the message names it.
    """
    directory = pathlib.Path(directory).expanduser()
    manifest = read(LocalStorage(directory))
    if manifest is None:
        raise ValueError(f"{directory} has no {NAME}: it is not prepared, or not to the end")
    count = 0
    for entry in manifest["splits"].values():
        for shard in entry["shards"]:
            path = directory / shard["name"]
            if not path.is_file():
                raise ValueError(f"{path} is missing")
            if file_sha256(path) != shard["sha256"]:
                raise ValueError(f"{path} is damaged: its SHA-256 is not the manifest's")
            count += 1
    return count
