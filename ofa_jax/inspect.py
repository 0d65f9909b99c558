"""`python -m ofa_jax.inspect PATH`: what is in a data set, and what tasks make of it.

Prints a summary and writes a directory with a page (`index.html`), histograms and a sheet of
examples. PATH is a file or directory, raw or prepared, or `scenes`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ofa_jax.cli import shell


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.inspect",
        description="Shows what is in a data set: fields, counts, lengths, sizes, examples, and "
        "the token ids that tasks make of it.",
        epilog="Where the format cannot be told from the path, give --source and its arguments, "
        "the same as for ofa_jax.prepare; --formats lists them.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("path", nargs="?", help="file or directory of data, or scenes, scenes_small, scenes_base")
    add("--source", metavar="FORMAT", help="format of the data; told from PATH if left out")
    add("--formats", action="store_true", help="list all formats and their arguments, and stop")
    add("--split", help="split to look at (default: train, or the first)")
    add(
        "--out",
        metavar="DIRECTORY",
        default="inspection",
        help="directory to write (default: %(default)s)",
    )
    add(
        "--limit",
        type=shell.whole,
        default=1000,
        help="most records to read (default: %(default)s)",
    )
    add("--all", action="store_true", help="read all records")
    add(
        "--examples",
        type=shell.whole,
        default=16,
        help="records on the sheet (default: %(default)s)",
    )
    add(
        "--token_examples",
        type=shell.whole,
        default=3,
        help="records per task (default: %(default)s)",
    )
    add("--image_size", type=shell.whole, help="pixels per side of the model input (default: 384)")
    add("--vocab_dir", help="directory of the vocabulary (default: OFA_VOCAB_DIR)")
    add(
        "--data_dir",
        help="directory with negative_sample (default: OFA_DATA_DIR, or around PATH); for a format "
        "with an argument of this name, such as tfds, that argument",
    )
    add("--tasks", default="", help="tasks or mixtures to try, separated by commas")
    add("--module", default="", help="modules that register them, separated by commas")
    add(
        "--seed", type=shell.whole, default=0, help="seed of the preparation (default: %(default)s)"
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _parser()
    options, others = parser.parse_known_args(argv)
    from ofa_jax.data.sources import formats

    if options.formats:
        print(formats.manual())
        return 0
    if options.path is None:
        parser.error("give the PATH of a data set, or scenes")

    def run() -> None:
        # Here, so that an extra that is not installed is one line.
        from ofa_jax.inspection import build, opening

        arguments = formats.read_arguments(others)
        named = formats.FORMATS.get(options.source)
        if options.data_dir and named and "data_dir" in named.arguments:
            arguments["data_dir"], options.data_dir = options.data_dir, None
        settings = build.Options(
            limit=None if options.all else options.limit,
            examples=options.examples,
            token_examples=options.token_examples,
            image_size=options.image_size,
            vocab_dir=options.vocab_dir,
            data_dir=options.data_dir,
            tasks=_names(options.tasks),
            modules=_names(options.module),
            seed=options.seed,
        )
        opened = opening.open_data(
            options.path,
            format_name=options.source,
            arguments=arguments,
            split=options.split,
        )
        if build.has_vocabulary(opened, settings):
            shell.set_up_process()
        done = build.inspect_data(opened, options.out, settings)
        print(done.text)
        print()
        for path in done.files:
            print(path)

    return shell.run(run)


if __name__ == "__main__":
    sys.exit(main())
