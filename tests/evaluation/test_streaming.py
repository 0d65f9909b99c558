"""Long evaluations: resumed, shared, with bad records; and their scores and files."""

import json

import numpy as np
import pytest

import mixtures.scenes  # noqa: F401  (registers the tasks)
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.errors import Unfinished
from ofa_jax.evaluation import streaming
from ofa_jax.evaluation.rows import IMAGES
from ofa_jax.evaluation.streaming import (
    FileLines,
    Shard,
    predict_split,
    score_split,
    write_split,
)
from ofa_jax.inference.answerer import Answers

LENGTHS = {"inputs": 28, "targets": 20, "image": 32}
WHOLE = Shard()


def scenes_task(family) -> OFATask:
    return lookup(f"scenes_{family}")[0][0]


class Oracle:
    """Answers with the truth and counts its batches; fails after some."""

    def __init__(self, fails_after=None):
        self.batches = 0
        self.fails_after = fails_after

    def __call__(self, task, rows, number):
        if self.fails_after is not None and self.batches >= self.fails_after:
            raise KeyboardInterrupt
        self.batches += 1
        targets = rows["decoder_target_tokens"][:, None]
        scores = np.full(targets.shape[:2], -0.5)
        return Answers(targets, scores, scores)


def run(task, answer, directory, *, shard=WHOLE, limit=13, **options):
    return predict_split(
        task,
        answer,
        LENGTHS,
        split="validation",
        lines=FileLines(shard.work_file(directory / "work", "it")),
        batch_size=4,
        shard=shard,
        limit=limit,
        **options,
    )


def finish(task, works, directory, *, limit=None):
    """Scores and writes; returns (result, number of skipped records)."""
    files = [FileLines(path) for path in works]
    scored = score_split(task, files, limit)
    write_split(
        task, files, scored, directory, name="it", lengths=LENGTHS, split="validation", limit=limit
    )
    return scored.result, scored.skipped


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("family", ["vqa", "visual_grounding", "detection", "captioning"])
def test_the_truth_scores_one(family, tmp_path):
    task = scenes_task(family)
    tally = run(task, Oracle(), tmp_path)
    assert (tally.examples, tally.resumed, tally.skipped) == (13, 0, 0)
    works = [Shard().work_file(tmp_path / "work", "it")]
    result, skipped = finish(task, works, tmp_path)
    assert skipped == 0
    assert result.metrics[result.primary] == 1.0
    rows = lines(tmp_path / "predictions" / "it.jsonl")
    assert [row["index"] for row in rows] == list(range(13))
    assert all((tmp_path / row["image"]).is_file() for row in rows)
    assert all(row["score"] > 0.6 and row["verdict"] == "right" for row in rows)


def test_a_stopped_evaluation_goes_on(tmp_path):
    task = scenes_task("vqa")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(task, Oracle(), whole)
    with pytest.raises(KeyboardInterrupt):
        run(task, Oracle(fails_after=2), broken)
    work = Shard().work_file(broken / "work", "it")
    with work.open("a") as file:
        file.write('{"index": 8, "row": {"exam')  # cut off by a kill
    second = Oracle()
    tally = run(task, second, broken)
    assert (tally.examples, tally.resumed) == (13, 8)
    assert second.batches == 2
    assert work.read_text() == Shard().work_file(whole / "work", "it").read_text()
    assert run(task, Oracle(fails_after=0), broken).resumed == 13, "nothing is left to do"


def test_shards_are_the_whole(tmp_path):
    task = scenes_task("vqa")
    run(task, Oracle(), tmp_path / "one")
    works = []
    for index in range(3):
        shard = Shard(index, 3)
        run(task, Oracle(), tmp_path / "three", shard=shard)
        works.append(shard.work_file(tmp_path / "three" / "work", "it"))
    one = [Shard().work_file(tmp_path / "one" / "work", "it")]
    finish(task, one, tmp_path / "one")
    finish(task, works, tmp_path / "three")
    expected = (tmp_path / "one" / "predictions" / "it.jsonl").read_text()
    assert (tmp_path / "three" / "predictions" / "it.jsonl").read_text() == expected
    with pytest.raises(ValueError, match="shard 3 of 3"):
        Shard(3, 3)


