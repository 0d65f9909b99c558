"""One HTML page of an inspection, in the style of the report of a run; no external request."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from ofa_jax.inspection.opening import OpenedData
from ofa_jax.inspection.sheet import Tile
from ofa_jax.inspection.summary import entries, share, spread
from ofa_jax.inspection.survey import TEXTS, Survey
from ofa_jax.inspection.tokens import Piece, TaskView, TokenExample
from ofa_jax.report.cards import text_html
from ofa_jax.report.labels import task_labels
from ofa_jax.report.pictures import DrawnBox, data_uri, draw_boxes
from ofa_jax.report.plots import PanelGroup, panel_svg
from ofa_jax.report.style import CSS

_MORE_CSS = """
.facts .wide{grid-column:1/-1}
.facts .wide dd{font-weight:400}
td.cell{white-space:normal;text-align:left;max-width:420px;overflow-wrap:anywhere}
td.cell.short{white-space:nowrap}
.grid.examples{grid-template-columns:repeat(auto-fill,minmax(min(250px,100%),1fr))}
td.name{font-family:var(--mono);font-size:13px}
table.left td,table.left th{text-align:left}
.example{display:grid;grid-template-columns:190px minmax(0,1fr);gap:18px;padding:16px 0;
border-top:1px solid var(--line)}
.example:first-of-type{border-top:0}
.example.wordy{grid-template-columns:minmax(0,1fr)}
.example figure img{display:block;width:100%;height:auto;border-radius:8px;
box-shadow:0 0 0 1px var(--line)}
.example figcaption{font-size:12px;color:var(--muted);margin-top:5px;overflow-wrap:anywhere}
.example h4{margin:0 0 6px;font-size:13px;color:var(--muted);font-weight:600}
.example h4+.tokens{margin-bottom:14px}
.tokens{display:flex;flex-wrap:wrap;gap:4px}
.token{border:1px solid var(--line);border-radius:6px;padding:2px 6px 3px;background:#fff;
font:13px/1.3 var(--mono);text-align:center;white-space:pre;min-width:26px}
.token small{display:block;font-size:10.5px;color:var(--muted)}
.token.special{background:var(--bg);color:var(--muted)}
.token.bin{background:var(--accent-soft);border-color:#c6d5fb}
.token.code{background:#f2ecfb;border-color:#dccdf3}
.token.mask{background:var(--ink);color:#fff}.token.mask small{color:#c6cdd8}
.token.untrained{border-style:dashed;opacity:.55}
.token.more{border:0;background:none;color:var(--muted);font-family:var(--sans)}
.space{color:#aab3c0}
.keys .token{display:inline-block;padding:0 5px;margin-right:5px;font-size:11.5px}
code{white-space:pre-wrap;font:13px var(--mono);background:var(--bg);padding:1px 6px;
border-radius:5px}
"""
# Sequences longer than this lose their middle.
_MOST_TOKENS = 64
_KEPT_END = 8
_PICTURE_SIDE = 320
# Facts of more characters get a line of their own.
_LONG_FACT = 36
# Cells of at most so many characters stay on one line.
_SHORT_CELL = 20


def _section(anchor: str, title: str, body: str) -> str:
    return f'<section id="{anchor}"><h2>{html.escape(title)}</h2>{body}</section>'


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1, wide: bool = True
) -> str:
    """A table of texts; cells are escaped here."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = ""
    for row in rows:
        cells = ""
        for place, cell in enumerate(row):
            css = "name" if place < names else "cell"
            css += " short" if css == "cell" and len(cell) <= _SHORT_CELL else ""
            cells += f'<td class="{css}">{html.escape(cell)}</td>'
        body += f"<tr>{cells}</tr>"
    table = f'<table class="left"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>' if wide else table


def _header(opened: OpenedData, found: Survey) -> str:
    read = len(found.sampled)
    seen = "all" if found.complete else f"{read:,}, evenly spread"
    facts = [("Split", opened.split), ("Records looked at", seen), *opened.facts]
    if found.data_sets:
        sets = ", ".join(f"{name} {count:,}" for name, count in found.data_sets.most_common(4))
        facts.append(("Data set field", sets))
    shown = "".join(
        f"<div{' class=wide' if len(value) > _LONG_FACT else ''}>"
        f"<dt>{html.escape(name[:1].upper() + name[1:])}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts
    )
    tiles = [(f"{found.total:,}", f"records of split {opened.split}")]
    tiles += [(share(count, read), f"of type {kind}") for kind, count in found.kinds.most_common(3)]
    if found.widths:
        size = f"{np.median(found.widths):.0f} × {np.median(found.heights):.0f}"
        tiles.append((size, "pixels, median picture"))
    if found.box_sides:
        tiles.append((f"{np.mean(found.boxes):.1f}", "boxes per record"))
    faults = f"{found.faulty:,}" if found.faults else "none"
    tiles.append((faults, "faults" if found.complete else "faults in the sample"))
    drawn = "".join(
        f'<div class="tile"><b>{html.escape(number)}</b><span>{html.escape(words)}</span></div>'
        for number, words in tiles
    )
    return (
        '<header class="hero" id="top"><p class="eyebrow">Data set</p>'
        f"<h1>{html.escape(opened.name)}</h1>"
        f'<p class="sub">{html.escape(opened.format)}</p>'
        f'<dl class="facts">{shown}</dl><div class="tiles">{drawn}</div></header>'
    )


def _fields_section(found: Survey) -> str:
    read = len(found.sampled)
    rows = [
        (
            one.name,
            share(one.present, read),
            ", ".join(kind for kind, _ in one.kinds.most_common() if kind != "empty") or "empty",
            entries(one),
            one.example,
            one.meaning,
        )
        for one in found.fields.values()
    ]
    note = '<p class="note">Entries: least .. median .. most of lists and arrays.</p>'
    header = ("Field", "Present", "Holds", "Entries", "For example", "Meaning")
    body = note + _table(header, rows)
    words = [
        (TEXTS[field], f"{len(lengths):,}", spread(lengths), f"{sum(lengths):,}")
        for field, lengths in found.words.items()
        if lengths
    ]
    if words:
        header = ("Text", "Number", "Words: least .. median .. most", "Words in all")
        body += "<h3>Lengths of texts</h3>" + _table(header, words)
    return _section("fields", "Fields", body)


def _charts_section(group: PanelGroup) -> str:
    figures = "".join(
        f'<figure><img src="{panel_svg(panel)}" alt="{html.escape(panel.description, quote=True)}">'
        "</figure>"
        for panel in group.panels
    )
    note = f'<p class="note">{html.escape(group.note)}</p>'
    return _section(group.name, group.title, f'{note}<div class="charts">{figures}</div>')


def _image_html(image: Image.Image, alt: str) -> str:
    picture = image.copy()
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
    return (
        f'<img src="{data_uri(picture)}" alt="{html.escape(alt, quote=True)}" '
        f'width="{picture.width}" height="{picture.height}" decoding="async">'
    )


def _card(one: Tile) -> str:
    alt = f"record {one.record}, {one.image_id}"
    if one.picture is not None:
        figure = f"<figure>{_image_html(one.picture, alt)}</figure>"
    elif one.trouble:
        figure = f'<figure><div class="blank">{html.escape(one.trouble)}</div></figure>'
    else:
        figure = ""
    lines = "".join(
        f"<dt>{html.escape(words.name)}</dt><dd>{text_html(words.text)}</dd>" for words in one.words
    )
    size = f"{one.size[0]} × {one.size[1]}" if one.size else ""
    notes = [one.kind, size, f"{one.hidden_boxes} more boxes" if one.hidden_boxes else ""]
    under = html.escape(" · ".join(note for note in notes if note))
    return (
        f'<article class="card">{figure}<div class="body none"><div class="verdict">'
        f'<span class="measure">{one.record:,}</span><small>{html.escape(one.image_id)}</small>'
        f'</div><p class="asked">{under}</p><dl>{lines}</dl></div></article>'
    )


def _examples_section(tiles: Sequence[Tile], found: Survey) -> str:
    css = "grid examples" if any(one.picture is not None for one in tiles) else "grid text"
    note = f'<p class="note">{len(tiles)} of {found.total:,} records, evenly spread.</p>'
    cards = "".join(map(_card, tiles))
    return _section("examples", "Examples", f'{note}<div class="{css}">{cards}</div>')


def _visible(text: str) -> str:
    """Token text with its spaces marked, so that leading ones can be seen."""
    return html.escape(text).replace(" ", '<span class="space">·</span>').replace("\n", "↵")


def _token(one: Piece) -> str:
    css = ["token"]
    if one.text in ("<s>", "</s>", "<pad>"):
        css.append("special")
    elif one.text.startswith("<bin_"):
        css.append("bin")
    elif one.text.startswith("<code_"):
        css.append("code")
    elif one.text == "<mask>":
        css.append("mask")
    if not one.trained:
        css.append("untrained")
    shown = one.text.strip("<>") if css[-1] in ("bin", "code", "mask") else one.text
    return f'<span class="{" ".join(css)}">{_visible(shown)}<small>{one.token_id}</small></span>'


def _tokens(found: Sequence[Piece]) -> str:
    if len(found) <= _MOST_TOKENS:
        return f'<div class="tokens">{"".join(map(_token, found))}</div>'
    start = found[: _MOST_TOKENS - _KEPT_END]
    cut = len(found) - _MOST_TOKENS
    middle = f'<span class="token more">… {cut:,} more …</span>'
    shown = "".join(map(_token, start)) + middle + "".join(map(_token, found[-_KEPT_END:]))
    return f'<div class="tokens">{shown}</div>'


def _example(one: TokenExample) -> str:
    figure = ""
    if one.image is not None:
        regions = [DrawnBox(box.tolist(), False) for box in one.regions[:12]]
        height, width = one.image.shape[:2]
        picture = draw_boxes(Image.fromarray(one.image), regions, (width, height))
        caption = f"record {one.record}, {one.image_id}: {width} × {height} as the model reads it"
        figure = (
            f"<figure>{_image_html(picture, caption)}<figcaption>{html.escape(caption)}"
            "</figcaption></figure>"
        )
    place = "" if figure else f" · record {one.record}, {html.escape(one.image_id)}"
    weight = f", loss weight {one.weight:g}" if one.weight != 1 else ""
    return (
        f'<div class="example{"" if figure else " wordy"}">{figure}<div>'
        f"<h4>Source, {len(one.inputs)} tokens{place}</h4>{_tokens(one.inputs)}"
        f"<h4>Target, {len(one.targets)} tokens{weight}</h4>{_tokens(one.targets)}</div></div>"
    )


def _task_section(view: TaskView, anchor: str) -> str:
    failed = view.tried - len(view.examples)
    notice = ""
    if failed:
        notice = (
            f'<p class="empty">{failed} of {view.tried} records could not be read: '
            f"{html.escape(view.refusal[:400])}</p>"
        )
    body = (
        f'<p class="common"><code>{html.escape(view.task.instructions[0].text)}</code></p>{notice}'
        + "".join(map(_example, view.examples))
    )
    return f'<section id="{anchor}" class="task"><header><h2>{html.escape(view.task.name)}</h2>' + (
        f"<p class='score muted'>{html.escape(view.task.family.replace('_', ' '))}</p></header>"
        f"{body}</section>"
    )


def _tokens_intro(views: Sequence[TaskView], notice: str) -> str:
    matching = sum(view.matches for view in views)
    words = (
        f'<p class="note">{matching} of {len(views)} tasks can read these records. Below is what '
        "each would feed to the model in training: every token with its id. Ids are those of this "
        "library (pad 0, bos 1); released checkpoints have 0 and 1 the other way round. "
        "A dot is a space.</p>"
    )
    keys = (
        '<div class="keys"><span><span class="token bin">bin</span>position of a box</span>'
        '<span><span class="token code">code</span>image code</span>'
        '<span><span class="token mask">mask</span>hidden words</span>'
        '<span><span class="token untrained">word</span>not in the loss</span></div>'
    )
    rows = [(view.task.name, view.refusal) for view in views if not view.matches]
    others = ""
    if rows:
        table = _table(("Task", "Why not"), rows)
        others = (
            f"<details><summary>Tasks that cannot read these records</summary>{table}</details>"
        )
    body = words + keys + others if views else ""
    if notice:
        body += f'<p class="empty">{html.escape(notice)}</p>'
    return _section("tokens", "Token ids", body)


def _faults_section(found: Survey) -> str:
    if not found.faults:
        return ""
    parts = ""
    for fault in found.faults.values():
        items = "".join(f"<li>{html.escape(message)}</li>" for message in fault.examples)
        parts += f"<h3>{html.escape(fault.what)}: {fault.count:,}</h3><ul>{items}</ul>"
    note = (
        '<p class="note">ofa_jax.prepare drops such records and lists them in its manifest. The '
        "first of each kind:</p>"
    )
    return _section("faults", "Faults", note + parts)


def page_html(
    opened: OpenedData,
    found: Survey,
    groups: Sequence[PanelGroup],
    tiles: Sequence[Tile],
    views: Sequence[TaskView],
    notice: str = "",
) -> str:
    """The whole page.

    Args:
      opened: the split.
      found: its survey.
      groups: charts; those without panels are left out.
      tiles: examples.
      views: tasks over the records.
      notice: why there are no token ids, or what else to know about them.

    Returns:
      HTML without any external reference.
    """
    groups = [group for group in groups if group.panels]
    matching = [view for view in views if view.matches]
    anchors = [f"task-{number}" for number in range(len(matching))]
    body = [
        _header(opened, found),
        _faults_section(found),
        _fields_section(found),
        *map(_charts_section, groups),
        _examples_section(tiles, found) if tiles else "",
        _tokens_intro(views, notice),
        *(_task_section(view, anchor) for view, anchor in zip(matching, anchors)),
    ]
    links = [("top", "Overview")]
    links += [("faults", "Faults")] if found.faults else []
    links += [("fields", "Fields"), *((group.name, group.title) for group in groups)]
    links += [("examples", "Examples"), ("tokens", "Token ids")]
    general = "".join(f'<a href="#{anchor}"><span>{name}</span></a>' for anchor, name in links)
    names = task_labels(view.task.name for view in matching)
    tasks = "".join(
        f'<a href="#{anchor}"><span>{html.escape(names[view.task.name])}</span></a>'
        for view, anchor in zip(matching, anchors)
    )
    tasks = f"<b>Tasks</b>{tasks}" if tasks else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(opened.name)}: data set</title><style>{CSS}{_MORE_CSS}</style>"
        f'</head><body><div class="shell"><nav aria-label="Contents"><b>Data</b>{general}{tasks}'
        f"</nav><main>{''.join(body)}<footer>Made by ofa_jax.inspect. The charts and a sheet of "
        "the examples also lie beside this page.</footer></main></div></body></html>\n"
    )
