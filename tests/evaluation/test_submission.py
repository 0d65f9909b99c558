"""Submission files, against what the official evaluation writes (SPEC 8.14)."""

import json

import pytest

from ofa_jax.evaluation.submission import file_name, write_submission

ROW = {
    "example_id": "17",
    "image_id": "391895",
    "index": 0,
    "prediction_text": "a man",
    "target_text": "a man riding",
    "input_text": "what is the complete image? caption: a man",
    "original_box": [1.0, 2.0, 3.5, 4.0],
    "codes": [1, 2],
}
EXPECTED = {
    "caption": {"image_id": "391895", "caption": "a man"},
    "vqa": {"question_id": 17, "answer": "a man"},
    "refcoco": {"uniq_id": "17", "box": [1.0, 2.0, 3.5, 4.0]},
    "answer": {"uniq_id": "17", "answer": "a man"},
    "ocr": {"image_id": "391895", "ocr": "a man"},
    "gigaword": {"hyp": "a man", "ref": "a man riding"},
    "image_codes": {
        "uniq_id": "17",
        "codes": [1, 2],
        "caption": "what is the complete image? caption: a man",
    },
}


@pytest.mark.parametrize("form", EXPECTED)
def test_formats(form, tmp_path):
    path = tmp_path / "directory" / file_name(form, "test")
    assert path.name == "test_predict.json"
    assert write_submission(path, form, iter([ROW, ROW])) == 2
    assert json.loads(path.read_text()) == [EXPECTED[form]] * 2
    assert write_submission(path, form, []) == 0
    assert json.loads(path.read_text()) == []
    assert [p.name for p in path.parent.iterdir()] == ["test_predict.json"]


def test_a_missing_box_is_a_point(tmp_path):
    path = tmp_path / "a.json"
    write_submission(path, "refcoco", [{**ROW, "original_box": None}])
    assert json.loads(path.read_text())[0]["box"] == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("entailment", "entailment"),
        ("not_entailment", "not_entailment"),
        ("contradiction", "contradiction"),
        ("acceptable", "1"),
        ("not_equivalent", "0"),
        ("negative", "0"),
    ],
)
def test_glue_writes_the_classes_of_the_server(given, written, tmp_path):
    path = tmp_path / file_name("glue", "test")
    assert path.name == "test_predict.tsv"
    rows = [{**ROW, "class": given}, {**ROW, "index": 1, "class": given}]
    assert write_submission(path, "glue", rows) == 2
    assert path.read_text() == f"index\tprediction\n0\t{written}\n1\t{written}\n"


def test_an_unknown_format(tmp_path):
    with pytest.raises(ValueError, match=r"format 'xml'; .*caption, vqa"):
        write_submission(tmp_path / "a", "xml", [])
