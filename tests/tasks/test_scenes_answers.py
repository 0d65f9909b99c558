"""The closed set of answers of the embedded world."""

import pytest

from ofa_jax.data.tasks.registration import lookup
from tasks import scenes_answers  # noqa: F401  (registers the tasks)


@pytest.mark.parametrize("name", ["scenes_vqa_closed", "scenes_base_vqa_closed"])
def test_every_question_has_its_answer_in_the_list(name):
    [(task, _)] = lookup(name)
    words = task.answering.answers.load()
    records = task.source.open("validation")
    asked = [entry for index in range(60) for entry in records[index]["qa"]]
    assert {entry["answer"] for entry in asked} <= set(words)
    assert len(words) == len(set(words)) < 60
