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
    # Two of the ten tasks have no verdicts (infilled pictures, CIDEr).
    assert cards_shown.count("card none") == 16
    assert text.count("True of the image") == text.count("False of the image") == 4
    assert text.count('<svg class="icon"') > 60


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
        (("metrics.jsonl", "examples"), "picture missing"),
    ],
)
def test_incomplete_run_makes_a_page(run_dir, tmp_path, missing, said):
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns(*missing, "report*"))
    text, parser = _parse(build.build_report(tmp_path / "run", examples=2))
    assert said in text
    links = {reference[1:] for reference in parser.references if reference.startswith("#")}
    assert links <= set(parser.ids)


@pytest.mark.parametrize(("kind", "scores"), [("evaluation", 1), ("answers", 0)])
def test_what_a_kind_of_folder_never_has_is_not_missed(tmp_path, kind, scores):
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
    assert main([str(tmp_path)]) == 1
    assert "metrics.jsonl, line 1" in capsys.readouterr().err
    assert main([str(run_dir), "--examples", "0"]) == 1


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
