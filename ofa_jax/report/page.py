"""The report's page: header, scoreboard, splits, curves, examples, all numbers, configuration.

Only assembles; numbers come from `tables`, charts from `plots`, examples from `cards`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from ofa_jax.progress import format_duration
from ofa_jax.report import labels, tables
from ofa_jax.report.cards import task_section
from ofa_jax.report.collect import ANSWERS, EVALUATION, TRAINING, RunRecord, TaskScores
from ofa_jax.report.plots import PanelGroup
from ofa_jax.report.style import CSS

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


def _header(record: RunRecord) -> str:
    facts = []
    for heading, keys in _FACTS:
        found = _fact(record, keys)
        if found is None and record.kind != TRAINING:
            continue
        text = _fact_text(heading, found[1]) if found else "not recorded"
        css = "" if found else ' class="muted"'
        facts.append(f"<div><dt>{heading}</dt><dd{css}>{html.escape(text)}</dd></div>")
    tiles = "".join(
        f'<div class="tile"><b>{number}</b><span>{words}</span></div>'
        for number, words in _headlines(record)
    )
    description = record.info.get("description")
    sub = f'<p class="sub">{html.escape(str(description))}</p>' if description else ""
    return (
        f'<header class="hero" id="top"><p class="eyebrow">{_EYEBROWS[record.kind]}</p>'
        f"<h1>{html.escape(record.name)}</h1>{sub}"
        f'<dl class="facts">{"".join(facts)}</dl>'
        f"{f'<div class=tiles>{tiles}</div>' if tiles else ''}</header>"
    )


def _board_row(task: TaskScores, title: str, anchor: str) -> str:
    metric, value = str(task.primary), task.value
    if value is None:
        return ""
    marks = [task.baseline, task.floor, task.aim]
    known = [value, *(m for m in marks if m is not None)]
    full = 1.0 if labels.is_share(metric) else 1.15 * max(*known, 1e-9)

    def place(number: float) -> str:
        return f"{100 * min(max(number / full, 0.0), 1.0):.2f}%"

    below = task.gain is not None and task.gain <= 0
    bar = f'<div class="fill{" below" if below else ""}" style="width:{place(value)}"></div>'
    for name, css, mark in (
        ("best answer without a model", "", task.baseline),
        ("floor", " floor", task.floor),
        ("aim", " aim", task.aim),
    ):
        if mark is not None:
            shown = f"{name}: {labels.format_metric(metric, mark)}"
            bar += f'<div class="tick{css}" style="left:{place(mark)}" title="{shown}"></div>'
    return (
        f'<a class="row" href="#{anchor}"><span class="name">{html.escape(title)}'
        f"<small>{html.escape(labels.metric_label(metric))}</small></span>"
        f'<div class="track">{bar}</div>'
        f'<span class="value">{labels.format_metric(metric, value)}</span></a>'
    )


def _scores_section(record: RunRecord, titles: dict[str, str], anchors: dict[str, str]) -> str:
    scored = [task for task in record.tasks.values() if task.value is not None]
    if not scored:
        return _section("scores", "Scores", '<p class="empty">metrics.json has no scores.</p>')
    rows = "".join(_board_row(task, titles[task.name], anchors[task.name]) for task in scored)
    keys = ['<span><i class="fill"></i>score on held-out examples</span>']
    if any(t.gain is not None and t.gain <= 0 for t in scored):
        keys.append('<span><i class="fill below"></i>score not above the baseline</span>')
    if any(t.baseline is not None for t in scored):
        keys.append('<span><i class="tick"></i>best answer without a model</span>')
    for word in ("floor", "aim"):
        if any(getattr(t, word) is not None for t in scored):
            keys.append(f'<span><i class="tick {word}"></i>{word}</span>')
    table = tables.score_table(record).to_html("words")
    return _section(
        "scores",
        "Scores",
        f'<div class="keys">{"".join(keys)}</div><div class="board">{rows}</div>'
        f"<h3>The same in numbers</h3>{table}",
    )


def _section(anchor: str, title: str, body: str) -> str:
    return f'<section id="{anchor}"><h2>{html.escape(title)}</h2>{body}</section>'


def _charts_section(group: PanelGroup, images: Sequence[str]) -> str:
    anchor = f"curves-{group.name}"
    if not images:
        return _section(anchor, group.title, '<p class="empty">metrics.jsonl has none.</p>')
    figures = "".join(
        f'<figure><img src="{image}" alt="{html.escape(panel.description, quote=True)}"></figure>'
        for panel, image in zip(group.panels, images)
    )
    note = f'<p class="note">{group.note}</p>' if group.note else ""
    return _section(anchor, group.title, f'{note}<div class="charts">{figures}</div>')


def _splits_section(record: RunRecord) -> str:
    table = tables.split_table(record)
    if table is None:
        return ""
    intro = (
        '<p class="note">The primary metric of each task on each split. Tinted cells are below '
        "(orange) or above (green) the first split.</p>"
    )
    return _section("splits", "Splits", intro + table.to_html())


def _details_section(record: RunRecord) -> str:
    used = {found[0] for _, keys in _FACTS if (found := _fact(record, keys))}
    used |= {"name", "description", "kind"}
    settings = "".join(
        f'<tr><th scope="row">{html.escape(key.replace("_", " "))}</th>'
        f"<td>{html.escape(labels.format_setting(value))}</td></tr>"
        for key, value in record.info.items()
        if key not in used
    )
    body = ""
    if record.tasks:
        every = tables.all_metrics_table(record).to_html("words")
        body += f"<details><summary>Every metric of every task</summary>{every}</details>"
    if settings:
        body += (
            "<details open><summary>Run information</summary>"
            f'<div class="scroll"><table class="words">{settings}</table></div></details>'
        )
    if record.config_text:
        body += (
            "<details><summary>Resolved configuration</summary>"
            f"<pre>{html.escape(record.config_text)}</pre></details>"
        )
    return _section("details", "Details", body) if body else ""


def _missing(record: RunRecord) -> str:
    if not record.notices:
        return ""
    items = "".join(f"<li>{html.escape(notice)}</li>" for notice in record.notices)
    return f'<div class="missing" role="note"><b>Not in this report</b><ul>{items}</ul></div>'


def _navigation(
    record: RunRecord,
    charts: Sequence[Charts],
    titles: dict[str, str],
    anchors: dict[str, str],
    has_details: bool,
) -> str:
    links = [("top", "Overview")]
    links += [("scores", "Scores")] if record.kind != ANSWERS else []
    links += [("splits", "Splits")] if record.splits else []
    links += [(f"curves-{group.name}", group.title) for group, _ in charts]
    general = "".join(f'<a href="#{a}"><span>{t}</span></a>' for a, t in links)
    per_task = ""
    for name in record.task_names:
        scores = record.tasks.get(name)
        value = labels.format_metric(str(scores.primary), scores.value) if scores else ""
        per_task += (
            f'<a href="#{anchors[name]}"><span>{html.escape(titles[name])}</span>'
            f"<span>{value}</span></a>"
        )
    more = '<b>More</b><a href="#details"><span>Details</span></a>' if has_details else ""
    return f'<nav aria-label="Contents"><b>Run</b>{general}<b>Examples</b>{per_task}{more}</nav>'


def page_html(record: RunRecord, charts: Sequence[Charts], limit: int) -> str:
    """The whole page as one self-contained HTML document.

    Args:
      record: the run.
      charts: groups of curves, each with the data URIs of its panels.
      limit: largest number of examples per task.

    Returns:
      HTML without any external reference.
    """
    titles = labels.task_labels(record.task_names)
    anchors = {name: "task-" + re.sub(r"[^\w-]", "-", name) for name in record.task_names}
    if record.kind != TRAINING:
        charts = ()
    details = _details_section(record)
    body = [
        _header(record),
        _missing(record),
        _scores_section(record, titles, anchors) if record.kind != ANSWERS else "",
        _splits_section(record),
        *(_charts_section(group, images) for group, images in charts),
        *(
            task_section(record, name, titles[name], anchors[name], limit)
            for name in record.task_names
        ),
        details,
    ]
    navigation = _navigation(record, charts, titles, anchors, bool(details))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(record.name)}: run report</title><style>{CSS}</style></head><body>"
        f'<div class="shell">{navigation}<main>{"".join(body)}'
        "<footer>Made by ofa_jax.report from the files of the run. The tables and the curves also "
        "lie beside this page in report/.</footer></main></div></body></html>\n"
    )
