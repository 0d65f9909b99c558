"""HTML of held-out examples: one card each, and the section of a task around them.

A card says three things in the same places: the picture, whether the answer is right (by word,
icon, frame and colour), and input, prediction and truth in words.
"""

from __future__ import annotations

import difflib
import html
import pathlib
import re
from collections.abc import Sequence

from PIL import Image

from ofa_jax.metrics.detection import match_objects
from ofa_jax.report import labels
from ofa_jax.report.collect import ANSWERS, RunRecord, TaskScores
from ofa_jax.report.examples import (
    IOU_THRESHOLD,
    Judgement,
    Kind,
    Row,
    Verdict,
    choose,
    judge_all,
    region_box,
    task_kind,
)
from ofa_jax.report.pictures import DrawnBox, data_uri, draw_boxes, enlarge, load_picture

_ICONS = {
    Verdict.RIGHT: '<path d="M4.5 8.5l2.4 2.4 4.8-5.2"/>',
    Verdict.WRONG: '<path d="M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6"/>',
    Verdict.PARTLY: '<path d="M4.6 8h6.8"/>',
}
_BINS = re.compile(r"(?:&lt;bin_(\d+)&gt;\s*)+")
_CODES = re.compile(r"(?:&lt;code_(\d+)&gt;\s*)+")
_BOX_LEGEND = (
    '<span class="key"><i class="solid"></i>true box</span>'
    '<span class="key"><i class="dashed"></i>predicted box</span>'
)
_REGION_LEGEND = '<span class="key"><i class="solid"></i>the region that the input names</span>'
_WORDS_LEGEND = (
    '<span class="key"><del>word</del> predicted, not in the target</span>'
    '<span class="key"><ins>word</ins> in the target, not predicted</span>'
)
_LEGENDS = {
    Kind.GROUNDING: _BOX_LEGEND,
    Kind.DETECTION: _BOX_LEGEND,
    Kind.REGION: _REGION_LEGEND,
    Kind.TEXT_INFILLING: _WORDS_LEGEND,
}
_GRIDS = {
    Kind.IMAGE_INFILLING: "wide",
    Kind.IMAGE_GENERATION: "text",
    Kind.TEXT_INFILLING: "text",
    Kind.CAPTIONING: "side",
}
# Fields of a row that name pictures made of codes, with their captions.
_CODE_PICTURES = {
    Kind.IMAGE_INFILLING: (
        ("image", "Original"),
        ("masked_image", "Input"),
        ("infilled_image", "Prediction"),
        ("target_image", "Codebook ceiling"),
    ),
    Kind.IMAGE_GENERATION: (
        ("generated_image", "Generated"),
        ("target_image", "Real, through the codebook"),
    ),
}


def icon(verdict: Verdict) -> str:
    """A small round sign: tick, cross or dash."""
    if verdict is Verdict.NONE:
        return ""
    return (
        f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="8"/>'
        f"{_ICONS[verdict]}</svg>"
    )


def text_html(text: object) -> str:
    """Escapes text; masks, runs of bins and runs of codes become small labels."""

    def region(match: re.Match) -> str:
        bins = " ".join(re.findall(r"\d+", match.group(0)))
        return f'<span class="pill" title="box bins">&#9633; {bins}</span> '

    def codes(match: re.Match) -> str:
        count = len(re.findall(r"code_", match.group(0)))
        return f'<span class="pill">{count} image codes</span> '

    escaped = html.escape(str(text)).strip()
    escaped = escaped.replace("&lt;mask&gt;", '<span class="pill mask">mask</span>')
    return _CODES.sub(codes, _BINS.sub(region, escaped))


def difference_html(predicted: str, target: str) -> tuple[str, str]:
    """Prediction and target with the words that differ marked.

    Returns:
      HTML of the prediction (extra words in <del>) and of the target (missed words in <ins>).
    """
    left, right = predicted.split(), target.split()
    matcher = difflib.SequenceMatcher(a=left, b=right, autojunk=False)
    said, wanted = [], []
    for operation, a0, a1, b0, b1 in matcher.get_opcodes():
        a, b = text_html(" ".join(left[a0:a1])), text_html(" ".join(right[b0:b1]))
        equal = operation == "equal"
        if a:
            said.append(a if equal else f"<del>{a}</del>")
        if b:
            wanted.append(b if equal else f"<ins>{b}</ins>")
    return " ".join(said), " ".join(wanted)


def _box_text(box: Sequence[float] | None) -> str:
    if box is None:
        return '<span class="muted">no box</span>'
    return f'<span class="pixels">{" ".join(f"{value:.1f}" for value in box)}</span>'


