"""Reading of run directories: complete, incomplete and broken ones."""

import json
import re

import numpy as np
import pytest

from ofa_jax.report.collect import RecordError, collect


def _write(directory, name, text):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_complete_run(run_dir):
    record = collect(run_dir)
    assert record.notices == ()
    assert record.name == "scenes-tiny-cpu"
    vqa = record.tasks["scenes_vqa"]
    assert (vqa.primary, vqa.value, vqa.n) == ("vqa_accuracy", 0.79, 512)
    assert vqa.baselines == {"chance": 0.2, "majority": 0.23}
    assert vqa.baseline == 0.23
    assert (vqa.floor, vqa.aim) == (0.6, 0.8)
    assert set(vqa.metrics) == {"vqa_accuracy", "mean_iou"}
    assert list(record.splits) == ["validation", "test", "compositions", "unseen_style"]
    assert set(record.predictions) == set(record.tasks)
    steps, values = record.series("loss")
    assert steps[-1] == 4800
    assert np.isfinite(values).all()


def test_empty_run_says_what_is_missing(tmp_path):
    record = collect(tmp_path)
    text = " ".join(record.notices)
    for name in ("metrics.json ", "metrics.jsonl", "config.gin"):
        assert name in text
    assert record.name == tmp_path.name
    assert record.task_names == []


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(RecordError, match="nowhere is not a directory"):
        collect(tmp_path / "nowhere")


def test_broken_line_is_named(tmp_path):
    _write(tmp_path, "metrics.jsonl", '{"step": 1}\n{"step": 2,,}\n{"step": 3}\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl, line 2: not JSON"):
        collect(tmp_path)
    _write(tmp_path, "metrics.jsonl", '{"step": 1}\n[1]\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl, line 2: .*JSON object"):
        collect(tmp_path)


def test_line_cut_off_by_a_killed_writer_is_left_out(tmp_path):
    _write(tmp_path, "predictions/vqa.jsonl", '{"score": 1}\n{"score": 0, "inp')
    record = collect(tmp_path)
    assert record.predictions["vqa"] == ({"score": 1},)
    assert any("vqa.jsonl: the last line (line 2) is cut off" in n for n in record.notices)


def test_broken_metrics_are_named(tmp_path):
    _write(tmp_path, "metrics.json", '{\n"tasks": {\n"vqa" 3}}')
    with pytest.raises(RecordError, match=r"metrics\.json, line 3: not JSON"):
        collect(tmp_path)
    _write(tmp_path, "metrics.json", '{"tasks": {"vqa": 3}}')
    with pytest.raises(RecordError, match=r"tasks\.vqa .*an object, not 3"):
        collect(tmp_path)
    _write(tmp_path, "metrics.json", '{"splits": {"test": {"vqa": {"n": "many"}}}}')
    with pytest.raises(RecordError, match=r"splits\.test\.vqa\.n .*number"):
        collect(tmp_path)


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": "\xff"}\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl, line 2: not UTF-8"):
        collect(tmp_path)


def test_history_needs_steps(tmp_path):
    _write(tmp_path, "metrics.jsonl", '{"loss": 1}\n')
    with pytest.raises(RecordError, match='needs a number "step"'):
        collect(tmp_path)


def test_resumed_run_repeats_steps(tmp_path):
    rows = [{"step": 1, "loss": 4}, {"step": 2, "loss": 3}, {"step": 3, "loss": 9}]
    rows += [{"step": 2, "loss": 2}, {"step": 3, "eval/vqa/accuracy": 0.5}]
    _write(tmp_path, "metrics.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    record = collect(tmp_path)
    steps, values = record.series("loss")
    assert steps.tolist() == [1, 2, 3]
    assert values.tolist() == [4, 2, 9]
    assert record.series("eval/vqa/accuracy")[0].tolist() == [3]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"true_box": [1, 2, 3]', '"true_box" must be 4 numbers'),
        ('"predicted_objects": [{"box": [1, 2, 3, 4]}]', '"predicted_objects" must be a list of'),
        ('"image_size": [32, 0]', '"image_size" must be 2 positive numbers'),
        ('"references": "a cat"', '"references" must be a list'),
        ('"score": "high"', '"score" must be a number, got "high"'),
        ('"verdict": "fine"', '"verdict" must be one of ["right", "partly", "wrong", ""]'),
        ('"found": ["cat"]', '"found" must be a list of numbers of true objects'),
        ('"alternatives": ["a cat"]', '"alternatives" must be a list of {"text": text,'),
    ],
)
def test_prediction_that_cannot_be_drawn_is_named(tmp_path, field, message):
    _write(tmp_path, "predictions/vqa.jsonl", '{"score": 1}\n\n{' + field + "}\n")
    with pytest.raises(RecordError, match=re.escape(f"vqa.jsonl, line 3: {message}")):
        collect(tmp_path)


def test_values_that_are_no_numbers_leave_gaps(tmp_path):
    rows = '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 1.5}\n{"step": 3, "loss": null}\n'
    _write(tmp_path, "metrics.jsonl", rows)
    _write(tmp_path, "metrics.json", '{"tasks": {"vqa": {"accuracy": NaN, "primary": "accuracy"}}}')
    record = collect(tmp_path)
    assert record.series("loss")[1].tolist() == [1.5]
    assert record.tasks["vqa"].value is None
    assert any("task vqa has no score" in notice for notice in record.notices)
