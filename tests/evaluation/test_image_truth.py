"""Generated images of `scenes` are read back and graded by the truth of their captions."""

import dataclasses

import numpy as np
import pytest

import mixtures.scenes  # noqa: F401  (registers the tasks)
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.data.tasks.task import TaskSet
from ofa_jax.evaluation import scorers
from ofa_jax.evaluation.image_truth import describe, true_image
from ofa_jax.model.config import SIZES
from ofa_jax.runs.engine import check_code_grids
from ofa_jax.scenes import read
from ofa_jax.scenes.renderer import render
from ofa_jax.scenes.world import Scene, SceneObject

LENGTHS = {"inputs": 32, "targets": 65, "image": 32}


def scene(*things, background="gray"):
    objects = tuple(SceneObject(color, shape, "", box) for color, shape, box in things)
    return Scene(32, background, "solid", objects)


LEFT, RIGHT = (2, 4, 14, 16), (18, 10, 30, 22)
RED_BLUE = scene(("red", "circle", LEFT), ("blue", "square", RIGHT))
BLUE_RED = scene(("blue", "square", LEFT), ("red", "circle", RIGHT))
SWAPPED = scene(("red", "square", LEFT), ("blue", "circle", RIGHT))


def graded(shown, caption):
    """Metrics of one image, beside a second that is always right."""
    sure = {"text": "a green cross", "scene": scene(("green", "cross", LEFT)).to_dict()}
    example = {"text": caption, "scene": RED_BLUE.to_dict()}
    images = [render(shown), render(Scene.from_dict(sure["scene"]))]
    return true_image(images, [example, sure], images)


@pytest.mark.parametrize(
    ("shown", "true", "color", "shape", "relation"),
    [
        (RED_BLUE, 1, 1, 1, 1),
        (BLUE_RED, 0, 1, 1, 0),
        (SWAPPED, 0, 1, 1, 1),
        (scene(("red", "circle", LEFT)), 0, 0, 0, 0),
    ],
    ids=["right", "turned", "swapped", "missing"],
)
def test_each_share_asks_for_its_part(shown, true, color, shape, relation):
    found = graded(shown, "a red circle left of a blue square")
    assert found.scores == [true, 1.0]
    assert found.metrics["true"] == (true + 1) / 2
    assert found.metrics["right_color"] == (color + 1) / 2
    assert found.metrics["right_shape"] == (shape + 1) / 2
    # Only one of the two captions says a relation.
    assert found.metrics["right_relation"] == relation
    assert found.baseline == found.metrics["another_true"] == 0.0


def test_backgrounds_count_where_they_are_named():
    found = graded(RED_BLUE, "a red circle on a black background")
    assert (found.metrics["true"], found.metrics["right_background"]) == (0.5, 0.0)
    assert "right_relation" not in found.metrics
    assert found.details[0]["prediction_text"] == "red circle, blue square on gray"
    assert describe(scene()) == "nothing on gray"


@pytest.mark.parametrize("kind", ["", "_single", "_relation", "_single_ranked"])
def test_true_codes_are_true_images(kind):
    task = lookup(f"scenes_text_to_image{kind}")[0][0]
    scorers.check(task)
    records = task.source.open("compositions")
    examples: list = []
    rows = [
        task.read(records, i, LENGTHS, seed=0, train=False, prepared=examples) for i in range(12)
    ]
    codes = [task.instructions[0].decode(row["targets"], task.tokenizer()) for row in rows]
    assert {len(one) for one in codes} == {64}
    found = scorers.score(task, codes, examples)
    assert found.metrics["true"] == found.metrics["true_once_coded"] >= 0.75
    assert found.metrics["another_true"] <= 0.25
    lines = [example["text"] for example in examples]
    if kind.startswith("_relation"):
        assert all(any(w in line for w in ("left", "right", "above", "below")) for line in lines)
    if kind.startswith("_single"):
        assert all(line.split()[0] in ("a", "an") and len(line.split()) == 3 for line in lines)
    read_back = read(np.asarray(examples[0]["image"]))
    assert read_back == Scene.from_dict(examples[0]["scene"])


def test_a_share_of_training_prompts_is_empty():
    task = lookup("scenes_text_to_image")[0][0]
    records = task.source.open("train")
    empty = np.array(task.empty_prompt())
    for train, bounds in ((True, (0.05, 0.17)), (False, (0.0, 0.0))):
        rows = [task.read(records, i, LENGTHS, seed=0, train=train)["inputs"] for i in range(200)]
        share = np.mean([np.array_equal(row, empty) for row in rows])
        assert bounds[0] <= share <= bounds[1]
    assert task.tokenizer().decode(empty).strip() == "what is the complete image? caption:"
    assert lookup("scenes_vqa")[0][0].empty_prompt() is None


def test_a_grid_that_the_model_does_not_write_is_named():
    config = SIZES["nano"]
    task = lookup("scenes_text_to_image")[0][0]
    tasks = TaskSet((task,), (1.0,), (), LENGTHS, task.tokenizer())
    check_code_grids(dataclasses.replace(config, code_image_size=32), tasks)
    with pytest.raises(ValueError, match=r"64 codes, .* 16: .* = 32 "):
        check_code_grids(config, tasks)
