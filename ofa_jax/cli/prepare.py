"""The command line of `python -m ofa_jax.prepare`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ofa_jax.cli import shell
from ofa_jax.data.ops.image import TRUNCATED_IMAGES
from ofa_jax.data.preparation import beam_pipeline, local_engine, manifest
from ofa_jax.data.preparation.plan import TARGET_SHARD_BYTES, Estimate, Plan, make_plan
from ofa_jax.data.preparation.settings import (
    BAD_BOX_TREATMENTS,
    CMYK_TREATMENTS,
    CODE_PARTS,
    ConversionSettings,
)
from ofa_jax.data.preparation.tally import NOTES
from ofa_jax.data.sources import formats
from ofa_jax.data.sources.left_out import LeftOut
from ofa_jax.errors import Status

logger = logging.getLogger("ofa_jax")

_LOG_SECONDS = 10.0


class PreparationProgress:
    """A bar with ETA on a terminal, one line per interval elsewhere.

    Attributes:
      rate: records per second of this run so far.
    """

    def __init__(self, total: int, label: str, interval: float = _LOG_SECONDS):
        self._total = total
        self._label = label
        self._interval = interval
        self._started = self._logged = time.monotonic()
        self._first: int | None = None
        self.rate = 0.0
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit="record", smoothing=0.1)

    def __call__(self, records: int, examples: int) -> None:
        """Shows how far the preparation is.

        Args:
          records: records done.
          examples: examples kept of them.
        """
        if self._first is None:
            # What earlier runs did is no work of this one.
            self._first = records
            self._started = time.monotonic()
            if records:
                logger.info("%s: going on after %d records", self._label, records)
        now = time.monotonic()
        self.rate = (records - self._first) / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{records - examples} dropped", refresh=False)
            self._bar.update(records - self._bar.n)
        elif now - self._logged >= self._interval:
            self._logged = now
            remaining = "?"
            if self.rate > 0:
                remaining = tqdm.format_interval((self._total - records) / self.rate)
            logger.info(
                "%s: %d/%d records, %d dropped, %.0f records/s, ETA %s",
                self._label,
                records,
                self._total,
                records - examples,
                self.rate,
                remaining,
            )

    def close(self) -> None:
        """Leaves the finished bar on the terminal."""
        if self._bar is not None:
            self._bar.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.prepare",
        description="Converts a data set to ArrayRecord shards for training. Giving the same "
        "command again after it was stopped goes on where it was.",
        epilog="Formats and their arguments:\n\n" + formats.manual(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--source", metavar="FORMAT", help="format of the data set, see below")
    add("--out", metavar="FOLDER", help="where to write")
    add("--split", default="train", help="one split or several, separated by commas")
    add("--verify", metavar="FOLDER", help="only compare a prepared folder with its checksums")

    group = parser.add_argument_group("shards and processes")
    add = group.add_argument
    add("--num_shards", type=shell.whole, help="by default, as many as --shard_mb gives")
    default_mb = TARGET_SHARD_BYTES >> 20
    add("--shard_mb", type=shell.real, default=default_mb, help=f"size of a shard; {default_mb}")
    add("--limit", type=shell.whole, help="only the first so many records")
    add("--processes", type=shell.whole, default=_cores(), help="all cores")
    add("--overwrite", action="store_true", help="remove what was made of other data or settings")
    add("--go_on", action="store_true", help="even where all of the first records are bad")
    add("--strict", action="store_true", help="stop at the first bad record")
    add("--engine", choices=("local", "beam"), default="local", help="beam: many machines")
    add("--beam_options", default="", help="Beam's own: '--runner=DataflowRunner --project=P'")

    group = parser.add_argument_group("what is stored")
    add = group.add_argument
    defaults = ConversionSettings()
    add(
        "--resize_short_side",
        type=shell.whole,
        metavar="PIXELS",
        help="of pictures that are larger",
    )
    add(
        "--jpeg_quality",
        type=shell.whole,
        default=defaults.jpeg_quality,
        help="of pictures made smaller",
    )
    add("--upright", action="store_true", help="turn pictures as EXIF says; boxes are upright")
    add("--image_tokenizer", metavar="NAME", help="last.ckpt, codebook.npz or module:function")
    add(
        "--code_size",
        type=shell.whole,
        default=defaults.code_size,
        metavar="PIXELS",
        help="of the square",
    )
    add("--code_part", choices=CODE_PARTS, default=defaults.code_part, help="what codes are of")

    group = parser.add_argument_group("what is dropped")
    add = group.add_argument
    add("--min_side", type=shell.whole, default=defaults.min_side, metavar="PIXELS")
    add("--max_side", type=shell.whole, default=defaults.max_side, metavar="PIXELS")
    add("--max_pixels", type=shell.whole, default=defaults.max_pixels, metavar="PIXELS")
    add("--max_aspect", type=shell.real, metavar="RATIO", help="long side over short side")
    add("--truncated_images", choices=TRUNCATED_IMAGES, default=defaults.truncated_images)
    add("--cmyk", choices=CMYK_TREATMENTS, default=defaults.cmyk, help="pictures for printing")
    add("--bad_boxes", choices=BAD_BOX_TREATMENTS, default=defaults.bad_boxes)
    add("--min_box_side", type=shell.real, default=defaults.min_box_side, metavar="PIXELS")
    add("--box_tolerance", type=shell.real, default=defaults.box_tolerance, metavar="PIXELS")
    add("--clip_boxes", action="store_true", help="cut boxes to the picture instead")
    add("--min_words", type=shell.whole, default=defaults.min_words, help="of captions and texts")
    add("--max_words", type=shell.whole, default=defaults.max_words, help="of all but plain texts")
    add("--max_text_words", type=shell.whole, help="of plain texts")
    return parser


def _cores() -> int:
    """Cores that this process may use."""
    # macOS cannot bind a process to some of its cores, and does not tell of any.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_prepare(arguments: Sequence[str]) -> int:
    """Prepares the splits of one data set.

    Args:
      arguments: command line without the program name.

    Returns:
      Exit status, see `shell.run`.
    """
    shell.set_up_log()
    options, words = _parser().parse_known_args(arguments)

    def run() -> int:
        if options.verify:
            count = manifest.verify(options.verify)
            logger.info("%s: all %d shards are as the manifest says", options.verify, count)
            return Status.DONE
        for name in ("source", "out"):
            if getattr(options, name) is None:
                raise ValueError(f"--{name} is needed; --help lists the formats of sources")
        return _prepare(options, formats.read_arguments(words))

    return shell.run(run)


def _prepare(options: argparse.Namespace, arguments: Mapping[str, str]) -> int:
    bounds = {"processes": 1024, "num_shards": 100_000, "limit": 10**12}
    for name, most in bounds.items():
        if not 1 <= (1 if (value := getattr(options, name)) is None else value) <= most:
            raise ValueError(f"--{name} must be at least 1 and at most {most:,}, got {value}")
    names = [field.name for field in dataclasses.fields(ConversionSettings)]
    settings = ConversionSettings(**{name: getattr(options, name) for name in names})
    if settings.image_tokenizer:
        _share_devices()
    source = formats.source(options.source, arguments)
    engine: Callable[..., dict[str, Any]] = local_engine.prepare
    if options.engine == "beam":
        beam_pipeline.require_beam()
        engine = beam_pipeline.prepare
    for split in (name.strip() for name in options.split.split(",")):
        plan, estimate = make_plan(
            source,
            {"format": options.source, **arguments},
            split,
            settings=settings,
            num_shards=options.num_shards,
            shard_bytes=int(options.shard_mb * (1 << 20)),
            limit=options.limit,
            strict=options.strict,
            overwrite=options.overwrite,
            go_on=options.go_on,
        )
        if status := _run(engine, plan, estimate, options):
            return status
    return Status.DONE


def _share_devices() -> None:
    """Lets the processes, which load a network each, share an accelerator and what they compile.

    JAX reads these variables when it is imported, which is later, and by an image tokenizer only.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    cache = os.path.expanduser("~/.cache/ofa_jax/compiled")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)


