"""The tables of the paper with the rows of whatever runs exist: `python -m ofa_jax.report tables`.

A run fills the columns of the tasks that it scored; everything else stays empty. The same runs
make the ablation table, which has no published numbers: mixtures with one task left out, on
the embedded worlds.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from ofa_jax.atomic import JsonObject
from ofa_jax.report import labels, rendering
from ofa_jax.report.collect import RunRecord, TaskScores, collect
from ofa_jax.report.published import Column, PublishedTable, published_tables
from ofa_jax.report.tables import Cell, Table

PAGE = "tables.html"
_WITHOUT = re.compile(r"(?P<world>\w+)_without_(?P<left_out>\w+)")
_WHOLE = re.compile(r"(?P<world>\w+)_quickstart")
# How a tuned run's settings show themselves: the fields of `models.Tuning` that are on.
_METHODS = {
    "prefix": ("encoder_prefix", "decoder_prefix"),
    "adapter": ("adapter_dim",),
    "LoRA": ("lora_rank",),
}
# All but biases is frozen.
_BITFIT = "expand|contract)/bias"

Scores = Mapping[str, Mapping[str, TaskScores]]


def find_runs(root: str | pathlib.Path = "runs") -> list[pathlib.Path]:
    """Directories below `root` that have scores, sorted."""
    return sorted(path.parent for path in pathlib.Path(root).glob("**/metrics.json"))


def configured_methods(settings: JsonObject) -> tuple[str, ...]:
    """Names of the parameter-efficient methods in the settings of a run (its `config.json`)."""
    parts = [settings.get(name) for name in ("model", "optimizer")]
    model, optimizer = (part if isinstance(part, Mapping) else {} for part in parts)
    tuning = model.get("tuning")
    on = {name for name, value in tuning.items() if value} if isinstance(tuning, Mapping) else set()
    found = [name for name, fields in _METHODS.items() if on & set(fields)]
    return (*found, *(["BitFit"] if _BITFIT in str(optimizer.get("frozen")) else []))


def tuning_methods(record: RunRecord) -> tuple[str, ...]:
    """Names of the parameter-efficient methods by which a run's model was trained.

    Args:
      record: of a training run, which has its configuration, or of an evaluation, which says it.
    """
    said = record.info.get("tuning")
    return tuple(said) if said is not None else configured_methods(record.settings)


def scores_by_split(record: RunRecord) -> dict[str, dict[str, TaskScores]]:
    """Scores of a run as split -> registered task -> scores.

    Runs name tasks by family where that is unique; a run of a single task knows its name.
    """
    groups = {str(record.info.get("split", "validation")): record.tasks, **record.splits}
    names = {name for tasks in groups.values() for name in tasks}
    single = str(record.info.get("mixture", "")) if len(names) == 1 else ""
    return {
        split: {single or name: scores for name, scores in tasks.items()}
        for split, tasks in groups.items()
    }


def published_table(published: PublishedTable, records: Sequence[RunRecord]) -> Table:
    """A table of the paper, then one row per run (and split) that has any of its numbers."""
    columns = list(zip(*published.rows.values(), strict=True))
    # As many decimals as the column has where it has most.
    decimals = [max(len(str(v or 0.0).partition(".")[2]) for v in column) for column in columns]
    rows: list[tuple[Cell, ...]] = [
        (Cell(name), *map(_cell, values, decimals)) for name, values in published.rows.items()
    ]
    for record in records:
        methods = tuning_methods(record)
        if bool(methods) == published.tuned:
            rows += _run_rows(published.columns, record, methods)
    heads = ("Model", *(column.head for column in published.columns))
    return Table(heads, tuple(rows), f"{published.note} † is a run of ours.".strip())


def _run_rows(
    columns: Sequence[Column], record: RunRecord, methods: Sequence[str]
) -> Iterable[tuple[Cell, ...]]:
    scores = scores_by_split(record)
    # Columns without a split take whatever split a row is about.
    for split in scores if any(not column.split for column in columns) else ("",):
        values = [_value(column, scores, column.split or split) for column in columns]
        own = [v for v, column in zip(values, columns) if not column.split or not split]
        if split and split != next(iter(scores)) and all(v is None for v in own):
            continue
        if any(value is not None for value in values):
            facts = [", ".join(methods)] if methods else []
            facts += [split] if split else []
            name = f"{record.name} †" + (f" ({', '.join(facts)})" if facts else "")
            yield (Cell(name, note=_model(record)), *map(_own_cell, values))


def _model(record: RunRecord) -> str:
    path = pathlib.PurePath(str(record.info.get("model", "")))
    return path.parent.name if path.name.startswith("checkpoint_") else path.name


def _value(column: Column, scores: Scores, split: str) -> float | None:
    task = scores.get(split, {}).get(column.task)
    value = None if task is None else task.metrics.get(column.metric)
    return None if value is None else value * column.scale


def _cell(value: float | None, decimals: int) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:.{decimals}f}", value)


def _own_cell(value: float | None) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:.2f}", value, strong=True)


def ablation_table(records: Sequence[RunRecord]) -> Table:
    """Runs of mixtures with a task left out beside the run of the whole mixture.

    Args:
      records: the runs; those of other mixtures are ignored. Differences are taken to the first
        whole run of the same world.
    """
    whole: dict[str, RunRecord] = {}
    chosen = []
    for record in records:
        mixture = str(record.info.get("mixture", ""))
        if match := _WHOLE.fullmatch(mixture):
            whole.setdefault(match["world"], record)
            chosen.append((record, match["world"], "nothing"))
        elif match := _WITHOUT.fullmatch(mixture):
            left_out = labels.task_labels([match["left_out"]])[match["left_out"]]
            chosen.append((record, match["world"], left_out))
    names = list(dict.fromkeys(name for record, *_ in chosen for name in record.tasks))
    heads = labels.task_labels(names)
    rows = []
    for record, world, left_out in chosen:
        cells = [Cell(f"{record.name} †"), Cell(left_out)]
        base = whole.get(world)
        for name in names:
            scores = record.tasks.get(name)
            value = scores.value if scores else None
            if scores is None or value is None:
                cells.append(Cell("–"))
                continue
            metric = str(scores.primary)
            before = base.tasks.get(name) if base is not None and base is not record else None
            note = ""
            if before is not None and before.value is not None:
                note = labels.format_difference(metric, value - before.value)
            cells.append(Cell(labels.format_metric(metric, value), value, note=note))
        rows.append(tuple(cells))
    return Table(
        ("Run", "Left out", *(heads[name] for name in names)),
        tuple(rows),
        "Embedded worlds; small: difference to the whole mixture.",
    )


def write_tables(
    run_dirs: Sequence[str | pathlib.Path], output: str | pathlib.Path
) -> pathlib.Path:
    """Writes every table as Markdown and CSV, and all of them on one page.

    Args:
      run_dirs: runs whose rows are added.
      output: directory, made where it does not exist.

    Returns:
      The page, `tables.html`; beside it `<table>.md` and `<table>.csv`.

    Raises:
      RecordError: a directory without readable scores.
    """
    records = [collect(path) for path in run_dirs]
    made = [(one.name, one.title, published_table(one, records)) for one in published_tables()]
    made.append(("ablations", "Ablations of the mixture", ablation_table(records)))
    directory = pathlib.Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    for name, title, table in made:
        (directory / f"{name}.md").write_text(
            f"# {title}\n\n{table.to_markdown()}", encoding="utf-8"
        )
        (directory / f"{name}.csv").write_text(table.to_csv(), encoding="utf-8")
    page = directory / PAGE
    html = rendering.page("report/tables.html", tables=made, runs=len(records))
    page.write_text(html, encoding="utf-8")
    return page
