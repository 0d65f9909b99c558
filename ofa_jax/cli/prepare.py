"""The command line of `python -m ofa_jax.prepare`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence

from ofa_jax.cli import shell
from ofa_jax.data.preparation import manifest, splits
from ofa_jax.data.preparation.plan import TARGET_SHARD_BYTES
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.sources import formats
from ofa_jax.errors import Status

logger = logging.getLogger("ofa_jax")


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
    add("--out", metavar="DIRECTORY", help="where to write")
    add("--split", default="train", help="one split or several, separated by commas")
    add(
        "--verify", metavar="DIRECTORY", help="only compare a prepared directory with its checksums"
    )

    group = parser.add_argument_group("shards and processes")
    add = group.add_argument
    add("--num_shards", type=shell.whole, help="by default, as many as --shard_mb gives")
    default_mb = TARGET_SHARD_BYTES >> 20
    add("--shard_mb", type=shell.real, default=default_mb, help=f"size of a shard; {default_mb}")
    add("--limit", type=shell.whole, help="only the first so many records")
    add("--processes", type=shell.whole, default=splits.usable_cores(), help="all cores")
    add("--overwrite", action="store_true", help="remove what was made of other data or settings")
    add("--go_on", action="store_true", help="even where all of the first records are bad")
    add("--strict", action="store_true", help="stop at the first bad record")
    add("--engine", choices=("local", "beam"), default="local", help="beam: many machines")
    add("--beam_options", default="", help="Beam's own: '--runner=DataflowRunner --project=P'")

    group = parser.add_argument_group("what is stored, and what is dropped")
    shell.add_settings(group.add_argument, ConversionSettings)
    return parser


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
        dropped = _prepare(options, formats.read_arguments(words))
        if dropped is not None:
            say = f"{options.out}: every {dropped} example was dropped, see the manifest"
            print(f"error: {say}", file=sys.stderr)
        return Status.DONE if dropped is None else Status.SETTINGS

    return shell.run(run)


def _prepare(options: argparse.Namespace, arguments: Mapping[str, str]) -> str | None:
    names = [field.name for field in dataclasses.fields(ConversionSettings)]
    settings = ConversionSettings(**{name: getattr(options, name) for name in names})
    counts = {"num_shards": options.num_shards, "limit": options.limit}
    splits.check_counts(processes=options.processes, **counts)
    return splits.prepare_splits(
        formats.source(options.source, arguments),
        {"format": options.source, **arguments},
        [name.strip() for name in options.split.split(",")],
        options.out,
        settings=settings,
        processes=options.processes,
        beam_options=shlex.split(options.beam_options) if options.engine == "beam" else None,
        shard_bytes=int(options.shard_mb * (1 << 20)),
        strict=options.strict,
        overwrite=options.overwrite,
        go_on=options.go_on,
        **counts,
    )
