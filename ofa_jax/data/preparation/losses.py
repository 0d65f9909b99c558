"""What a source has lost: said when a run starts, not when it ends with a poor score."""

from __future__ import annotations

from ofa_jax.data.preparation import manifest
from ofa_jax.data.sources import locations
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.example import Records, Source
from ofa_jax.data.sources.left_out import LeftOut

# Of this share of the data on, a loss is worth a word.
_SHARE = 0.25


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
        folder = locations.resolve(source.folder)
        entry = (manifest.of_folder(folder) or {}).get("splits", {}).get(split)
        if entry is None:
            return ""
        counts = {reason: one["count"] for reason, one in entry["dropped"].items()}
        left_out = LeftOut.from_dict(entry.get("left_out", {}))
        kept, where, dropped = entry["examples"], f"{folder}: ", sum(counts.values())
    else:
        counts, left_out = {}, getattr(records, "left_out", LeftOut())
        kept, where, dropped = len(records), "", 0
    if dropped + left_out.total < _SHARE * (kept + dropped + left_out.total):
        return ""
    parts = []
    if dropped:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
        parts.append(f"preparation dropped {dropped:,} of {kept + dropped:,} records ({reasons})")
    if left_out.total:
        parts.append(f"{left_out.total:,} items of its files are in no example: {left_out}")
    return where + "; ".join(parts)
