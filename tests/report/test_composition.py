"""The section on pairs that training never drew: counts, words, and the page."""

import json

import numpy as np
import pytest
from PIL import Image

from ofa_jax.report import build
from ofa_jax.report.collect import collect
from ofa_jax.report.composition import composition

REGION = {"input_text": "what does the region describe? region:", "true_box": [0, 0, 8, 8]}


def write(root, task, rows):
    (root / "predictions").mkdir(parents=True, exist_ok=True)
    (root / "examples").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(root / "examples" / "0.png")
    lines = [
        {"example_id": str(n), "image": "examples/0.png", "image_size": [16, 16], **row}
        for n, row in enumerate(rows)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "predictions" / f"{task}.jsonl").write_text(text)


def described(said, there):
    verdict = "right" if said == there else "wrong"
    return REGION | {"prediction_text": said, "target_text": there, "verdict": verdict}


def detected(said, there, found):
    box = [0, 0, 8, 8]
    return {
        "predicted_objects": [{"box": box, "label": label} for label in said],
        "true_objects": [{"box": box, "label": label} for label in there],
        "found": found,
        "verdict": "right" if len(found) == len(there) else "partly",
    }


@pytest.fixture
def run(tmp_path):
    unseen = tmp_path / "splits" / "compositions"
    write(
        tmp_path,
        "grounded_captioning",
        [described("a red circle", "a red circle"), described("a blue cross", "a blue circle")],
    )
    write(
        unseen,
        "grounded_captioning",
        [
            described("a red circle", "a red cross"),
            described("a red cross", "a red cross"),
            described("a red circle", "a red circle"),
        ],
    )
    write(tmp_path, "detection", [detected(["red circle"], ["red circle"], [0])])
    write(
        unseen,
        "detection",
        [detected(["red circle", "red circle"], ["red circle", "red cross"], [0])],
    )
    captions = {"references": ["a red cross", "a red cross and a blue circle"], "verdict": "wrong"}
    write(unseen, "captioning", [{"prediction_text": "a red circle", "target_text": ""} | captions])
    return tmp_path


def test_cells_count_objects_of_both_splits(run):
    detection, captioning = composition(collect(run), {}).matrices
    assert captioning.colors == ["blue", "red"]
    assert captioning.shapes == ["circle", "cross"]
    cells = {
        (color, shape): cell
        for color, row in zip(captioning.colors, captioning.cells)
        for shape, cell in zip(captioning.shapes, row)
    }
    assert (cells["red", "circle"].right, cells["red", "circle"].count) == (2, 2)
    assert (cells["red", "cross"].right, cells["red", "cross"].count) == (1, 2)
    assert cells["blue", "circle"].share == 0
    assert cells["blue", "cross"].share is None
    assert [pair for pair, cell in cells.items() if cell.held_out] == [("red", "cross")]
    assert "50 %" in captioning.description
    assert "67 %" in captioning.description
    row = dict(zip(detection.shapes, detection.cells[0]))
    assert (row["circle"].share, row["cross"].share) == (1.0, 0.0)


def test_wrong_words_are_marked_against_the_nearest_truth(run):
    examples = composition(collect(run), {"captioning": "Captioning"}).examples
    [caption] = examples["Captioning"]
    assert caption.said == "a red <del>circle</del>"
    assert caption.there == "a red <ins>cross</ins>"
    first, *_, last = examples["grounded_captioning"]
    assert "<del>" in first.said
    assert last.verdict == "right"
    assert "<del>" not in last.said
    assert examples["detection"][0].there == "red circle, red <ins>cross</ins>"
    assert all(one.image is not None for group in examples.values() for one in group)


def test_page_frames_the_pairs(run):
    (run / "metrics.json").write_text(json.dumps({"tasks": {}}))
    page = build.build_report(run).read_text()
    section = page[page.index('<section id="composition"') :]
    section = section[: section.index("</section>")]
    assert section.count('class="held"') == 2
    assert 'title="1 of 2">50</td>' in section


def test_nothing_is_said_without_unseen_pairs(run):
    write(run / "splits" / "compositions", "grounded_captioning", [])
    write(run / "splits" / "compositions", "detection", [])
    assert composition(collect(run), {}) is None
