"""Wrong captions and answers: their rates, and that they are wrong."""

import numpy as np
import pytest

from ofa_jax.data.ops.negatives import (
    negative_answer,
    negative_caption,
    other_item,
    types_of_answers,
)

CAPTIONS = [f"caption {i}" for i in range(20)]
OBJECTS = ["dog", "cat", "car", "tree"]
ANSWERS = {
    "color": ["red", "blue", "green"],
    "how many": ["0", "1", "2", "3", "many"],
    "other": ["table", "sky", "red"],
}
TYPES = types_of_answers(ANSWERS)


def test_the_last_item_replaces_the_right_one():
    rng = np.random.default_rng(0)
    drawn = [other_item(["a", "b", "c", "d"], "b", rng) for _ in range(3000)]
    shares = {item: drawn.count(item) / 3000 for item in "abcd"}
    assert shares["b"] == 0
    for item in "acd":
        assert shares[item] == pytest.approx(1 / 3, abs=0.04)
    assert "d" not in {other_item(["a", "b", "c", "d"], "x", rng) for _ in range(300)}


def test_lists_without_another_item():
    rng = np.random.default_rng(0)
    assert other_item(["b", "a", "a"], "a", rng) == "b"
    assert other_item(["a"], "b", rng) == "a"
    with pytest.raises(ValueError, match="every item"):
        other_item(["a", "a"], "a", rng)
    with pytest.raises(ValueError, match="empty"):
        other_item([], "a", rng)


def test_objects_are_swapped_in_two_of_five_negatives():
    rng = np.random.default_rng(0)
    caption = "a dog and a dog"
    drawn = [negative_caption(caption, ["dog"], CAPTIONS, OBJECTS, rng) for _ in range(4000)]
    swapped = [text for text in drawn if text not in CAPTIONS]
    assert len(swapped) / 4000 == pytest.approx(0.4, abs=0.03)
    # "dog" is drawn as often as the others and then gives way to the last name.
    assert set(swapped) == {"a cat and a cat", "a car and a car", "a tree and a tree"}


def test_negative_captions_always_differ():
    rng = np.random.default_rng(1)
    for objects in ([], ["sofa"], ["dog"]):
        for caption in ("caption 3", "a dog"):
            for _ in range(300):
                assert negative_caption(caption, objects, CAPTIONS, OBJECTS, rng) != caption
    only_swaps = [
        negative_caption("a dog", ["dog"], CAPTIONS, OBJECTS, rng, swap_probability=1.0)
        for _ in range(50)
    ]
    assert not set(only_swaps) & set(CAPTIONS)


def test_types_leave_other_out():
    assert TYPES["red"] == "color"
    assert TYPES["many"] == "how many"
    assert "table" not in TYPES


def test_certain_answers_get_negatives_of_their_type():
    """With confidence 1 the type is used when u < 0.9, else a random other answer."""
    rng = np.random.default_rng(0)
    drawn = [negative_answer("red", 1.0, ANSWERS, TYPES, rng) for _ in range(4000)]
    assert "red" not in drawn
    same_type = sum(answer in ("blue", "green") for answer in drawn) / 4000
    assert same_type == pytest.approx(0.9, abs=0.02)
    doubtful = [negative_answer("red", 0.05, ANSWERS, TYPES, rng) for _ in range(200)]
    assert set(doubtful) <= {"table", "sky"}
    unknown = [negative_answer("surfing", 1.0, ANSWERS, TYPES, rng) for _ in range(200)]
    assert set(unknown) <= {"table", "sky"}


def test_numbers_become_neighbors():
    """u in (0.5, 0.9) of the confident draws: 40% neighbors, at least."""
    rng = np.random.default_rng(0)
    answers = {"how many": ["7", "8", "many"], "other": ["table"]}
    types = {"7": "how many", "8": "how many", "0": "how many", "many": "how many"}
    drawn = [negative_answer("7", 1.0, answers, types, rng) for _ in range(4000)]
    assert "7" not in drawn
    assert drawn.count("6") / 4000 == pytest.approx(0.2, abs=0.03)
    zero = [negative_answer("0", 1.0, answers, types, rng) for _ in range(500)]
    assert "-1" not in zero
    assert "1" in zero
    words = {negative_answer("many", 1.0, answers, types, rng) for _ in range(200)}
    assert words <= {"7", "8", "table"}


def test_a_type_with_one_answer_falls_back():
    answers = {"sport": ["golf"], "other": ["table"]}
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert negative_answer("golf", 1.0, answers, {"golf": "sport"}, rng) == "table"


def test_missing_other_is_named():
    with pytest.raises(ValueError, match="'other'"):
        negative_answer("red", 1.0, {"color": ["red"]}, {}, np.random.default_rng(0))
