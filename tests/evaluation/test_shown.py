"""Which examples keep their images: wrong ones among them, wherever they stand in the split."""

import numpy as np

from ofa_jax.evaluation import scoring
from ofa_jax.evaluation.rows import IMAGES, shown_examples
from ofa_jax.evaluation.scorers import SCORERS

BOX = [0.0, 0.0, 8.0, 8.0]


def judgements(result):
    return {number: result.judgement(number) for number in range(len(result.scores))}


def test_wrong_answers_behind_the_first_examples_keep_their_images():
    """The first 100 of 512 images are right; 17 wrong ones and 60 partly right ones follow."""
    examples = [{"boxes": np.array([BOX, [9, 9, 16, 16]]), "labels": ["dog", "cat"]}] * 512
    both, one, none = [(BOX, "dog"), ([9, 9, 16, 16], "cat")], [(BOX, "dog")], []
    predictions = [both] * 512
    partly, wrong = range(100, 160), range(460, 477)
    for number in partly:
        predictions[number] = one
    for number in wrong:
        predictions[number] = none
    chosen = shown_examples(judgements(SCORERS["objects"](predictions, examples)))
    assert len(chosen) == IMAGES == 48
    # A third of the images each, as far as there are any.
    assert chosen == {*range(16), *list(partly)[:16], *list(wrong)[:16]}


def test_examples_are_few_or_all_of_one_kind():
    answers = [{"answer": "yes"}] * 60
    all_right = judgements(SCORERS["answer"](["yes"] * 60, answers))
    assert shown_examples(all_right) == set(range(48))
    one_wrong = judgements(SCORERS["answer"](["yes"] * 59 + ["no"], answers))
    assert shown_examples(one_wrong) == {*range(47), 59}
    assert shown_examples(dict(list(one_wrong.items())[57:])) == {57, 58, 59}
    assert shown_examples({}) == frozenset()


def test_measured_examples_are_spread_from_best_to_worst():
    scores = list(np.linspace(0, 2, 100))
    result = scoring.Result.measured("cider_d", {"cider_d": 1.0}, 0.0, scores)
    chosen = shown_examples(judgements(result), limit=5)
    assert {0, 99} <= chosen
    assert len(chosen) == 5


def test_examples_without_truth_keep_images_too():
    rows = dict.fromkeys(range(100), scoring.NOT_JUDGED)
    assert len(shown_examples(rows)) == 48
