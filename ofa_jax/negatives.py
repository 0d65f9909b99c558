"""`python -m ofa_jax.negatives DATA_DIR`: collects wrong captions and answers from prepared data.

Image-text matching draws its wrong pairs from the directory `negative_sample` of `DATA_DIR`. The
official release has one; this makes one of the data sets that lie prepared in `DATA_DIR`.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from ofa_jax.cli import shell
from ofa_jax.errors import started


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.negatives", description="Writes DATA_DIR/negative_sample."
    )
    add = parser.add_argument
    add("data_dir", metavar="DATA_DIR", help="directory of prepared data sets")
    add(
        "--limit",
        type=shell.whole,
        default=100_000,
        help="records per data set (default: %(default)s)",
    )
    add("--split", default="train", help="split to read (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace a directory that is there")
    options = parser.parse_args(argv)
    return shell.run(lambda: _collect(options))


def _collect(options: argparse.Namespace) -> None:
    from ofa_jax.data.preparation import negative_sample
    from ofa_jax.data.sources.array_record import PreparedSource

    data_dir = pathlib.Path(options.data_dir)
    if not 1 <= options.limit <= 10**12:
        raise ValueError(f"--limit must be from 1 to {10**12:,}, got {options.limit}")
    if not data_dir.is_dir():
        raise ValueError(f"{data_dir} does not exist; it should hold prepared data sets")
    if (there := negative_sample.existing(data_dir)) and not options.overwrite:
        raise ValueError(
            f"{data_dir / negative_sample.DIRECTORY} has {', '.join(there)} already; give "
            "--overwrite to replace them"
        )
    found = negative_sample.NegativeSample()
    directories = list(negative_sample.prepared_directories(data_dir))
    if not directories:
        raise ValueError(f"{data_dir} holds no prepared data sets; run ofa_jax.prepare first")
    for directory in directories:
        source = PreparedSource(str(directory))
        if options.split in source.splits():
            taken = found.add_records(source.open(options.split), options.limit)
            print(f"{directory.name}: {taken:,} records")
    by_type = found.answers_by_type()
    if not (found.captions or found.objects or by_type):
        raise ValueError(f"the data sets in {data_dir} hold no captions, labels or answers")
    started()
    written = found.write(data_dir)
    print(
        f"{len(found.captions):,} captions, {len(found.objects):,} names of objects, "
        f"{sum(map(len, by_type.values())):,} answers of {len(by_type):,} types"
    )
    for path in written:
        print(path)


if __name__ == "__main__":
    sys.exit(main())
