"""Names of tasks that are trained together, and which of them evaluation can tell apart."""

import dataclasses

import pytest

import mixtures.scenes  # noqa: F401 (registers tasks)
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.data.tasks.task import TaskSet


def task_set(*names):
    tasks = tuple(task for name in names for task, _ in lookup(name))
    return TaskSet(tasks, (1.0,) * len(tasks), (), {}, tasks[0].tokenizer())


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("scenes_vqa", "vqa"),
        ("scenes_small_grounded_captioning_apart", "grounded_captioning_apart"),
        ("scenes_text_to_image_single_ranked", "text_to_image_single_ranked"),
    ],
)
def test_a_variant_is_the_name_without_the_data_set(name, variant):
    assert task_set(name).tasks[0].variant == variant


def test_families_are_names_where_they_are_unique():
    tasks = task_set("scenes_pretrain")
    assert len(tasks.tasks) == 8
    assert tasks.names == [task.family for task in tasks.tasks]
    assert tasks.scored == tuple(zip(tasks.names, tasks.tasks))


def tasks_by(tasks):
    return [(task.name, name) for name, task in tasks.scored]


def test_tasks_that_differ_in_training_only_are_scored_once():
    tasks = task_set("scenes_vqa_apart", "scenes_vqa", "scenes_captioning_apart")
    assert tasks.names == ["vqa_apart", "vqa", "captioning"]
    # The one whose training is as its evaluation; without one, what there is.
    assert tasks_by(tasks) == [
        ("scenes_vqa", "vqa"),
        ("scenes_captioning_apart", "captioning"),
    ]


@pytest.mark.parametrize(
    "change",
    [{"scorer": "exact_match"}, {"eval_prepare": ()}, {"family": "other"}],
)
def test_tasks_that_evaluation_tells_apart_keep_their_own_names(change):
    (task,) = task_set("scenes_vqa").tasks
    other = dataclasses.replace(task, name="scenes_other", **change)
    tasks = TaskSet((task, other), (1.0, 1.0), (), {}, task.tokenizer())
    assert [one for _, one in tasks.scored] == [task, other]
    assert tasks.names == (
        ["vqa", "other"] if "family" in change else ["scenes_vqa", "scenes_other"]
    )
