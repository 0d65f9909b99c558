"""Checks our model against a directory of official numbers: `python tests/parity/check.py DIR`.

DIR has the format of the oracle fixtures; whatever it says about the model comes from its
`config.json`. One row per case: largest differences of encoder output, of what was stored of the
layers, and of logits; relative differences of loss and gradient norms; whether greedy tokens and
hypotheses of the generator are equal. The last line is `parity: OK` or `parity: FAIL (...)`; the
exit status is 0 or 1.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import sys
import time

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # Parity is a matter of float32 on a CPU.

from tests.parity.comparison import (
    Run,
    compare_beams,
    compare_forward,
    compare_gradients,
    compare_greedy,
    compare_parameters,
)
from tests.parity.fixture import Fixture
from tests.parity.programs import Room
from tests.parity.run import layer_stack_for

COLUMNS = (
    *("case", "encoder", "layers", "logits", "loss", "gradients", "greedy", "beams"),
    "seconds",
)
SKIPPABLE = ("gradients", "greedy", "beams")
# Quantities of a forward pass that the column "layers" sums up, by how they begin.
LAYERS = ("encoder state", "decoder state", "resnet map", "positions", "features")


def _cell(differences: dict[str, float], *quantities: str) -> str:
    values = [differences[quantity] for quantity in quantities if quantity in differences]
    return f"{max(values):.1e}" if values else "-"


def check_case(
    fixture: Fixture, name: str, room: Room, skip: set[str]
) -> tuple[list[str], list[str]]:
    """Runs one case.

    Args:
      fixture: the directory.
      name: the case.
      room: shapes that all cases of the directory share.
      skip: of `SKIPPABLE`, what not to run.

    Returns:
      The row of the table, and one line per failure.
    """
    started = time.perf_counter()
    statistics = (fixture.optional_json("grad_stats.json") or {}).get(name)
    if "gradients" in skip:
        statistics = None
    run = open_run(fixture, name, room=room, gradients=statistics is not None)
    forward = compare_forward(run, fixture.vocab_subset())
    failures = forward.failures()
    layers = [quantity for quantity in forward.differences if quantity.startswith(LAYERS)]
    cells = [
        _cell(forward.differences, "encoder"),
        _cell(forward.differences, *layers),
        _cell(forward.differences, "logits"),
        _cell(forward.differences, "loss"),
    ]
    if statistics is None:
        cells.append("-")
    else:
        complete = fixture.complete_gradients(name)
        # XLA's own convolutions round differently from processor to processor, which on some moves
        # single entries by more than the tolerance; products of matrices do not.
        if complete:
            run_of_gradients = open_run(fixture, name, room=room, gradients=True, conv="matmul")
        else:
            run_of_gradients = run
        gradients = compare_gradients(run_of_gradients, statistics, complete)
        failures += gradients.failures()
        norms = [q for q in gradients.differences if q.startswith("gradient norm")]
        cells.append(_cell(gradients.differences, *norms))

    if not run.case.has("greedy16") or "greedy" in skip:
        cells.append("-")
    else:
        greedy = compare_greedy(run)
        failures += greedy.failures()
        cells.append("differ" if greedy.failures() else "equal")

    settings = (fixture.optional_json("generation.json") or {}).get(name) or {}
    if not settings or "beams" in skip:
        cells.append("-")
    else:
        searched = [compare_beams(run, *item).failures() for item in settings.items()]
        failures += itertools.chain.from_iterable(searched)
        cells.append("differ" if any(searched) else f"equal ({len(settings)})")
    return [name, *cells, f"{time.perf_counter() - started:.0f}"], failures


def open_run(fixture: Fixture, name: str, **options: object) -> Run:
    """Our model on a case, with the layers in the layout that compiles in less time."""
    case = fixture.case(name)
    return Run(case, layer_stack=layer_stack_for(case.model_config()), **options)


def common_room(fixture: Fixture, names: list[str]) -> Room:
    """The shapes in which all readable cases have place."""
    rooms = []
    for name in names:
        try:
            rooms.append(open_run(fixture, name).own_room)
        except Exception:  # Reported when it is the case's turn.
            continue
    return Room.around(rooms) if rooms else Room(0, 0, 0, 0)


def main(arguments: list[str] | None = None) -> int:
    """Checks a directory and prints the table.

    Args:
      arguments: the command line, without the program's name.

    Returns:
      The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path, help="fixture directory with a config.json")
    parser.add_argument("--cases", nargs="*", help="only these cases")
    parser.add_argument("--skip", nargs="*", default=[], choices=SKIPPABLE)
    options = parser.parse_args(arguments)
    try:
        fixture = Fixture(options.directory)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    names = fixture.case_names()
    unknown = set(options.cases or ()) - set(names)
    if unknown or not names:
        parser.error(f"no case {sorted(unknown)} in {options.directory}; there are {names}")
    names = options.cases or names
    widths = [max(map(len, [*names, COLUMNS[0]])), *(max(len(c), 9) for c in COLUMNS[1:])]

    def show(cells: list[str] | tuple[str, ...]) -> None:
        print("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)), flush=True)

    show(COLUMNS)
    failures = []
    try:
        failures += compare_parameters(fixture).failures()
    except Exception as error:
        failures.append(f"config.json: {type(error).__name__}: {error}")
    room = common_room(fixture, names)
    for name in names:
        try:
            row, failed = check_case(fixture, name, room, set(options.skip))
        except Exception as error:  # A case that cannot run must not hide the others.
            row = [name, *["error"] * (len(COLUMNS) - 2), "-"]
            failed = [f"{name}: {type(error).__name__}: {error}"]
        show(row)
        failures += failed
    for failure in failures:
        print(failure)
    print("parity: OK" if not failures else f"parity: FAIL ({len(failures)} of the comparisons)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
