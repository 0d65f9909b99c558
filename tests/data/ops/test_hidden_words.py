"""Words that are in the target but neither scored nor read."""

import numpy as np

from ofa_jax.data.ops.hidden_words import hide_words


class Spelled:
    def encode(self, text):
        return {" red": [10], " orange": [11], " an orange": [12, 11]}[text]


SPELLED = Spelled()
WORDS = ("red", "orange", "an orange")


def features(targets):
    targets = np.array(targets, np.int32)
    return {
        "inputs": np.array([0, 21, 10, 22, 2], np.int32),
        "targets": targets,
        "decoder_inputs": np.concatenate([[0], targets[:-1]]).astype(np.int32),
        "loss_weights": np.full(len(targets), 2.0, np.float32),
    }


def test_words_get_no_weight_and_are_not_read():
    given = features([12, 11, 20, 15, 10, 21, 2])
    seen = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = hide_words(given, WORDS, WORDS, SPELLED, (4, 30), rng)
        np.testing.assert_array_equal(found["loss_weights"], [0, 0, 2, 2, 0, 2, 2])
        np.testing.assert_array_equal(found["targets"], given["targets"])
        assert found["decoder_inputs"].dtype == np.int32
        assert found["loss_weights"].dtype == np.float32
        np.testing.assert_array_equal(found["decoder_inputs"][[0, 3, 4, 6]], [0, 20, 15, 21])
        seen |= set(found["decoder_inputs"][[1, 2, 5]].tolist())
    assert seen <= set(range(4, 30)) - {10, 11, 12}
    assert len(seen) > 15


def test_the_last_word_has_nothing_behind_it():
    found = hide_words(features([20, 10]), WORDS, WORDS, SPELLED, (4, 30), np.random.default_rng(0))
    np.testing.assert_array_equal(found["loss_weights"], [2, 0])
    np.testing.assert_array_equal(found["decoder_inputs"], [0, 20])


def test_the_given_features_stay():
    given = features([10, 20])
    before = {name: value.copy() for name, value in given.items()}
    hide_words(given, WORDS, WORDS, SPELLED, (4, 30), np.random.default_rng(0))
    for name, value in before.items():
        np.testing.assert_array_equal(given[name], value)


def test_words_may_be_read_that_are_not_scored_and_the_other_way_round():
    given, rng = features([12, 11, 20, 15, 10, 21, 2]), np.random.default_rng(0)
    found = hide_words(given, ("red",), (), SPELLED, (4, 30), rng)
    np.testing.assert_array_equal(found["loss_weights"], [2, 2, 2, 2, 0, 2, 2])
    np.testing.assert_array_equal(found["decoder_inputs"], given["decoder_inputs"])
    found = hide_words(given, (), ("red",), SPELLED, (4, 30), rng)
    np.testing.assert_array_equal(found["loss_weights"], given["loss_weights"])
    changed = found["decoder_inputs"] != given["decoder_inputs"]
    np.testing.assert_array_equal(np.flatnonzero(changed), [5])


def test_the_encoder_does_not_read_them_either():
    given, seen = features([20, 21]), set()
    for seed in range(100):
        found = hide_words(given, (), ("red",), SPELLED, (4, 30), np.random.default_rng(seed))
        np.testing.assert_array_equal(found["inputs"][[0, 1, 3, 4]], [0, 21, 22, 2])
        assert found["inputs"].dtype == np.int32
        seen.add(int(found["inputs"][2]))
    assert seen <= set(range(4, 30)) - {10}
    assert len(seen) > 15
    np.testing.assert_array_equal(
        hide_words(given, ("red",), (), SPELLED, (4, 30), np.random.default_rng(0))["inputs"],
        given["inputs"],
    )