def _run(
    engine: Callable[..., dict[str, Any]],
    plan: Plan,
    estimate: Estimate,
    options: argparse.Namespace,
) -> int:
    logger.info(
        "%s: %d records into %d shards of about %.1f MB",
        plan.split,
        plan.num_records,
        plan.num_shards,
        estimate.stored_bytes / plan.num_shards / 1e6,
    )
    _warn(plan, estimate)
    if engine is beam_pipeline.prepare:
        result = engine(plan, estimate, options.out, options=shlex.split(options.beam_options))
    else:
        progress = PreparationProgress(plan.num_records, plan.split)
        try:
            result = engine(
                plan, estimate, options.out, processes=options.processes, progress=progress
            )
        finally:
            progress.close()
        if progress.rate:
            logger.info("%s: %.1f records/s", plan.split, progress.rate)
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
        if note == "rotation_tag" and not options.upright:
            remedy = "; boxes are taken as pixels of the stored image, --upright turns the images"
        logger.info("%s: %d %s%s", plan.split, count, NOTES[note], remedy)
    if entry["left_out"]:
        left_out = LeftOut.from_dict(entry["left_out"])
        logger.info("%s: left out of its files: %s", plan.split, left_out)
    logger.info("%s: see %s", plan.split, f"{options.out.rstrip('/')}/{manifest.NAME}")
    if entry["examples"]:
        return Status.DONE
    say = f"{options.out}: every {plan.split} example was dropped, see the manifest"
    print(f"error: {say}", file=sys.stderr)
    return Status.SETTINGS


def _warn(plan: Plan, estimate: Estimate) -> None:
    """Says at the start what will be missing at the end."""
    if plan.left_out.total:
        logger.warning("%s: left out of its files: %s", plan.split, plan.left_out)
    tally = estimate.tally
    bad = sum(tally.dropped.values())
    if 4 * bad >= tally.records > 0:
        first = next(iter(tally.named.values()))[0]["detail"]
        logger.warning(
            "%s: of %d records that were looked at, %s would be dropped, such as %s",
            plan.split,
            tally.records,
            _counts(bad, tally.dropped),
            first,
        )


def _counts(total: int, parts: Mapping[str, int]) -> str:
    named = ", ".join(f"{name} {count}" for name, count in parts.items())
    return f"{total} ({named})" if named else str(total)
