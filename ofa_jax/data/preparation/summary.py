"""What a preparation says of itself in the log: at its start, of its result, and in training.

A loss is said when a run starts, not when it ends with a poor score.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ofa_jax.atomic import JsonObject
from ofa_jax.data.preparation import manifest
from ofa_jax.data.preparation.plan import ConversionPlan, Estimate
from ofa_jax.data.preparation.tally import NOTES
from ofa_jax.data.sources import locations
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.example import Records, Source
from ofa_jax.data.sources.left_out import LeftOut

logger = logging.getLogger("ofa_jax")

# Of this share of the data on, a loss is worth a word.
_SHARE = 0.25


def say_start(plan: ConversionPlan, estimate: Estimate) -> None:
    """Logs the size of the work, and what will be missing at its end."""
    logger.info(
        "%s: %d records into %d shards of about %.1f MB",
        plan.split,
        plan.num_records,
        plan.num_shards,
        estimate.stored_bytes / plan.num_shards / 1e6,
    )
    if plan.left_out.total:
        logger.warning("%s: left out of its files: %s", plan.split, plan.left_out)
    tally = estimate.tally
    bad = tally.dropped.total
    if 4 * bad >= tally.records > 0:
        first = next(iter(tally.dropped.named.values()))[0]["detail"]
        logger.warning(
            "%s: of %d records that were looked at, %s would be dropped, such as %s",
            plan.split,
            tally.records,
            _counts(bad, tally.dropped.counts),
            first,
        )


def say_result(plan: ConversionPlan, result: JsonObject, out: str, *, upright: bool) -> bool:
    """Logs what was kept, dropped, removed and left out.

    Args:
      plan: of the preparation.
      out: directory of the shards.
      upright: whether images were turned as EXIF says.

    Returns:
      Whether there is any example.
    """
    entry = result["splits"][plan.split]
    logger.info("%s: kept %s", plan.split, _counts(entry["examples"], entry["kinds"]))
    dropped = {reason: found["count"] for reason, found in entry["dropped"].items()}
    if dropped:
        logger.info("%s: dropped %s", plan.split, _counts(sum(dropped.values()), dropped))
    if entry["removed_boxes"]:
        removed = entry["removed_boxes"]
        logger.info("%s: removed boxes: %s", plan.split, _counts(sum(removed.values()), removed))
    for note, count in entry["notes"].items():
        remedy = ""
        if note == "rotation_tag" and not upright:
            remedy = "; boxes are taken as pixels of the stored image, --upright turns the images"
        logger.info("%s: %d %s%s", plan.split, count, NOTES[note], remedy)
    if entry["left_out"]:
        left_out = LeftOut.from_dict(entry["left_out"])
        logger.info("%s: left out of its files: %s", plan.split, left_out)
    logger.info("%s: see %s", plan.split, f"{out.rstrip('/')}/{manifest.NAME}")
    return entry["examples"] > 0


def loss_of(source: Source, records: Records, split: str) -> str:
    """A clause about a source of which much is missing.

    Args:
      source: prepared shards, whose manifest says what was dropped; or a source of annotations,
        which counts what it left out.
      records: the opened split.

    Returns:
      How much of how much is missing, and why; "" where little is, or where nobody counted.
    """
    if isinstance(source, PreparedSource):
        directory = locations.resolve(source.directory)
        entry = (manifest.of_directory(directory) or {}).get("splits", {}).get(split)
        if entry is None:
            return ""
        dropped = LeftOut.from_dict(entry["dropped"])
        left_out = LeftOut.from_dict(entry.get("left_out", {}))
        kept, where = entry["examples"], f"{directory}: "
    else:
        dropped, left_out = LeftOut(), getattr(records, "left_out", LeftOut())
        kept, where = len(records), ""
    if dropped.total + left_out.total < _SHARE * (kept + dropped.total + left_out.total):
        return ""
    parts = []
    if dropped.total:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.counts.items())
        of = f"{dropped.total:,} of {kept + dropped.total:,} records"
        parts.append(f"preparation dropped {of} ({reasons})")
    if left_out.total:
        parts.append(f"{left_out.total:,} items of its files are in no example: {left_out}")
    return where + "; ".join(parts)


def _counts(total: int, parts: Mapping[str, int]) -> str:
    named = ", ".join(f"{name} {count}" for name, count in parts.items())
    return f"{total} ({named})" if named else str(total)
