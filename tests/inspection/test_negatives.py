"""Wrong captions and answers, collected from prepared data sets."""

import json

import numpy as np
import pytest

from ofa_jax import negatives as command
from ofa_jax.data.preparation.negative_sample import NegativeSample, question_type
from ofa_jax.data.sources.array_record import shard_name, write_shard
from ofa_jax.data.steps.matching import MatchAnswer, MatchCaption


def qa(question, *answers):
    return {"question": question, "answers": list(answers), "type": "qa", "image": b""}


def test_types_of_questions():
    assert question_type("How many dogs are there?") == "how many"
    assert question_type("Is  there a dog?") == "is there"
    assert question_type("Why?") == "why"
    assert question_type("?") == "other"


def test_answers_belong_to_their_most_frequent_type():
    found = NegativeSample()
    for number in range(30):
        found.add(qa("Is there a dog?", "Yes." if number % 2 else "no"))
        found.add(qa("How many dogs?", str(number % 3), "worse"))
    found.add(qa("How many are there?", "yes"))
    found.add(qa("What color is it?", "red"))
    found.add(qa("Who is it?", "a man"))
    assert found.answers_by_type() == {
        "how many": ["0", "1", "2"],
        "is there": ["yes", "no"],
        "other": ["red", "a man"],
    }


def test_other_exists_wherever_there_are_answers():
    found = NegativeSample()
    for number in range(40):
        found.add(qa("Is there a dog?", "yes" if number % 3 else "no"))
    assert found.answers_by_type() == {"is there": ["yes", "no"], "other": ["yes", "no"]}
    assert NegativeSample().answers_by_type() == {}


@pytest.fixture
def data_dir(tmp_path):
    captions = [
        {"captions": [f"caption\n number {number}", "a dog"], "type": "caption", "image": b""}
        for number in range(5)
    ]
    write_shard(tmp_path / "cc12m" / shard_name("train", 0, 1), captions)
    boxes = np.zeros((2, 4), np.float32)
    labels = {"boxes": boxes, "labels": ["dog", "street  lamp"], "objects": ["dog", "cat"]}
    detection = labels | {"type": "detection", "image": b""}
    write_shard(tmp_path / "objects365" / shard_name("train", 0, 1), [detection])
    write_shard(tmp_path / "gqa" / shard_name("train", 0, 1), [qa("Is it?", "yes", "no")] * 2)
    write_shard(tmp_path / "vqav2" / shard_name("validation", 0, 1), [qa("Is it?", "maybe")])
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_the_command_fills_what_matching_reads(data_dir, capsys):
    assert command.main([str(data_dir), "--limit=3"]) == 0
    output = capsys.readouterr().out
    assert "cc12m: 3 records" in output
    assert "vqav2" not in output, "it has no train split"
    directory = data_dir / "negative_sample"
    captions = (directory / "all_captions.txt").read_text().splitlines()
    assert captions == ["caption number 0", "a dog", "caption number 2", "caption number 4"]
    assert (directory / "object.txt").read_text().splitlines() == ["cat", "dog", "street lamp"]
    assert json.loads((directory / "type2ans.json").read_text()) == {"other": ["yes"]}

    example = {"caption": "a dog", "objects": []}
    found = {
        MatchCaption(str(directory))(example, np.random.default_rng(seed))["caption"]
        for seed in range(40)
    }
    assert found <= set(captions)
    assert len(found) > 2
    answer = {"answer": "no", "confidence": 1.0}
    found = {
        MatchAnswer(str(directory))(answer, np.random.default_rng(seed))["candidate"]
        for seed in range(20)
    }
    assert found == {"yes", "no"}


def test_nothing_is_overwritten_unasked(data_dir, capsys):
    assert command.main([str(data_dir)]) == 0
    assert command.main([str(data_dir)]) == 2
    line = capsys.readouterr().err.strip()
    assert "has all_captions.txt, object.txt, type2ans.json already; give --overwrite" in line
    assert command.main([str(data_dir), "--overwrite"]) == 0


@pytest.mark.parametrize("name", ["nowhere", "notes"])
def test_directories_without_data_are_one_line(data_dir, capsys, name):
    assert command.main([str(data_dir / name)]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: ")
    assert str(data_dir / name) in line
    assert "prepared data sets" in line
