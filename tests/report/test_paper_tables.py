"""The tables of the paper with rows of runs."""

import csv
import json

import pytest

from ofa_jax.report.__main__ import main
from ofa_jax.report.collect import collect
from ofa_jax.report.paper_tables import (
    ablation_table,
    find_runs,
    published_table,
    scores_by_split,
    tuning_methods,
)
from ofa_jax.report.published import published_tables

TABLES = {table.name: table for table in published_tables()}


def write_run(directory, mixture, tasks, splits=None, settings=None, **facts):
    def entry(metrics):
        return {**metrics, "primary": next(iter(metrics)), "baseline": 0.1, "n": 10}

    directory.mkdir(parents=True)
    content = {
        "run": {"name": directory.name, "mixture": mixture, "model": "tiny", **facts},
        "tasks": {name: entry(metrics) for name, metrics in tasks.items()},
        "splits": {
            split: {name: entry(metrics) for name, metrics in group.items()}
            for split, group in (splits or {}).items()
        },
    }
    (directory / "metrics.json").write_text(json.dumps(content))
    (directory / "config.json").write_text(json.dumps({"tasks": [], "settings": settings or {}}))
    return directory


def rows_of(table):
    return {row[0].text: [cell.value for cell in row[1:]] for row in table.rows}


def test_published_tables_are_complete_and_of_one_width():
    for table in published_tables():
        assert len({column.head for column in table.columns}) == len(table.columns)
        assert published_table(table, []).rows  # a row of another width would raise
    assert rows_of(published_table(TABLES["grounding"], []))["OFA-large"][1] == 92.93
    [tiny] = [r for r in published_table(TABLES["grounding"], []).rows if r[0].text == "OFA-tiny"]
    assert [cell.text for cell in tiny[1:4]] == ["80.20", "84.07", "75.00"]
    tuned, grounding = TABLES["prompt_tuning"].rows, TABLES["grounding"].rows
    for size in ("base", "large"):
        assert tuned[f"OFA-{size}, fine-tuned"][:8] == grounding[f"OFA-{size}"]


def test_a_run_fills_the_columns_of_its_task_and_splits(tmp_path):
    run = write_run(
        tmp_path / "mine",
        "refcocoplus",
        {"visual_grounding": {"accuracy_at_0.5": 0.5}},
        {"testB": {"visual_grounding": {"accuracy_at_0.5": 0.25}}},
    )
    record = collect(run)
    assert set(scores_by_split(record)["testB"]) == {"refcocoplus"}
    found = rows_of(published_table(TABLES["grounding"], [record]))["mine †"]
    assert found == [None, None, None, 50.0, None, 25.0, None, None]
    assert "mine †" not in rows_of(published_table(TABLES["prompt_tuning"], [record]))
    assert "mine †" not in rows_of(published_table(TABLES["vqa_snli_ve"], [record]))


def test_an_evaluation_says_its_split_and_how_the_model_was_tuned(tmp_path):
    scores = {"visual_grounding": {"accuracy_at_0.5": 0.5}}
    model = "runs/tuned/checkpoint_4"
    facts = {"split": "testA", "model": model}
    plain = collect(write_run(tmp_path / "plain", "refcoco", scores, tuning=[], **facts))
    tuned = collect(write_run(tmp_path / "tuned", "refcoco", scores, tuning=["BitFit"], **facts))
    # The main split may have no truth.
    later = collect(write_run(tmp_path / "later", "refcoco", {}, {"testB": scores}, split="test"))
    records = [plain, tuned, later]
    found = rows_of(published_table(TABLES["grounding"], records))
    assert found["plain †"][:3] == [None, 50.0, None]
    assert found["later †"][:3] == [None, None, 50.0]
    assert "tuned †" not in str(found)
    own = published_table(TABLES["prompt_tuning"], records)
    [row] = [row for row in own.rows if "†" in row[0].text]
    assert row[0].text == "tuned † (BitFit)"
    assert row[0].note == "tuned"
    assert row[2].value == 50.0


