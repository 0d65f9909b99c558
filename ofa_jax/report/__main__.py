"""Command line of the report: `python -m ofa_jax.report RUN_DIR`.

With --compare it prints one table of several runs instead, or writes a page with their curves.
`python -m ofa_jax.report tables` writes the tables of the paper with the rows of runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ofa_jax.cli import shell
from ofa_jax.report import DEFAULT_EXAMPLES


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return _tables(arguments[1:]) if arguments[:1] == ["tables"] else _report(arguments)


def _tables(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.report tables",
        description="Writes the tables of the OFA paper with the scores of runs.",
    )
    parser.add_argument(
        "run_dirs", nargs="*", metavar="RUN_DIR", help="runs (default: all below runs/)"
    )
    parser.add_argument(
        "--output", default="runs/tables", metavar="DIR", help="directory (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)

    def run() -> None:
        from ofa_jax.report import paper_tables

        runs = arguments.run_dirs or paper_tables.find_runs()
        print(paper_tables.write_tables(runs, arguments.output))

    return shell.run(run)


def _report(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.report", description="Writes RUN_DIR/report.html."
    )
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="directory of a run")
    parser.add_argument(
        "--examples",
        type=shell.whole,
        default=DEFAULT_EXAMPLES,
        metavar="N",
        help="most examples per task (default: %(default)s)",
    )
    parser.add_argument(
        "--compare",
        choices=("markdown", "csv", "html"),
        help="print a table of the runs' scores instead; html writes a page with their curves",
    )
    parser.add_argument(
        "--output",
        default="runs/comparison.html",
        metavar="FILE",
        help="page of --compare=html (default: %(default)s)",
    )
    parser.add_argument("--split", help="split that --compare looks at (default: main scores)")
    parser.add_argument("--reference", help="run name that --compare takes differences against")
    arguments = parser.parse_args(argv)

    def run() -> None:
        # Here, so that an extra that is not installed is one line.
        from ofa_jax.report import build, tables
        from ofa_jax.report.collect import collect

        if arguments.compare:
            records = [collect(path) for path in arguments.run_dirs]
            table = tables.runs_comparison(
                records, split=arguments.split, reference=arguments.reference
            )
            if arguments.compare == "html":
                from ofa_jax.report.comparison import write_comparison

                named = {record.name: record for record in records}
                print(write_comparison(named, table, arguments.output))
                return
            text = table.to_csv() if arguments.compare == "csv" else table.to_markdown()
            sys.stdout.write(text)
            return
        for path in arguments.run_dirs:
            print(build.build_report(path, examples=arguments.examples))

    return shell.run(run)


if __name__ == "__main__":
    sys.exit(main())
