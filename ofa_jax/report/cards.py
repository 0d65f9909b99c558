"""Held-out examples for the page: one card each, and the section of a task around them.

A card says three things in the same places: the image, whether the answer is right (by word, icon,
frame and colour), and input, prediction and truth in words.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape
from PIL import Image

from ofa_jax.metrics.verdict import Verdict
from ofa_jax.report.collect import ANSWERS, RunRecord, TaskScores
from ofa_jax.report.examples import (
    Family,
    Judgement,
    Prediction,
    choose_rows,
    is_pictured,
    judge,
    region_box,
    task_family,
)
from ofa_jax.report.images import DrawnBox, draw_boxes, enlarge, load_image

_BINS = re.compile(r"(?:&lt;bin_(\d+)&gt;\s*)+")
_BIN = re.compile(r"<bin_(\d{1,6})>")
_BINS_IN_TEXT = re.compile(r"(?:<bin_\d+>\s*)+")
_CODES = re.compile(r"(?:&lt;code_(\d+)&gt;\s*)+")
_GRIDS = {
    Family.IMAGE_INFILLING: "wide",
    Family.IMAGE_GENERATION: "text",
    Family.RECONSTRUCTION: "text",
    Family.TEXT_INFILLING: "text",
    Family.CAPTIONING: "side",
}
# Fields of a row that name images made of codes, with their captions.
_CODE_IMAGES = {
    Family.IMAGE_INFILLING: (
        ("image", "Original"),
        ("masked_image", "Input"),
        ("infilled_image", "Prediction"),
        ("target_image", "Codebook ceiling"),
    ),
    Family.IMAGE_GENERATION: (
        ("generated_image", "Generated"),
        ("target_image", "Real, through the codebook"),
    ),
    Family.RECONSTRUCTION: (("image", "Original"), ("reconstructed_image", "Reconstruction")),
}


def text_html(text: object) -> Markup:
    """Escapes text; masks, runs of bins and runs of codes become small labels."""

    def region(match: re.Match) -> str:
        bins = re.findall(r"\d+", match.group(0))
        sides = "left, top, right, bottom in steps of the model's input" if len(bins) == 4 else ""
        return f'<span class="pill bins" title="{sides}">bins {" ".join(bins)}</span> '

    def codes(match: re.Match) -> str:
        count = len(re.findall(r"code_", match.group(0)))
        return f'<span class="pill">{count} image codes</span> '

    escaped = str(escape(str(text))).strip()
    escaped = escaped.replace("&lt;mask&gt;", '<span class="pill mask">mask</span>')
    return Markup(_CODES.sub(codes, _BINS.sub(region, escaped)))


def difference_html(predicted: str, target: str) -> tuple[Markup, Markup]:
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
            said.append(a if equal else Markup("<del>{}</del>").format(a))
        if b:
            wanted.append(b if equal else Markup("<ins>{}</ins>").format(b))
    return Markup(" ").join(said), Markup(" ").join(wanted)


def likeness(predicted: str, target: str) -> float:
    """How much two texts have in common by words, in 0..1."""
    return difflib.SequenceMatcher(a=predicted.split(), b=target.split(), autojunk=False).ratio()


def _box_text(box: Sequence[float] | None) -> Markup:
    if box is None:
        return Markup()
    return Markup('<span class="pixels">{}</span>').format(_sides(box))


def _sides(box: Sequence[float]) -> str:
    names = ("left", "top", "right", "bottom")
    return ", ".join(f"{name} {value:.1f}" for name, value in zip(names, box)) + " px"


def _seen(family: Family, row: Prediction) -> str:
    """What the image of an example shows, for readers who cannot see it."""
    parts = [_BINS_IN_TEXT.sub("", str(row.get("input_text") or "")).strip()]
    for name, fields in (("predicted", "predicted"), ("true", "true")):
        if objects := row.get(f"{fields}_objects"):
            parts.append(f"{name}: {', '.join(str(one['label']) for one in objects)}")
        elif box := row.get(f"{fields}_box"):
            name = "region" if family is Family.REGION else f"{name} box"
            parts.append(f"{name} {_sides(box)}")
    if family not in (Family.GROUNDING, Family.DETECTION, *_CODE_IMAGES):
        answer = str(row.get("prediction_text", "")).strip()
        parts.append(f"answered: {answer or 'nothing'}")
    return "; ".join(part for part in parts if part)


def _list(items: Iterable[Markup]) -> Markup:
    return Markup("<ul>{}</ul>").format(
        Markup().join(Markup("<li>{}</li>").format(i) for i in items)
    )


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


def _legend(family: Family, rows: Sequence[Prediction]) -> list[str]:
    """What the lines on the images, or the marks in the texts, stand for: keys of `cards.html`."""
    if family is Family.TEXT_INFILLING:
        return ["words"]
    if family is Family.REGION:
        return ["region"]
    boxes = {box.predicted for row in rows for box in drawn_boxes(row)}
    return ["true"] * (False in boxes) + ["predicted"] * (True in boxes)


def pictures_of(
    record: RunRecord, family: Family, row: Prediction
) -> list[tuple[str, Image.Image | None]]:
    """The images of an example, drawn on.

    Returns:
      (caption, image or None where its file is missing); four for image infilling, one or two
      for image generation, one for other tasks with an image, none for text.
    """
    if family in _CODE_IMAGES:
        pictures = []
        for key, caption in _CODE_IMAGES[family]:
            path = row.get(key)
            if not path and family is Family.IMAGE_GENERATION:
                continue  # a caption without a real image
            image = load_image(record.path / str(path)) if path else None
            pictures.append((caption, enlarge(image, 256) if image else None))
        return pictures
    path = row.get("image")
    if not path:
        return []
    image = load_image(record.path / str(path))
    size = row.get("image_size")
    return [("", draw_boxes(image, drawn_boxes(row), size) if image else None)]


def _object_list(objects: Sequence[dict] | None) -> Markup:
    return text_html(", ".join(str(item["label"]) for item in objects or ()))


def _lines(family: Family, row: Prediction) -> list[tuple[str, Markup | str]]:
    """(name, text or HTML) of the lines below an image."""
    lines: list[tuple[str, Markup | str]] = []
    predicted, target = str(row.get("prediction_text", "")), str(row.get("target_text", ""))
    references = [str(r) for r in row.get("references") or []]
    muted = Markup('<span class="muted">{}</span>')
    if family in (Family.GROUNDING, Family.DETECTION):
        said = _object_list(row.get("predicted_objects")) or _box_text(row.get("predicted_box"))
        if not said:  # what the model said instead
            words = text_html(predicted)
            nothing = "no box" if family is Family.GROUNDING else "nothing"
            said = Markup("<q>{}</q>").format(words) if words else muted.format(nothing)
        lines.append(("Predicted", said))
        if row.get("true_box") is not None:  # free instructions have no truth
            lines.append(("True", _box_text(row["true_box"])))
        if row.get("true_objects") is not None:
            lines.append(("True", _object_list(row["true_objects"]) or "nothing"))
    elif family is Family.TEXT_INFILLING:
        said, wanted = difference_html(predicted, target)
        lines += [("Predicted", said or "—"), ("Target", wanted)]
    elif family not in _CODE_IMAGES:
        said = Markup('<b class="said">{}</b>').format(text_html(predicted) or "—")
        lines.append(("Predicted", said))
        others = [r for r in dict.fromkeys(references) if r != target]
        if family is Family.CAPTIONING and references:
            lines.append(("References", _list(map(text_html, references[:5]))))
        elif target or others:
            also = Markup(" ") + muted.format(f"(also {', '.join(others[:5])})")
            lines.append(("Target", text_html(target) + (also if others else "")))
    if alternatives := row.get("alternatives"):
        items = []
        for other in alternatives:
            how = muted.format(f"log-probability {other['log_probability']:.2f}")
            items.append(Markup("{} {}").format(text_html(other["text"]) or "—", how))
        lines.append(("Next best", _list(items)))
    return lines


@dataclasses.dataclass(frozen=True)
class Card:
    """One example.

    Attributes:
      seen: what its images show, in words.
      judgement: of the prediction.
      pictures: of `pictures_of`.
      lacks_image: other cards of the section have images, so a missing one needs a word.
      asked: its input, "" where all examples have the same.
      lines: name and text or HTML of each line below.
    """

    seen: str
    judgement: Judgement
    pictures: Sequence[tuple[str, Image.Image | None]]
    lacks_image: bool
    asked: Markup | str
    lines: Sequence[tuple[str, Markup | str]]


@dataclasses.dataclass(frozen=True)
class TaskSection:
    """A task on the page: its score, a tally of all predictions, and chosen examples.

    Attributes:
      name: of the task.
      title: readable name.
      anchor: id of the section.
      with_score: whether the run is one that has scores.
      scores: of the task, where there are.
      total: number of predictions.
      counts: verdict, its word and how many, of those that occur.
      note: what is shown, and of how many.
      choices: value, word and number of the buttons that choose among judged cards.
      none_shown: button and what is said where it leaves no card.
      asked: the input of all examples, "" where it differs.
      legend: keys of what is drawn.
      bins: the largest number of a bin in the inputs shown; 0 where there is none.
      grid: class of the cards.
      cards: the examples.
    """

    name: str
    title: str
    anchor: str
    with_score: bool
    scores: TaskScores | None
    total: int = 0
    counts: Sequence[tuple[Verdict, str, int]] = ()
    note: str = ""
    choices: Sequence[tuple[str, str, int]] = ()
    none_shown: Sequence[tuple[str, str]] = ()
    asked: Markup | str = ""
    legend: Sequence[str] = ()
    bins: int = 0
    grid: str = ""
    cards: Sequence[Card] = ()

    @property
    def judged(self) -> int:
        """Predictions with a verdict."""
        return sum(count for *_, count in self.counts)


_COUNTED = ((Verdict.RIGHT, "correct"), (Verdict.PARTLY, "partly"), (Verdict.WRONG, "wrong"))


def _choices(
    shown: Sequence[Verdict], everything: Sequence[Verdict]
) -> tuple[list[tuple[str, str, int]], list[tuple[str, str]]]:
    """Buttons that choose among the cards, and what is said where one of them leaves none."""

    def count(verdicts: Sequence[Verdict]) -> tuple[int, int]:
        right = verdicts.count(Verdict.RIGHT)
        return right, sum(map(bool, verdicts)) - right

    (right, wrong), all_counts = count(shown), count(everything)
    judged = f"{sum(all_counts):,} judged predictions"
    none_shown = []
    for name, word, here, total, said in (
        ("right", "correct", right, all_counts[0], f"None of the {judged} is correct."),
        ("wrong", "not correct", wrong, all_counts[1], f"All {judged} are correct."),
    ):
        if total:
            said = f"{total:,} of the {judged} are {word}, but none of the examples shown here."
        if not here:
            none_shown.append((name, said))
    buttons = [
        ("all", "All", len(shown)),
        ("right", "Correct", right),
        ("wrong", "Not correct", wrong),
    ]
    return buttons, none_shown


def task_section(record: RunRecord, task: str, title: str, anchor: str, limit: int) -> TaskSection:
    """What the page shows of a task, with at most `limit` examples."""
    rows = record.predictions.get(task, ())
    scores = record.tasks.get(task)
    section = TaskSection(task, title, anchor, record.stage != ANSWERS, scores, len(rows))
    if not rows:
        return section
    family = task_family(task, rows)
    judgements = [judge(family, row) for row in rows]
    verdicts = [judgement.verdict for judgement in judgements]
    chosen = choose_rows(rows, limit)
    shown = [rows[i] for i in chosen]
    graded = any(verdicts[i] for i in chosen)
    how = ""
    if graded and len({verdicts[i] for i in chosen}) > 1:
        how = ", correct and not correct in turn"
    elif not graded and any(row.get("score") is not None for row in shown):
        how = ", from the best to the worst"
    buttons, none_shown = _choices([verdicts[i] for i in chosen], verdicts) if graded else ([], [])
    prompts = {str(row.get("input_text") or "") for row in shown}
    common = len(prompts) == 1 and len(chosen) > 1
    pictured = any(map(is_pictured, shown))
    cards = []
    for row, judgement in ((rows[i], judgements[i]) for i in chosen):
        pictures = pictures_of(record, family, row)
        cards.append(
            Card(
                _seen(family, row),
                judgement,
                pictures,
                pictured and not pictures,
                "" if common else text_html(row.get("input_text") or ""),
                _lines(family, row),
            )
        )
    return dataclasses.replace(
        section,
        counts=[(v, word, n) for v, word in _COUNTED if (n := verdicts.count(v))],
        note=f"{family.value.capitalize()}. {len(chosen)} of {len(rows):,} shown{how}.",
        choices=buttons,
        none_shown=none_shown,
        asked=text_html(prompts.pop()) if common else "",
        legend=_legend(family, shown),
        bins=max(
            (int(one) for row in rows for one in _BIN.findall(str(row.get("input_text") or ""))),
            default=0,
        ),
        grid=_GRIDS.get(family, ""),
        cards=cards,
    )