def test_a_run_stands_among_published_rows_of_its_split_only(tmp_path):
    run = write_run(
        tmp_path / "captions",
        "caption_coco",
        {"captioning": {"cider_d": 1.2, "bleu_4": 0.3}},
        {"test": {"captioning": {"cider_d": 1.1}}},
    )
    found = rows_of(published_table(TABLES["captioning_cross_entropy"], [collect(run)]))
    # The published captions are of the test split, on which BLEU is not known here.
    assert [name for name in found if "†" in name] == ["captions †"]
    assert found["captions †"] == [None, None, pytest.approx(110), None]


def test_rows_name_their_split_where_columns_do_not(tmp_path):
    run = write_run(
        tmp_path / "captions",
        "caption_muge",
        {"captioning": {"cider_d": 1.2}},
        {"test": {"captioning": {"cider_d": 1.1}}},
    )
    found = rows_of(published_table(TABLES["chinese_captioning"], [collect(run)]))
    named = {name: values for name, values in found.items() if "†" in name}
    assert list(named) == ["captions † (validation)", "captions † (test)"]


@pytest.mark.parametrize(
    ("settings", "methods"),
    [
        ({"model": {"tuning": {"encoder_prefix": 100, "lora_rank": 0}}}, ("prefix",)),
        ({"model": {"tuning": {"lora_rank": 8, "adapter_dim": 0}}}, ("LoRA",)),
        ({"optimizer": {"frozen": ["^(?!.*(/(final_norm|expand|contract)/bias$))"]}}, ("BitFit",)),
        ({"optimizer": {"frozen": ["token_embedding"]}, "model": {"size": "nano"}}, ()),
        ({"model": "nano", "optimizer": None}, ()),
    ],
)
def test_tuned_runs_have_their_own_table(tmp_path, settings, methods):
    task = {"visual_entailment": {"accuracy": 0.8}}
    record = collect(write_run(tmp_path / "run", "snli_ve", task, settings=settings))
    assert tuning_methods(record) == methods
    own = rows_of(published_table(TABLES["prompt_tuning"], [record]))
    plain = rows_of(published_table(TABLES["vqa_snli_ve"], [record]))
    assert any("†" in name for name in own) == bool(methods)
    assert any("†" in name for name in plain) == (not methods)


def test_ablations_are_compared_with_the_whole_mixture(tmp_path):
    whole = write_run(tmp_path / "all", "scenes_quickstart", {"vqa": {"accuracy": 0.8}})
    part = write_run(tmp_path / "part", "scenes_without_detection", {"vqa": {"accuracy": 0.7}})
    other = write_run(tmp_path / "other", "refcoco", {"visual_grounding": {"accuracy_at_0.5": 1.0}})
    table = ablation_table([collect(path) for path in (whole, part, other)])
    assert [row[1].text for row in table.rows] == ["nothing", "Detection"]
    assert table.rows[1][2].note == "−10.0"


def test_the_command_writes_markdown_csv_and_a_page(tmp_path, capsys):
    runs = tmp_path / "runs"
    write_run(runs / "deep" / "a", "gigaword", {"summary": {"rouge_l": 0.36}}, split="test")
    assert find_runs(runs) == [runs / "deep" / "a"]
    assert main(["tables", str(runs / "deep" / "a"), "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "tables.html")
    page = (tmp_path / "out" / "tables.html").read_text()
    assert "Gigaword summaries" in page
    assert "http" not in page
    for table in [*TABLES, "ablations"]:
        assert (tmp_path / "out" / f"{table}.md").is_file()
        rows = list(csv.reader((tmp_path / "out" / f"{table}.csv").open()))
        assert len({len(row) for row in rows}) == 1
    [own] = [row for row in csv.reader((tmp_path / "out" / "gigaword.csv").open()) if "†" in row[0]]
    assert float(own[3]) == pytest.approx(36)
    assert main(["tables", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err
