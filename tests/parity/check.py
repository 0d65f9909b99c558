"""Checks our model against a folder of official numbers: `python tests/parity/check.py DIR`.

DIR has the format of the oracle fixtures. One row per case: largest differences of encoder output
and logits, relative differences of loss and gradient norms, whether greedy tokens and hypotheses
of the generator are equal. The last line is `parity: OK` or `parity: FAIL (...)`; the exit status
is 0 or 1.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import numpy as np

from ofa_jax.decoding.generate import generate
from ofa_jax.vocab import swap_official_ids
from tests.decoding.test_generation_fixture import config_of, constraint_of
from tests.parity import tolerances
from tests.parity.comparison import (
    Comparison,
    Run,
    compare_forward,
    compare_gradients,
    compare_greedy,
)
from tests.parity.fixture import Fixture

COLUMNS = ("case", "encoder", "logits", "loss", "gradients", "greedy", "beams", "seconds")
SKIPPABLE = ("gradients", "greedy", "beams")


def compare_beams(run: Run, settings: dict) -> Comparison:
    """Hypotheses of every setting of a case: tokens identical, scores within tolerance.

    Args:
      run: our model on the case.
      settings: setting name to hypotheses, or to a dict with constraint and hypotheses.
    """
    result = Comparison(run.case.name)
    for name, entry in settings.items():
        constraint = None if isinstance(entry, list) else constraint_of(entry)
        found = generate(
            run.model, run.variables, run.batch, config_of(name), constraint=constraint
        )
        wrong, worst = 0, 0.0
        for b, expected in enumerate(entry if isinstance(entry, list) else entry["hyps"]):
            lengths = np.asarray(found.lengths[b])
            ours = [
                swap_official_ids(np.asarray(found.tokens[b, g, : lengths[g]])).tolist()
                for g in range(int((lengths > 0).sum()))
            ]
            wrong += int(ours != [hypothesis["tokens"] for hypothesis in expected])
            for hypothesis, score in zip(expected, np.asarray(found.scores[b]), strict=False):
                worst = max(worst, abs(float(score) - hypothesis["score"]))
        result.add(f"{name} hypotheses", float(wrong), 0.0)
        result.add(f"{name} scores", worst, tolerances.BEAM_SCORE)
    return result


def _cell(differences: dict[str, float], *quantities: str) -> str:
    values = [differences[quantity] for quantity in quantities if quantity in differences]
    return f"{max(values):.1e}" if values else "-"


def check_case(fixture: Fixture, name: str, skip: set[str]) -> tuple[list[str], list[str]]:
    """Runs one case.

    Args:
      fixture: the folder.
      name: the case.
      skip: of `SKIPPABLE`, what not to run.

    Returns:
      The row of the table, and one line per failure.
    """
    started = time.perf_counter()
    run = Run(fixture.case(name))
    forward = compare_forward(run, fixture.vocab_subset())
    failures = forward.failures()
    cells = [_cell(forward.differences, quantity) for quantity in ("encoder", "logits", "loss")]

    statistics = (fixture.optional_json("grad_stats.json") or {}).get(name)
    if statistics is None or "gradients" in skip:
        cells.append("-")
    else:
        gradients = compare_gradients(run, statistics)
        failures += gradients.failures()
        norms = [q for q in gradients.differences if q.startswith("gradient norm")]
        cells.append(_cell(gradients.differences, *norms))

    if not run.case.has("greedy16") or "greedy" in skip:
        cells.append("-")
    else:
        greedy = compare_greedy(run)
        failures += greedy.failures()
        cells.append("differ" if greedy.failures() else "equal")

    settings = (fixture.optional_json("generation.json") or {}).get(name)
    if settings is None or "beams" in skip:
        cells.append("-")
    else:
        beams = compare_beams(run, settings)
        failures += beams.failures()
        cells.append("differ" if beams.failures() else f"equal ({len(settings)})")
    return [name, *cells, f"{time.perf_counter() - started:.0f}"], failures


def main(arguments: list[str] | None = None) -> int:
    """Checks a folder and prints the table.

    Args:
      arguments: the command line, without the program's name.

    Returns:
      The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="fixture folder with a config.json")
    parser.add_argument("--cases", nargs="*", help="only these cases")
    parser.add_argument("--skip", nargs="*", default=[], choices=SKIPPABLE)
    options = parser.parse_args(arguments)
    try:
        fixture = Fixture(options.folder)
    except FileNotFoundError as error:
        parser.error(str(error))
    names = fixture.case_names()
    unknown = set(options.cases or ()) - set(names)
    if unknown or not names:
        parser.error(f"no case {sorted(unknown)} in {options.folder}; there are {names}")
    names = options.cases or names
    widths = [max(map(len, [*names, COLUMNS[0]])), *(max(len(c), 9) for c in COLUMNS[1:])]

    def show(cells: list[str] | tuple[str, ...]) -> None:
        print("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)), flush=True)

    show(COLUMNS)
    failures = []
    for name in names:
        try:
            row, failed = check_case(fixture, name, set(options.skip))
        except Exception as error:  # A case that cannot run must not hide the others.
            row, failed = [name, *["error"] * 6, "-"], [f"{name}: {type(error).__name__}: {error}"]
        show(row)
        failures += failed
    for failure in failures:
        print(failure)
    print("parity: OK" if not failures else f"parity: FAIL ({len(failures)} of the comparisons)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