class BadRecords:
    """A source in which some records are bad."""

    def __init__(self, source, bad):
        self.source, self.bad = source, bad

    def open(self, split):
        records, bad = self.source.open(split), self.bad

        class Records:
            def __len__(self):
                return len(records)

            def __getitem__(self, index):
                if index in bad:
                    raise ValueError(f"image {index} is torn")
                return records[index]

        return Records()


def with_bad(task, bad):
    import dataclasses

    return dataclasses.replace(task, source=BadRecords(task.source, bad))


def test_bad_records_are_counted(tmp_path, caplog):
    task = with_bad(scenes_task("vqa"), {1, 4, 5, 6, 7})
    tally = run(task, Oracle(), tmp_path)
    assert (tally.examples, tally.skipped) == (13, 5)
    assert "skipped a bad record: task 'scenes_vqa', record 1: image 1 is torn" in caplog.text
    works = [Shard().work_file(tmp_path / "work", "it")]
    result, skipped = finish(task, works, tmp_path)
    assert skipped == 5
    assert len(result.scores) == 8
    rows = lines(tmp_path / "predictions" / "it.jsonl")
    assert [row["index"] for row in rows] == [0, 2, 3, 8, 9, 10, 11, 12]
    assert run(task, Oracle(), tmp_path).skipped == 5, "also after a restart"


def test_bad_records_can_be_errors(tmp_path):
    task = with_bad(scenes_task("vqa"), {1})
    with pytest.raises(ValueError, match="record 1: image 1 is torn"):
        run(task, Oracle(), tmp_path, skip_bad=False)


def test_only_bad_records(tmp_path):
    task = with_bad(scenes_task("vqa"), set(range(13)))
    run(task, Oracle(), tmp_path)
    works = [Shard().work_file(tmp_path / "work", "it")]
    with pytest.raises(ValueError, match="none of the 13 records"):
        finish(task, works, tmp_path)


def test_examples_without_truth_are_predicted_but_not_scored(tmp_path, monkeypatch):
    task = scenes_task("vqa")
    monkeypatch.setattr(streaming.scorers, "has_truth", lambda task, example: False)
    run(task, Oracle(), tmp_path)
    works = [Shard().work_file(tmp_path / "work", "it")]
    result, _ = finish(task, works, tmp_path)
    assert result is None
    rows = lines(tmp_path / "predictions" / "it.jsonl")
    assert {(row["score"], row["verdict"]) for row in rows} == {(None, "")}


def test_images_are_not_kept(tmp_path):
    run(scenes_task("visual_grounding"), Oracle(), tmp_path, limit=60)
    work = Shard().work_file(tmp_path / "work", "it")
    for line in lines(work):
        assert "image" not in line["example"]
    finish(scenes_task("visual_grounding"), [work], tmp_path)
    assert len(list((tmp_path / "examples" / "it").iterdir())) == IMAGES


def test_fewer_examples_than_were_predicted(tmp_path):
    task = scenes_task("vqa")
    run(task, Oracle(), tmp_path)
    tally = run(task, Oracle(fails_after=0), tmp_path, limit=5)
    assert tally.examples == 5
    result, _ = finish(task, [Shard().work_file(tmp_path / "work", "it")], tmp_path, limit=5)
    assert len(result.scores) == 5
    assert len(lines(tmp_path / "predictions" / "it.jsonl")) == 5


def test_a_request_to_stop_is_heard_between_batches(tmp_path):
    task, answer = scenes_task("vqa"), Oracle()
    with pytest.raises(Unfinished, match="8 of 13"):
        run(task, answer, tmp_path, stop_requested=lambda: answer.batches == 2)
    assert run(task, answer, tmp_path).resumed == 8
