"""The report's page: header, scoreboard, splits, curves, examples, all numbers, configuration.

Gathers what the template `run.html` shows; numbers come from `tables`, charts from `plots`,
examples from `cards`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ofa_jax.progress import format_duration
from ofa_jax.report import cards, labels, rendering, tables
from ofa_jax.report.collect import ANSWERS, EVALUATION, TRAINING, RunRecord, TaskScores
from ofa_jax.report.composition import composition
from ofa_jax.report.plots import PanelGroup

Charts = tuple[PanelGroup, Sequence[str]]

# Keys of the run's information that the header shows, with their headings; the rest goes into
# the table of settings. Where several keys are given, the first that exists is taken.
_FACTS = (
    ("Date", ("date", "finished", "started")),
    ("Model", ("model", "model_size", "size")),
    ("Parameters", ("num_parameters", "parameters", "params")),
    ("Steps", ("steps", "step", "train_steps")),
    ("Wall time", ("wall_seconds", "wall_time", "seconds")),
    ("Hardware", ("hardware", "device", "devices")),
)

_EYEBROWS = {TRAINING: "Run report", EVALUATION: "Evaluation", ANSWERS: "Answers"}
_CONSTANT = "best answer without a model"


def _fact(record: RunRecord, keys: Sequence[str]) -> tuple[str, object] | None:
    for key in keys:
        value = record.info.get(key)
        if value not in (None, ""):
            return key, value
    return None


def _fact_text(heading: str, value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if heading == "Wall time":
            return format_duration(value)
        return labels.format_count(value)
    if heading == "Date":
        # To the minute, without the zone.
        return str(value).replace("T", " ")[:16]
    return labels.format_setting(value)


def _headlines(record: RunRecord) -> list[tuple[str, str]]:
    """(number, words) of what to know first."""
    tiles = []
    scored = [task for task in record.tasks.values() if task.value is not None]
    gains = [task.gain for task in scored if task.gain is not None]
    if gains:
        above = sum(gain > 0 for gain in gains)
        tiles.append((f"{above} of {len(gains)}", "tasks above their baseline"))
    for word, bound in (("floor", "floor"), ("aim", "aim")):
        bounded = [task for task in scored if getattr(task, bound) is not None]
        if bounded:
            met = sum(task.value >= getattr(task, bound) for task in bounded)
            verb = "floors met" if word == "floor" else "aims reached"
            tiles.append((f"{met} of {len(bounded)}", verb))
    counted = sum(task.n or 0 for task in scored)
    if counted:
        tiles.append((f"{counted:,}", "held-out examples scored"))
    speed = record.series("examples_per_second")[1]
    if len(speed):
        middle = sorted(speed)[len(speed) // 2]
        tiles.append((labels.format_count(middle), "training examples per second"))
    return tiles


def _facts(record: RunRecord) -> list[tuple[str, str | None]]:
    """(heading, value or None where a training run does not say it)."""
    facts: list[tuple[str, str | None]] = []
    for heading, keys in _FACTS:
        if found := _fact(record, keys):
            facts.append((heading, _fact_text(heading, found[1])))
        elif record.stage == TRAINING:
            facts.append((heading, None))
    return facts


def _board_row(task: TaskScores, value: float, title: str, anchor: str) -> dict[str, object]:
    """A task on the scoreboard: a bar, and marks on it."""
    metric = str(task.primary)
    marks = [
        (css, name, mark)
        for css, name, mark in (
            ("", _CONSTANT, task.baseline),
            (" floor", "floor", task.floor),
            (" aim", "aim", task.aim),
        )
        if mark is not None
    ]
    full = 1.0
    if not labels.is_share(metric):
        full = 1.15 * max(value, *(mark for *_, mark in marks), 1e-9)

    def place(number: float) -> str:
        return f"{100 * min(max(number / full, 0.0), 1.0):.2f}%"

    return {
        "anchor": anchor,
        "title": title,
        "metric": metric,
        "value": value,
        "below": task.gain is not None and task.gain <= 0,
        "width": place(value),
        "marks": [
            (css, place(mark), f"{name}: {labels.format_metric(metric, mark)}")
            for css, name, mark in marks
        ],
    }


def _keys(scored: Sequence[TaskScores]) -> list[tuple[str, str]]:
    """(class, words) of what the scoreboard shows besides scores."""
    keys = []
    if any(task.gain is not None and task.gain <= 0 for task in scored):
        keys.append(("fill below", "score not above the baseline"))
    if any(task.baseline is not None for task in scored):
        keys.append(("tick", _CONSTANT))
    for word in ("floor", "aim"):
        if any(getattr(task, word) is not None for task in scored):
            keys.append((f"tick {word}", word))
    return keys


def _settings(record: RunRecord) -> list[tuple[str, str]]:
    """What is known of the run besides the facts of the header."""
    used = {found[0] for _, keys in _FACTS if (found := _fact(record, keys))}
    used |= {"name", "description", "kind"}
    return [
        (key.replace("_", " "), labels.format_setting(value))
        for key, value in record.info.items()
        if key not in used
    ]


def page_html(record: RunRecord, charts: Sequence[Charts], limit: int) -> str:
    """The whole page as one self-contained HTML document.

    Args:
      charts: groups of curves, each with the data URIs of its panels.
      limit: largest number of examples per task.

    Returns:
      HTML without any external reference.
    """
    titles = labels.task_labels(record.task_names)
    anchors = {name: "task-" + re.sub(r"[^\w-]", "-", name) for name in record.task_names}
    charts = charts if record.stage == TRAINING else ()
    scored = {n: task for n, task in record.tasks.items() if task.value is not None}
    links = [("top", "Overview")]
    links += [("scores", "Scores")] if record.stage != ANSWERS else []
    links += [("splits", "Splits")] if record.splits else []
    unseen_pairs = composition(record, titles)
    links += [("composition", "Unseen pairs")] if unseen_pairs else []
    links += [(f"curves-{group.name}", group.title) for group, _ in charts]
    settings = _settings(record)
    return rendering.page(
        "report/run.html",
        record=record,
        description=record.info.get("description"),
        eyebrow=_EYEBROWS[record.stage],
        facts=_facts(record),
        headlines=_headlines(record),
        links=links,
        charts=charts,
        with_scores=record.stage != ANSWERS,
        board=[
            _board_row(task, task.value, titles[name], anchors[name])
            for name, task in scored.items()
            if task.value is not None
        ],
        keys=_keys(list(scored.values())),
        score_table=tables.score_table(record),
        split_table=tables.split_table(record),
        composition=unseen_pairs,
        all_metrics=tables.all_metrics_table(record),
        tasks=[
            cards.task_section(record, name, titles[name], anchors[name], limit)
            for name in record.task_names
        ],
        settings=settings,
        has_details=bool(record.tasks or settings or record.config_text),
    )
