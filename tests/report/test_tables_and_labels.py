"""Tables in three syntaxes, comparison of runs, names and numbers."""

import dataclasses

import pytest

from ofa_jax.progress import format_duration
from ofa_jax.report import labels, rendering, tables
from ofa_jax.report.collect import collect


@pytest.fixture(scope="module")
def record(run_dir):
    return collect(run_dir)


def test_syntaxes():
    cells = (tables.Cell("a|<b>"), tables.Cell("50.0%", 0.5, strong=True, note="±1"))
    table = tables.Table(("Task", "Score"), (cells,), "About.")
    assert table.to_markdown().splitlines() == [
        "| Task | Score |",
        "| --- | ---: |",
        "| a\\|<b> | **50.0%** ±1 |",
        "",
        "About.",
    ]
    assert table.to_csv() == "Task,Score\na|<b>,0.5\n"
    html = str(rendering.environment().get_template("report/parts.html").module.scores(table))
    assert "a|&lt;b&gt;" in html
    assert "<b>50.0%</b> <small>±1</small>" in html


def test_rows_must_fit_the_columns():
    with pytest.raises(ValueError, match=r"row 0 .*1 cells, .* 2 columns"):
        tables.Table(("a", "b"), ((tables.Cell("x"),),))


def test_score_table(record):
    table = tables.score_table(record)
    assert table.columns[-3:] == ("Floor", "Aim", "Examples")
    row = next(row for row in table.rows if row[0].text == "VQA")
    texts = [cell.text for cell in row]
    assert texts == ["VQA", "VQA accuracy", "79.0%", "20.0%", "23.0%", "+56.0", *texts[6:]]
    assert row[2].note == "±3.5"
    assert (row[6].note, row[7].note) == ("✓ met", "✗ below")


def test_split_table_shows_differences_to_the_main_split(record):
    table = tables.split_table(record)
    row = next(row for row in table.rows if row[0].text == "Visual grounding")
    assert [cell.text for cell in row[1:]] == ["88.0%", "87.1%", "52.8%", "79.2%"]
    assert row[3].note == "−35.2"
    assert row[3].tint < row[2].tint < 0
    assert tables.split_table(dataclasses.replace(record, splits={})) is None


def _with_vqa(record, value):
    task = record.tasks["scenes_vqa"]
    changed = dataclasses.replace(task, metrics={"vqa_accuracy": value})
    return dataclasses.replace(record, tasks={**record.tasks, "scenes_vqa": changed})


def test_comparison_of_runs(record):
    runs = {"all": record, "without captions": _with_vqa(record, 0.70)}
    table = tables.runs_comparison(runs, reference="all")
    row = next(row for row in table.rows if row[0].text == "VQA")
    assert [cell.text for cell in row] == ["VQA", "VQA accuracy", "79.0%", "70.0%"]
    assert [cell.strong for cell in row[2:]] == [True, False]
    assert row[3].note == "−9.0"
    test = tables.runs_comparison(runs, split="test")
    assert next(row for row in test.rows if row[0].text == "VQA")[2].text == "78.2%"


def test_comparison_needs_distinct_names_and_a_known_reference(record):
    with pytest.raises(ValueError, match="different names"):
        tables.runs_comparison([record, record])
    with pytest.raises(ValueError, match=r"'none' .*runs"):
        tables.runs_comparison([record], reference="none")


def test_names():
    names = ["scenes_vqa", "scenes_image_infilling"]
    assert list(labels.task_labels(names).values()) == ["VQA", "Image infilling"]
    assert labels.task_labels(["scenes_vqa"]) == {"scenes_vqa": "Scenes VQA"}
    assert labels.task_labels(["vqa", "vqa_grounded"])["vqa"] == "VQA"
    assert labels.metric_label("cider_d") == "CIDEr-D"
    assert labels.metric_label("accuracy_at_iou_0.5") == "accuracy at IoU 0.5"


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("accuracy", 0.8421, "84.2%"),
        ("cider_d", 1.4034, "1.40"),
        ("psnr", 21.34, "21.3 dB"),
        ("accuracy", None, "–"),
        ("accuracy", float("nan"), "–"),
    ],
)
def test_metric_values(metric, value, text):
    assert labels.format_metric(metric, value) == text


def test_numbers():
    assert labels.format_count(624_512) == "624,512"
    assert labels.format_count(93_400_000) == "93.4 M"
    assert [format_duration(s) for s in (48, 333, 11_100)] == [
        "48 s",
        "5 min 33 s",
        "3 h 05 min",
    ]
    assert [labels.format_tick(v) for v in (0, 500, 12_000, 3e-4)] == ["0", "500", "12k", "3e-4"]