def _figure(image: Image.Image | None, alt: str, caption: str = "") -> str:
    if image is None:
        shown = '<div class="blank">picture missing</div>'
    else:
        shown = (
            f'<img src="{data_uri(image)}" alt="{html.escape(alt, quote=True)}" '
            f'width="{image.width}" height="{image.height}" decoding="async">'
        )
    return f"<figure>{shown}{f'<figcaption>{caption}</figcaption>' if caption else ''}</figure>"


def drawn_boxes(kind: Kind, row: Row) -> list[DrawnBox]:
    """What to draw on the picture of an example."""
    if kind is Kind.GROUNDING:
        pairs = ((row.get("true_box"), False), (row.get("predicted_box"), True))
        return [DrawnBox(box, predicted) for box, predicted in pairs if box]
    if kind is Kind.REGION:
        box = region_box(row)
        return [DrawnBox(box, False)] if box else []
    if kind is Kind.DETECTION:
        predicted, true = row.get("predicted_objects") or [], row.get("true_objects") or []
        found = {t for _, t, _ in match_objects(predicted, true, threshold=IOU_THRESHOLD)}
        drawn = [
            DrawnBox(item["box"], False, "" if index in found else f"missed: {item['label']}")
            for index, item in enumerate(true)
        ]
        return drawn + [DrawnBox(item["box"], True, str(item["label"])) for item in predicted]
    return []


def pictures_of(record: RunRecord, kind: Kind, row: Row) -> list[tuple[str, Image.Image | None]]:
    """The pictures of an example, drawn on.

    Returns:
      (caption, picture or None where its file is missing); four for image infilling, one or two
      for image generation, one for other tasks with a picture, none for text.
    """
    if kind in _CODE_PICTURES:
        pictures = []
        for key, caption in _CODE_PICTURES[kind]:
            path = row.get(key)
            if not path and kind is Kind.IMAGE_GENERATION:
                continue  # a caption without a real picture
            image = load_picture(record.path / str(path)) if path else None
            pictures.append((caption, enlarge(image, 256) if image else None))
        return pictures
    path = row.get("image")
    if not path:
        return []
    image = load_picture(record.path / str(path))
    size = row.get("image_size")
    return [("", draw_boxes(image, drawn_boxes(kind, row), size) if image else None)]


def _picture(record: RunRecord, kind: Kind, row: Row) -> str:
    name = f"example {row.get('example_id', '')}"
    figures = [
        _figure(image, f"{name}, {caption.lower()}" if caption else name, caption)
        for caption, image in pictures_of(record, kind, row)
    ]
    if len(figures) < 2:
        return "".join(figures)
    columns = "four" if len(figures) > 2 else "four two"
    return f'<div class="{columns}">{"".join(figures)}</div>'


def _object_list(objects: Sequence[dict]) -> str:
    return text_html(", ".join(str(item["label"]) for item in objects)) or "nothing"


def _lines(kind: Kind, row: Row) -> list[tuple[str, str]]:
    """(name, HTML) of the lines below a picture."""
    lines = []
    predicted, target = str(row.get("prediction_text", "")), str(row.get("target_text", ""))
    references = [str(r) for r in row.get("references") or []]
    if kind is Kind.GROUNDING:
        lines.append(("Predicted", _box_text(row.get("predicted_box"))))
        if row.get("true_box") is not None:  # free instructions have no truth
            lines.append(("True", _box_text(row["true_box"])))
    elif kind is Kind.DETECTION:
        lines.append(("Predicted", _object_list(row.get("predicted_objects") or [])))
        lines.append(("True", _object_list(row.get("true_objects") or [])))
    elif kind is Kind.TEXT_INFILLING:
        said, wanted = difference_html(predicted, target)
        lines += [("Predicted", said or "—"), ("Target", wanted)]
    elif kind not in _CODE_PICTURES:
        lines.append(("Predicted", f'<b class="said">{text_html(predicted) or "—"}</b>'))
        if kind is Kind.CAPTIONING and references:
            items = "".join(f"<li>{text_html(r)}</li>" for r in references[:5])
            lines.append(("References", f"<ul>{items}</ul>"))
        else:
            others = [r for r in dict.fromkeys(references) if r != target]
            also = f' <span class="muted">(also {text_html(", ".join(others[:5]))})</span>'
            if target or others:
                lines.append(("Target", text_html(target) + (also if others else "")))
    return lines


