"""From a path, or the name of an embedded data set, to records of one split."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from ofa_jax.checkpoint.bucket import is_remote
from ofa_jax.data.preparation import manifest
from ofa_jax.data.sources import formats, locations
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.example import Records, Source
from ofa_jax.inspection.recognition import UnknownFormatError, recognize
from ofa_jax.inspection.splits import own_split
from ofa_jax.scenes.presets import PRESETS
from ofa_jax.scenes.source import ScenesSplits

# `scenes` is the smallest world, `scenes_small` and `scenes_base` are larger.
_SCENES = "scenes"
_SCENES_PRESETS = {_SCENES: "tiny", **{f"{_SCENES}_{name}": name for name in PRESETS}}
# Fields of `scenes` beside those of the schema.
SCENES_FIELDS = ("negatives", "negative_kinds", "qa", "region_qa", "scene")
_SCENES_SPLITS = ("train", "validation", "test", "compositions", "unseen_style")


@dataclasses.dataclass(frozen=True)
class OpenedData:
    """An opened split.

    Attributes:
      name: short name, for titles and files.
      format: of the source, in words.
      split: the opened split.
      splits: all splits that are known.
      records: of the split.
      source: where they come from.
      facts: further lines about it, (name, value).
      manifest: of prepared data; None elsewhere.
      scenes_preset: world of `scenes`, "" elsewhere.
      extra_fields: fields beside those of the schema.
      extra_types: types of examples beside those of the schema.
    """

    name: str
    format: str
    split: str
    splits: tuple[str, ...]
    records: Records
    source: Source
    facts: tuple[tuple[str, str], ...] = ()
    manifest: Mapping | None = None
    scenes_preset: str = ""
    extra_fields: tuple[str, ...] = ()
    extra_types: tuple[str, ...] = ()


def open_data(
    path: str,
    *,
    format_name: str | None = None,
    arguments: Mapping[str, str] | None = None,
    split: str | None = None,
) -> OpenedData:
    """Opens a data set.

    Args:
      path: a file, a directory, prepared data in a bucket (gs://bucket/directory), or `scenes`,
        `scenes_small`, `scenes_base`.
      format_name: key of `formats.FORMATS`; None tells it from the path.
      arguments: of the format; the path is added where it belongs.
      split: which; None takes train, or the first.

    Returns:
      The opened split.

    Raises:
      ValueError: no such path, format or split, or data that are damaged as a whole; one line.
    """
    arguments = dict(arguments or {})
    if format_name is None and not arguments and path in _SCENES_PRESETS:
        return _open_scenes(path, split or "train")
    if format_name is None:
        if is_remote(resolved_path := locations.resolve(path)):
            return _open_prepared(PreparedSource(resolved_path), split)
        resolved = pathlib.Path(resolved_path)
        if not resolved.exists():
            raise UnknownFormatError(
                f"{path} does not exist; PATH is a file or directory of data, or one of "
                f"{', '.join(_SCENES_PRESETS)}"
            )
        layout = {k: v for k, v in arguments.items() if k == "layout"}
        found = recognize(resolved) if not layout else None
        format_name = found.name if found else "tsv"
        named = found.arguments if found else {"paths": str(resolved)}
        arguments = {**named, **arguments}
    else:
        arguments.setdefault(main_argument(format_name), path)
    source = formats.source(format_name, arguments)
    if isinstance(source, PreparedSource):
        return _open_prepared(source, split)
    chosen = split or own_split(arguments) or "train"
    about = formats.FORMATS[format_name].about
    return OpenedData(
        name=_short_name(path),
        format=f"{format_name}: {about}",
        split=chosen,
        splits=(chosen,),
        records=source.open(chosen),
        source=source,
        facts=tuple((name, value) for name, value in arguments.items()),
    )


def main_argument(format_name: str) -> str:
    """The argument of a format that a path stands for: its first required one.

    Raises:
      FormatError: no such format.
    """
    if format_name not in formats.FORMATS:
        formats.source(format_name, {})  # its message says which are near
    arguments = formats.FORMATS[format_name].arguments
    return next(name for name, one in arguments.items() if one.required)


def _short_name(path: str) -> str:
    name = pathlib.PurePath(path.replace("*", "")).name or "data"
    for ending in (
        ".gz",
        ".bz2",
        ".xz",
        ".zst",
        ".tsv",
        ".json",
        ".jsonl",
        ".tar",
        ".parquet",
        ".txt",
    ):
        name = name.removesuffix(ending)
    return name or "data"


def _open_scenes(name: str, split: str) -> OpenedData:
    preset = _SCENES_PRESETS[name]
    source = ScenesSplits(preset)
    return OpenedData(
        name=name,
        format="scenes: the embedded world, drawn when it is read",
        split=split,
        splits=_SCENES_SPLITS,
        records=source.open(split),
        source=source,
        facts=(("world", preset),),
        scenes_preset=preset,
        extra_fields=SCENES_FIELDS,
        extra_types=("scene",),
    )


def _open_prepared(source: PreparedSource, split: str | None) -> OpenedData:
    directory = locations.resolve(source.directory).rstrip("/")
    splits = tuple(source.splits())
    if not splits:
        raise UnknownFormatError(f"{directory} holds no prepared shards")
    chosen = split or ("train" if "train" in splits else splits[0])
    written = manifest.of_directory(directory)
    shards = len(source.splits().get(chosen, ()))
    facts = [("shards", f"{shards:,}"), ("splits", ", ".join(splits))]
    if written is None:
        facts.append(("manifest", "none: the preparation did not come to its end"))
    else:
        entry = written.get("splits", {}).get(chosen, {})
        facts += _manifest_facts(entry)
    return OpenedData(
        name=directory.rpartition("/")[2]
        if is_remote(directory)
        else pathlib.Path(directory).resolve().name,
        format="prepared: shards that ofa_jax.prepare wrote",
        split=chosen,
        splits=splits,
        records=source.open(chosen),
        source=source,
        facts=tuple(facts),
        manifest=written,
    )


def _manifest_facts(entry: Mapping) -> list[tuple[str, str]]:
    facts = []
    if origin := entry.get("source"):
        words = ", ".join(f"{key} {value}" for key, value in origin.items() if value)
        facts.append(("prepared from", words))
    if size := sum(shard.get("bytes", 0) for shard in entry.get("shards", ())):
        facts.append(
            ("on disk", f"{size / 1e9:,.2f} GB" if size > 1e9 else f"{size / 1e6:,.1f} MB")
        )
    if types := entry.get("kinds"):
        facts.append(("all kinds", ", ".join(f"{name} {n:,}" for name, n in types.items())))
    dropped = {reason: one["count"] for reason, one in entry.get("dropped", {}).items()}
    if dropped:
        words = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
        facts.append(("dropped", words))
    elif entry:
        facts.append(("dropped", "nothing"))
    return facts
