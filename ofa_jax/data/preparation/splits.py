"""Prepares splits of a source, one after the other: plan, convert, say what came of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ofa_jax.data.preparation import beam_pipeline, local_engine, summary
from ofa_jax.data.preparation.plan import ConversionPlan, Estimate, make_plan
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.progress import Progress

logger = logging.getLogger("ofa_jax")

_MOST = {"processes": 1024, "num_shards": 100_000, "limit": 10**12}


def check_counts(**counts: int | None) -> None:
    """Checks `processes`, `num_shards` and `limit`, of which None is left to the library.

    Raises:
      ValueError: one is out of bounds.
    """
    for name, value in counts.items():
        if value is not None and not 1 <= value <= _MOST[name]:
            raise ValueError(
                f"--{name} must be at least 1 and at most {_MOST[name]:,}, got {value}"
            )


def prepare_splits(
    source: Any,
    described: Mapping[str, str],
    names: Sequence[str],
    out: str,
    *,
    settings: ConversionSettings,
    processes: int,
    beam_options: Sequence[str] | None = None,
    **planning: Any,
) -> str | None:
    """Converts splits to shards in a directory; what an earlier call finished is left as it is.

    Args:
      source: of `ofa_jax.data.sources.formats`.
      described: its format and arguments, which the manifest keeps.
      names: of the splits.
      out: directory of the shards.
      settings: what is stored.
      processes: of this machine that convert.
      beam_options: Beam converts with these instead; None converts here.
      **planning: of `plan.make_plan`.

    Returns:
      The first split of which every example was dropped; None where all is well.

    Raises:
      ValueError: settings or a source that cannot work, or Beam is not installed.
    """
    if settings.image_tokenizer:
        _share_devices()
    if beam_options is not None:
        beam_pipeline.require_beam()
    for name in names:
        plan, estimate = make_plan(source, described, name, settings=settings, **planning)
        summary.say_start(plan, estimate)
        if beam_options is not None:
            result = beam_pipeline.prepare(plan, estimate, out, options=list(beam_options))
        else:
            result = _convert_here(plan, estimate, out, processes)
        if not summary.say_result(plan, result, out, upright=settings.upright):
            return plan.split
    return None


def usable_cores() -> int:
    """Cores that this process may use."""
    # macOS cannot bind a process to some of its cores, and does not tell of any.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _share_devices() -> None:
    """Lets the processes, which load a network each, share an accelerator and what they compile.

    JAX reads these variables when it is imported, which is later, and by an image tokenizer only.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    cache = os.path.expanduser("~/.cache/ofa_jax/compiled")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)


def _convert_here(
    plan: ConversionPlan, estimate: Estimate, out: str, processes: int
) -> dict[str, object]:
    progress = Progress(plan.split, plan.num_records, unit="record", interval=10.0)

    def show(records: int, examples: int) -> None:
        progress.update(records, f"{records - examples} dropped")

    try:
        result = local_engine.prepare(plan, estimate, out, processes=processes, progress=show)
    finally:
        progress.close()
    if progress.rate:
        logger.info("%s: %.1f records/s", plan.split, progress.rate)
    return result