def card_html(
    record: RunRecord, kind: Kind, row: Row, judgement: Judgement, *, prompt: bool = True
) -> str:
    """One example as a card, with or without its input text."""
    verdict = judgement.verdict
    lines = "".join(f"<dt>{name}</dt><dd>{line}</dd>" for name, line in _lines(kind, row))
    text = row.get("input_text") if prompt else None
    asked = f'<p class="asked">{text_html(text)}</p>' if text else ""
    head = (
        f'<div class="verdict">{icon(verdict)}<span>{judgement.word}</span>'
        f'<span class="measure">{html.escape(judgement.measure)}</span></div>'
    )
    return (
        f'<article class="card {verdict.value}">{_picture(record, kind, row)}'
        f'<div class="body">{head}{asked}<dl>{lines}</dl></div></article>'
    )


def _tally(judgements: Sequence[Judgement]) -> str:
    """A bar of how many predictions are right, partly right and wrong, with the counts."""
    total = len(judgements)
    parts, words = [], []
    for verdict, word in (
        (Verdict.RIGHT, "correct"),
        (Verdict.PARTLY, "partly"),
        (Verdict.WRONG, "wrong"),
    ):
        count = sum(j.verdict is verdict for j in judgements)
        if count:
            parts.append(f'<i class="{verdict.value}" style="flex:{count}"></i>')
            words.append(
                f'<span class="{verdict.value}">{icon(verdict)}{count:,} {word}'
                f" ({100 * count / total:.0f}%)</span>"
            )
    if not parts:
        return ""
    return f'<div class="tally"><div class="bar">{"".join(parts)}</div>{"".join(words)}</div>'


def _filter(anchor: str) -> str:
    options = "".join(
        f'<label><input type="radio" name="{anchor}" class="show-{value}"{checked}>'
        f"<span>{word}</span></label>"
        for value, word, checked in (
            ("all", "All", " checked"),
            ("right", "Correct", ""),
            ("wrong", "Not correct", ""),
        )
    )
    return f'<div class="filter" role="group" aria-label="Which examples">{options}</div>'


def _score_line(scores: TaskScores | None) -> str:
    if scores is None or scores.primary is None:
        return '<p class="score muted">no score in metrics.json</p>'
    value = labels.format_metric(scores.primary, scores.value)
    extras = [
        f"{name} {labels.format_metric(scores.primary, baseline)}"
        for name, baseline in scores.baselines.items()
    ]
    if scores.n:
        extras.append(f"{scores.n:,} examples")
    more = f'<span class="muted">{" · ".join(extras)}</span>' if extras else ""
    metric = html.escape(labels.metric_label(scores.primary))
    return f'<p class="score"><b>{value}</b> <span>{metric}</span> {more}</p>'


def task_section(record: RunRecord, task: str, title: str, anchor: str, limit: int) -> str:
    """The section of a task: its score, a tally of all predictions, and chosen examples.

    Args:
      record: the run.
      task: task name.
      title: readable name.
      anchor: id of the section.
      limit: largest number of examples.

    Returns:
      HTML.
    """
    rows = record.predictions.get(task, ())
    score = "" if record.kind == ANSWERS else _score_line(record.tasks.get(task))
    head = f"<header><h2>{html.escape(title)}</h2>{score}</header>"
    if not rows:
        missing = pathlib.PurePosixPath("predictions") / f"{task}.jsonl"
        body = f'<p class="empty">No examples: {html.escape(str(missing))} is missing or empty.</p>'
        return f'<section id="{anchor}" class="task">{head}{body}</section>'
    kind = task_kind(task, rows)
    judgements = judge_all(kind, rows)
    chosen = choose(rows, judgements, limit)
    graded = any(judgements[i].verdict is not Verdict.NONE for i in chosen)
    how = ", correct and not correct in turn" if graded else ", from the best to the worst"
    how = "" if record.kind == ANSWERS else how
    note = f"{kind.value.capitalize()}. {len(chosen)} of {len(rows):,} shown{how}."
    legend = f'<p class="legend">{_LEGENDS[kind]}</p>' if kind in _LEGENDS else ""
    prompts = {str(rows[i].get("input_text") or "") for i in chosen}
    common = len(prompts) == 1 and len(chosen) > 1
    asked = ""
    if common and (text := text_html(prompts.pop())):
        asked = f'<p class="common">Input of all examples: <q>{text}</q></p>'
    cards = "".join(
        card_html(record, kind, rows[i], judgements[i], prompt=not common) for i in chosen
    )
    return (
        f'<section id="{anchor}" class="task">{head}{_tally(judgements)}'
        f'<div class="bar-line"><p class="note">{note}</p>{_filter(anchor) if graded else ""}</div>'
        f'{asked}{legend}<div class="grid {_GRIDS.get(kind, "")}">{cards}</div></section>'
    )
