"""Questions: the answers are right (checked by the judge), unambiguous and balanced."""

import collections
import re

import pytest

from ofa_jax.scenes.presets import preset
from ofa_jax.scenes.questions import TYPE_WEIGHTS
from ofa_jax.scenes.source import ScenesSource
from ofa_jax.scenes.truth import truth


def _check(scene, question: str, answer: str, kind: str) -> None:
    """Turns question and answer into sentences that must be true."""
    words = question.split()
    if kind == "existence":
        assert truth(scene, question.removeprefix("is there ")) == (answer == "yes")
    elif kind == "relation":
        subject, relation, rest = re.fullmatch(
            r"is the (.*?) (left of|right of|above|below) the (.*)", question
        ).groups()
        assert truth(scene, f"the {subject} is {relation} the {rest}") == (answer == "yes")
        assert truth(scene, f"the {subject}")
        assert truth(scene, f"the {rest}")
    elif kind == "background":
        assert truth(scene, f"the background is {answer}")
    elif kind in ("color", "size"):
        assert truth(scene, f"{question.removeprefix(f'what {kind} is ')} is {answer}")
    elif kind == "shape":
        reference = question.removeprefix("what shape is ")
        assert truth(scene, reference)
        assert truth(scene, reference.replace("object", answer, 1))
    else:
        noun = question.removeprefix("how many ").removesuffix(" are there")
        wanted = {"1": "one", "0": "zero"}.get(answer)
        number = {2: "two", 3: "three", 4: "four", 5: "five"}
        for count, word in number.items():
            assert truth(scene, f"{word} {noun}") == (answer == str(count))
        singular = noun.removesuffix("es") if noun == "crosses" else noun.removesuffix("s")
        article = "an" if singular[0] in "aeiou" else "a"
        assert truth(scene, f"{article} {singular}") == (wanted != "zero")
    assert len(words) <= 12


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
@pytest.mark.parametrize("split", ["train", "compositions"])
def test_answers_are_right(name, split):
    source = ScenesSource(name, split)
    kinds = collections.Counter()
    for index in range(300):
        example = source[index]
        assert 1 <= len(example["qa"]) <= preset(name).num_questions
        assert len({entry["kind"] for entry in example["qa"]}) == len(example["qa"])
        for entry in example["qa"]:
            kinds[entry["kind"]] += 1
            assert not entry["question"].endswith("?")
            _check(example["scene"], entry["question"], entry["answer"], entry["kind"])
        assert example["question"] == example["qa"][0]["question"]
        assert example["answers"] == [example["qa"][0]["answer"]]
    expected = set(TYPE_WEIGHTS) - (set() if preset(name).size_names else {"size"})
    assert set(kinds) == expected
    assert min(kinds.values()) > 30


def test_yes_and_no_are_balanced_for_every_wording_of_existence():
    source = ScenesSource("tiny")
    answers = collections.defaultdict(collections.Counter)
    for index in range(4000):
        for entry in source[index]["qa"]:
            if entry["kind"] in ("existence", "relation"):
                answers[entry["kind"]][entry["answer"]] += 1
                if entry["kind"] == "existence":
                    answers[entry["question"]][entry["answer"]] += 1
    for kind in ("existence", "relation"):
        assert 0.45 < answers[kind]["yes"] / answers[kind].total() < 0.55
    for question, counts in answers.items():
        if counts.total() > 60:
            assert 0.2 < counts["yes"] / counts.total() < 0.8, question


def test_questions_about_regions():
    source = ScenesSource("small")
    wordings = collections.Counter()
    for index in range(200):
        example = source[index]
        things = example["scene"]["objects"]
        asked = collections.Counter(entry["box_index"] for entry in example["region_qa"])
        assert asked == dict.fromkeys(range(len(things)), 3)
        for entry in example["region_qa"]:
            values = [thing[entry["kind"]] for thing in things]
            assert entry["answer"] == values[entry["box_index"]]
            assert entry["answer"] in entry["candidates"]
            assert entry["needs_region"] == (len(set(values)) > 1)
            wordings[entry["question"]] += 1
    assert len(wordings) == 12
    assert min(wordings.values()) > 60
