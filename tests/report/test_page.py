"""The page as a whole: complete, self-contained, safe, and possible from any rest of a run."""

import html.parser
import json
import re
import shutil
import subprocess
import sys

import pytest

from ofa_jax.report import build, cards
from ofa_jax.report.__main__ import main
from ofa_jax.report.collect import collect

_VOID = {"meta", "img", "br", "input", "link", "circle", "path"}


class _Balance(html.parser.HTMLParser):
    """Checks that tags nest, and gathers what refers to somewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.references, self.ids, self.classes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in _VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
            if name == "class":
                self.classes.append(value)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag


def _parse(path):
    text = path.read_text(encoding="utf-8")
    parser = _Balance()
    parser.feed(text)
    assert parser.open == []
    return text, parser


@pytest.fixture(scope="module")
def page(run_dir):
    return _parse(build.build_report(run_dir, examples=8))


def test_page_is_self_contained(page):
    text, parser = page
    assert parser.references
    for reference in parser.references:
        assert reference.startswith(("data:image/", "#")), reference[:80]
    assert "<script" not in text
    assert not re.search(r"url\(|@import", text)
    assert len(text.encode()) < build.MAX_PAGE_BYTES


def test_links_lead_somewhere_and_ids_are_unique(page):
    _, parser = page
    links = {reference[1:] for reference in parser.references if reference.startswith("#")}
    assert links <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))


def test_header_and_sections(page):
    text, parser = page
    for words in ("scenes-tiny-cpu", "nano", "624,512", "4,800", "5 min 33 s", "2 CPU cores"):
        assert words in text
    for words in ("9 of 10", "tasks above their baseline", "Unseen style", "Training loss"):
        assert words in text
    assert sum(name.startswith("task-") for name in parser.ids) == 10
    assert "Not in this report" not in text


def test_right_and_wrong_are_told_apart_by_word_and_icon(page):
    text, parser = page
    cards_shown = [name for name in parser.classes if name.startswith("card ")]
    assert {"card right", "card wrong", "card partly", "card none"} <= set(cards_shown)
    # Two of the ten tasks have no verdicts (infilled images, CIDEr).
    assert cards_shown.count("card none") == 16
    assert text.count("True of the image") == text.count("False of the image") == 4
    assert text.count('<svg class="icon"') > 60


def _section(text, task):
    return text.split(f'<section id="task-{task}"')[1].split("</section>")[0]


def _write_rows(directory, task, rows):
    (directory / "predictions").mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"example_id": str(i), **row}) + "\n" for i, row in enumerate(rows))
    (directory / "predictions" / f"{task}.jsonl").write_text(lines)
    return _parse(build.build_report(directory))


@pytest.mark.parametrize(
    ("verdicts", "counts", "said"),
    [
        ("rrrr", (4, 4, 0), 'for-wrong">All 4 judged predictions are correct.'),
        ("ww", (2, 0, 2), 'for-right">None of the 2 judged predictions is correct.'),
        ("rw-", (3, 1, 1), None),
    ],
)
def test_the_filter_says_how_many_and_is_never_silently_empty(tmp_path, verdicts, counts, said):
    names = {"r": "right", "w": "wrong", "-": ""}
    rows = [{"prediction_text": "red", "verdict": names[v], "score": 0.0} for v in verdicts]
    text, parser = _write_rows(tmp_path, "vqa", rows)
    for word, number in zip(("All", "Correct", "Not correct"), counts):
        assert f"<span>{word} ({number})</span>" in text
    assert sum(name.startswith("empty for-") for name in parser.classes) == bool(said)
    assert said is None or said in text
    assert ("1 not judged" in text) == ("-" in verdicts)


def test_rows_of_older_files_are_shown_without_judgement(tmp_path):
    """Captions with references whose scores happen to be all 0: nothing is said to be false."""
    rows = [{"prediction_text": "a cat", "target_text": "a dog", "score": 0.0}] * 3
    text, parser = _write_rows(tmp_path, "caption", rows)
    shown = _section(text, "caption")
    assert [name for name in parser.classes if name.startswith("card")] == ["card none"] * 3
    for word in ("False of the image", "wrong", "tally", 'class="filter"'):
        assert word not in shown
    assert shown.count("score 0.00") == 3


def test_wrong_answers_are_shown_also_without_an_image(run_dir, tmp_path):
    image = next((run_dir / "examples" / "scenes_vqa").iterdir())
    (tmp_path / "examples").mkdir()
    shutil.copy(image, tmp_path / "examples" / "0.png")
    right = {"prediction_text": "red", "verdict": "right", "image": "examples/0.png"}
    text, _ = _write_rows(tmp_path, "vqa", [right] * 40 + [{"verdict": "wrong"}])
    assert _section(text, "vqa").count('<article class="card wrong">') == 1
    assert _section(text, "vqa").count("image not kept") == 1


def test_every_object_is_drawn():
    true = [{"box": [0, 0, 9, 9], "label": "cat"}, {"box": [20, 0, 29, 9], "label": "dog"}]
    predicted = [true[0], {"box": [1, 1, 5, 5], "label": "cow"}]
    row = {"predicted_objects": predicted, "true_objects": true, "found": [0]}
    drawn = [(tuple(box.box), box.predicted, box.label) for box in cards.drawn_boxes(row)]
    assert drawn == [
        ((0, 0, 9, 9), False, ""),
        ((20, 0, 29, 9), False, "missed: dog"),
        ((0, 0, 9, 9), True, "cat"),
        ((1, 1, 5, 5), True, "cow"),
    ]
    older = cards.drawn_boxes({key: row[key] for key in ("predicted_objects", "true_objects")})
    assert [box.label for box in older] == ["cat", "dog", "cat", "cow"], "nothing is called missed"


def test_answers_show_every_object_and_the_next_best(tmp_path):
    """The rows of `infer` over a directory: some answers are objects, some one box, some words."""
    (tmp_path / "metrics.json").write_text(json.dumps({"run": {"kind": "answers"}}))
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9]]
    objects = [{"box": box, "label": name} for box, name in zip(boxes, ("cat", "dog"))]
    other = {"text": "<bin_1> <bin_2> <bin_3> <bin_4> cow", "log_probability": -2.5}
    rows = [
        {"predicted_objects": objects, "predicted_box": boxes[0], "alternatives": [other]},
        {"predicted_box": boxes[1], "prediction_text": "<bin_1> <bin_2> <bin_3> <bin_4>"},
        {"prediction_text": "nothing to see"},
    ]
    text, _ = _write_rows(tmp_path, "answers", rows)
    shown = _section(text, "answers")
    for words in (
        "<dd>cat, dog</dd>",
        "left 20.0, top 0.0, right 29.0, bottom 9.0 px",
        "<q>nothing to see</q>",
        "-2.50",
    ):
        assert words in shown
    assert "predicted box" in shown
    assert "true box" not in shown
    assert "True</dt>" not in shown
    assert [len(cards.drawn_boxes(row)) for row in rows] == [2, 1, 0]


def test_files_beside_the_page(page, run_dir):
    names = {path.name for path in (run_dir / "report").iterdir()}
    assert names == {
        "loss.png", "scores.png", "speed.png", "examples.png",
        "scores.csv", "scores.md", "splits.csv",
    }  # fmt: skip


def test_texts_are_escaped(tmp_path):
    evil = '<script>alert("x")</script>'
    row = {"example_id": evil, "input_text": evil, "prediction_text": evil, "target_text": "a"}
    (tmp_path / "predictions").mkdir()
    lines = [json.dumps({**row, "references": [evil], "score": s}) for s in (0, 1)]
    (tmp_path / "predictions" / "a<b>.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "config.gin").write_text(evil)
    run = {"name": evil, "description": evil, evil: evil}
    scores = {"run": run, "tasks": {"a<b>": {evil: 0.5}}}
    (tmp_path / "metrics.json").write_text(json.dumps(scores))
    text, _ = _parse(build.build_report(tmp_path))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_empty_run_makes_a_page(tmp_path):
    text, _ = _parse(build.build_report(tmp_path))
    for words in ("metrics.json is missing", "metrics.jsonl is missing", "not recorded"):
        assert words in text


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("metrics.json",), "metrics.json is missing"),
        (("metrics.jsonl", "predictions"), "No examples: predictions/scenes_vqa.jsonl"),
        (("metrics.jsonl", "examples"), "image missing"),
    ],
)
def test_incomplete_run_makes_a_page(run_dir, tmp_path, missing, said):
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns(*missing, "report*"))
    text, parser = _parse(build.build_report(tmp_path / "run", examples=2))
    assert said in text
    links = {reference[1:] for reference in parser.references if reference.startswith("#")}
    assert links <= set(parser.ids)


@pytest.mark.parametrize(("kind", "scores"), [("evaluation", 1), ("answers", 0)])
def test_what_a_kind_of_directory_never_has_is_not_missed(tmp_path, kind, scores):
    (tmp_path / "predictions").mkdir()
    row = {"example_id": "a", "input_text": "what?", "prediction_text": "red", "target_text": ""}
    line = json.dumps(row | ({"score": 1.0} if scores else {}))
    (tmp_path / "predictions" / "vqa.jsonl").write_text(line + "\n")
    tasks = {"vqa": {"accuracy": 1.0, "primary": "accuracy", "n": 1}} if scores else {}
    run = {"name": "it", "kind": kind, "description": "what?", "model": "runs/it"}
    (tmp_path / "metrics.json").write_text(json.dumps({"run": run, "tasks": tasks, "splits": {}}))
    page = build.build_report(tmp_path).read_text()
    assert f'<p class="eyebrow">{kind.capitalize()}</p>' in page
    for absent in ("not recorded", "Not in this report", "Training loss", "has none"):
        assert absent not in page
    assert page.count('<section id="scores">') == scores
    assert ("from the best to the worst" in page or "in turn" in page) == bool(scores)
    assert '<b class="said">red</b>' in page
    assert "<dt>Target</dt>" not in page


def test_page_that_would_be_too_big_shows_fewer_examples(run_dir, tmp_path, monkeypatch):
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("metrics.jsonl"))
    monkeypatch.setattr(build, "MAX_PAGE_BYTES", 200_000)
    path = build.build_report(tmp_path / "run", examples=16)
    text, parser = _parse(path)
    assert re.search(r"Only \d+ examples per task are shown", text)
    assert 10 <= sum(name.startswith("card ") for name in parser.classes) < 160
    assert path.stat().st_size <= 200_000


def test_words_that_differ_are_marked():
    said, wanted = cards.difference_html("the red cat sat", "the blue cat sat down")
    assert said == "the <del>red</del> cat sat"
    assert wanted == "the <ins>blue</ins> cat sat <ins>down</ins>"


def test_tokens_become_labels():
    shown = cards.text_html("where is <bin_1> <bin_20><bin_3> <bin_4>? <mask> <code_7><code_8>")
    assert "1 20 3 4</span>" in shown
    assert '<span class="pill mask">mask</span>' in shown
    assert "2 image codes" in shown
    assert "&lt;" not in shown


def test_command(run_dir, tmp_path, capsys):
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert main(["--compare", "markdown", str(run_dir)]) == 0
    assert "| VQA | VQA accuracy | 79.0% |" in capsys.readouterr().out
    (tmp_path / "metrics.jsonl").write_text("{\n\n")
    assert main([str(tmp_path)]) == 2
    assert "metrics.jsonl, line 1" in capsys.readouterr().err
    assert main([str(run_dir), "--examples", "0"]) == 2


def test_runs_are_compared_on_a_page_with_curves(run_dir, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    scores = json.loads((other / "metrics.json").read_text())
    scores["run"]["name"] = "other run"
    (other / "metrics.json").write_text(json.dumps(scores))
    path = tmp_path / "page" / "comparison.html"
    assert main([str(run_dir), str(other), "--compare=html", f"--output={path}"]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    text, parser = _parse(path)
    assert "2 runs compared" in text
    assert {"table", "scores", "loss"} <= set(parser.ids)
    assert all(one.startswith(("#", "data:")) for one in parser.references)
    assert re.search(r'alt="All tasks, nats per token: .* after \d+ steps; other run ', text)


def test_images_and_charts_say_what_is_seen(page):
    text, _ = page
    alts = re.findall(r'alt="([^"]*)"', text)
    assert any(re.search(r"which region .*; predicted box left [\d.]+, top", alt) for alt in alts)
    assert any(re.search(r" from [\d.]+%? after \d+ steps to ", alt) for alt in alts)
    assert not any(alt.startswith("example ") for alt in alts)


def test_record_of_the_run_is_not_changed(run_dir):
    record = collect(run_dir)
    assert record.notices == ()
    assert len(record.history) == 480


def test_report_imports_no_model_code():
    code = (
        "import sys, ofa_jax.report.build, ofa_jax.metrics.caption;"
        "print([m for m in ('jax', 'flax', 'tensorflow', 'seqio', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
