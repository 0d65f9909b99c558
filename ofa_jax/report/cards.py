"""HTML of held-out examples: one card each, and the section of a task around them.

A card says three things in the same places: the image, whether the answer is right (by word, icon,
frame and colour), and input, prediction and truth in words.
"""

from __future__ import annotations

import difflib
import html
import pathlib
import re
from collections.abc import Sequence

from PIL import Image

from ofa_jax.metrics.verdict import Verdict
from ofa_jax.report import labels
from ofa_jax.report.collect import ANSWERS, RunRecord, TaskScores
from ofa_jax.report.examples import (
    Judgement,
    Kind,
    Prediction,
    choose_rows,
    is_pictured,
    judge,
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
_TRUE_KEY = '<span class="key"><i class="solid"></i>true box</span>'
_PREDICTED_KEY = '<span class="key"><i class="dashed"></i>predicted box</span>'
_REGION_KEY = '<span class="key"><i class="solid"></i>the region that the input names</span>'
_WORDS_LEGEND = (
    '<span class="key"><del>word</del> predicted, not in the target</span>'
    '<span class="key"><ins>word</ins> in the target, not predicted</span>'
)
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
        return ""
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


def drawn_boxes(row: Prediction) -> list[DrawnBox]:
    """What to draw on the image of an example: every box and object that its row has.

    True objects that were not found are marked, where the scorer said which were ("found").
    """
    true, predicted = row.get("true_objects") or [], row.get("predicted_objects") or []
    found = row.get("found")
    drawn = []
    for index, item in enumerate(true):
        label = str(item["label"])
        if found is not None:
            label = "" if index in found else f"missed: {label}"
        drawn.append(DrawnBox(item["box"], False, label))
    drawn += [DrawnBox(item["box"], True, str(item["label"])) for item in predicted]
    if box := region_box(row):
        drawn.append(DrawnBox(box, False))
    if row.get("predicted_box") and not predicted:
        drawn.append(DrawnBox(row["predicted_box"], True))
    return drawn


def _legend(kind: Kind, rows: Sequence[Prediction]) -> str:
    """What the lines on the images, or the marks in the texts, stand for."""
    if kind is Kind.TEXT_INFILLING:
        keys = _WORDS_LEGEND
    elif kind is Kind.REGION:
        keys = _REGION_KEY
    else:
        boxes = [box.predicted for row in rows for box in drawn_boxes(row)]
        keys = (_TRUE_KEY if False in boxes else "") + (_PREDICTED_KEY if True in boxes else "")
    return f'<p class="legend">{keys}</p>' if keys else ""


def pictures_of(
    record: RunRecord, kind: Kind, row: Prediction
) -> list[tuple[str, Image.Image | None]]:
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
    return [("", draw_boxes(image, drawn_boxes(row), size) if image else None)]


def _picture(record: RunRecord, kind: Kind, row: Prediction) -> str:
    name = f"example {row.get('example_id', '')}"
    figures = [
        _figure(image, f"{name}, {caption.lower()}" if caption else name, caption)
        for caption, image in pictures_of(record, kind, row)
    ]
    if len(figures) < 2:
        return "".join(figures)
    columns = "four" if len(figures) > 2 else "four two"
    return f'<div class="{columns}">{"".join(figures)}</div>'


def _object_list(objects: Sequence[dict] | None) -> str:
    return text_html(", ".join(str(item["label"]) for item in objects or ()))


def _lines(kind: Kind, row: Prediction) -> list[tuple[str, str]]:
    """(name, HTML) of the lines below a picture."""
    lines = []
    predicted, target = str(row.get("prediction_text", "")), str(row.get("target_text", ""))
    references = [str(r) for r in row.get("references") or []]
    if kind in (Kind.GROUNDING, Kind.DETECTION):
        said = _object_list(row.get("predicted_objects")) or _box_text(row.get("predicted_box"))
        if not said:  # what the model said instead
            words = text_html(predicted)
            nothing = "no box" if kind is Kind.GROUNDING else "nothing"
            said = f"<q>{words}</q>" if words else f'<span class="muted">{nothing}</span>'
        lines.append(("Predicted", said))
        if row.get("true_box") is not None:  # free instructions have no truth
            lines.append(("True", _box_text(row["true_box"])))
        if row.get("true_objects") is not None:
            lines.append(("True", _object_list(row["true_objects"]) or "nothing"))
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
    if others := row.get("alternatives"):
        items = "".join(
            f"<li>{text_html(other['text']) or '—'} "
            f'<span class="muted">log-probability {other["log_probability"]:.2f}</span></li>'
            for other in others
        )
        lines.append(("Next best", f"<ul>{items}</ul>"))
    return lines


def card_html(
    record: RunRecord,
    kind: Kind,
    row: Prediction,
    judgement: Judgement,
    *,
    prompt: bool,
    pictured: bool,
) -> str:
    """One example as a card.

    Args:
      record: the run.
      kind: the task's kind.
      row: the prediction.
      judgement: of it.
      prompt: with its input text.
      pictured: other cards of the section have images, so a missing one needs a word.
    """
    verdict = judgement.verdict
    lines = "".join(f"<dt>{name}</dt><dd>{line}</dd>" for name, line in _lines(kind, row))
    text = row.get("input_text") if prompt else None
    asked = f'<p class="asked">{text_html(text)}</p>' if text else ""
    head = (
        f'<div class="verdict">{icon(verdict)}<span>{judgement.word}</span>'
        f'<span class="measure">{html.escape(judgement.measure)}</span></div>'
    )
    picture = _picture(record, kind, row)
    if not picture and pictured:
        picture = '<figure><div class="blank">image not kept</div></figure>'
    return (
        f'<article class="card {verdict or "none"}">{picture}'
        f'<div class="body">{head}{asked}<dl>{lines}</dl></div></article>'
    )


_COUNTED = ((Verdict.RIGHT, "correct"), (Verdict.PARTLY, "partly"), (Verdict.WRONG, "wrong"))


def _tally(verdicts: Sequence[Verdict]) -> str:
    """A bar of how many predictions are right, partly right and wrong, with the counts."""
    total = sum(map(bool, verdicts))
    parts, words = [], []
    for verdict, word in _COUNTED:
        if count := verdicts.count(verdict):
            parts.append(f'<i class="{verdict}" style="flex:{count}"></i>')
            words.append(
                f'<span class="{verdict}">{icon(verdict)}{count:,} {word}'
                f" ({100 * count / total:.0f}%)</span>"
            )
    if not parts:
        return ""
    if total < len(verdicts):
        words.append(f'<span class="muted">{len(verdicts) - total:,} not judged</span>')
    return f'<div class="tally"><div class="bar">{"".join(parts)}</div>{"".join(words)}</div>'


def _filter(anchor: str, shown: Sequence[Verdict], everything: Sequence[Verdict]) -> str:
    """Buttons that choose among the cards, and what is said where one of them leaves none."""

    def count(verdicts: Sequence[Verdict]) -> tuple[int, int]:
        right = verdicts.count(Verdict.RIGHT)
        return right, sum(map(bool, verdicts)) - right

    (right, wrong), all_counts = count(shown), count(everything)
    options = "".join(
        f'<label><input type="radio" name="{anchor}" class="show-{value}"{checked}>'
        f"<span>{word} ({number})</span></label>"
        for value, word, number, checked in (
            ("all", "All", len(shown), " checked"),
            ("right", "Correct", right, ""),
            ("wrong", "Not correct", wrong, ""),
        )
    )
    buttons = f'<div class="filter" role="group" aria-label="Which examples">{options}</div>'
    judged = f"{sum(all_counts):,} judged predictions"
    for name, word, here, total, said in (
        ("right", "correct", right, all_counts[0], f"None of the {judged} is correct."),
        ("wrong", "not correct", wrong, all_counts[1], f"All {judged} are correct."),
    ):
        if total:
            said = f"{total:,} of the {judged} are {word}, but none of the examples shown here."
        if not here:
            buttons += f'<p class="empty for-{name}">{said}</p>'
    return buttons


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
    judgements = [judge(kind, row) for row in rows]
    verdicts = [judgement.verdict for judgement in judgements]
    chosen = choose_rows(rows, limit)
    shown = [rows[i] for i in chosen]
    graded = any(verdicts[i] for i in chosen)
    how = ""
    if graded and len({verdicts[i] for i in chosen}) > 1:
        how = ", correct and not correct in turn"
    elif not graded and any(row.get("score") is not None for row in shown):
        how = ", from the best to the worst"
    note = f"{kind.value.capitalize()}. {len(chosen)} of {len(rows):,} shown{how}."
    choice = _filter(anchor, [verdicts[i] for i in chosen], verdicts) if graded else ""
    prompts = {str(rows[i].get("input_text") or "") for i in chosen}
    common = len(prompts) == 1 and len(chosen) > 1
    asked = ""
    if common and (text := text_html(prompts.pop())):
        asked = f'<p class="common">Input of all examples: <q>{text}</q></p>'
    pictured = any(map(is_pictured, shown))
    cards = "".join(
        card_html(record, kind, rows[i], judgements[i], prompt=not common, pictured=pictured)
        for i in chosen
    )
    return (
        f'<section id="{anchor}" class="task">{head}{_tally(verdicts)}'
        f'<div class="bar-line"><p class="note">{note}</p>{choice}</div>'
        f"{asked}{_legend(kind, shown)}"
        f'<div class="grid {_GRIDS.get(kind, "")}">{cards}</div></section>'
    )
