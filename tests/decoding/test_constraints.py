"""The compressed trie allows exactly what a dictionary of prefixes allows."""

import jax
import numpy as np
import pytest

from ofa_jax.decoding.constraints import IdRanges, Trie
from tests.decoding.numpy_reference import trie_children


def random_candidates(rng, count, vocab, longest):
    """Sequences with many shared prefixes; a few tokens are frequent."""
    return [
        (rng.integers(3, vocab, rng.integers(1, longest + 1)) // rng.integers(1, 6))
        .clip(3)
        .tolist()
        for _ in range(count)
    ]


@pytest.mark.parametrize("narrow_width", [1, 4, 64])
def test_walk_equals_prefix_search(narrow_width):
    rng = np.random.default_rng(narrow_width)
    candidates = random_candidates(rng, 300, 60, 5)
    trie = Trie.build(candidates, narrow_width=narrow_width)
    state = trie.init_state(8, 2)
    walked = [[[] for _ in range(2)] for _ in range(8)]
    allowed = jax.jit(trie.allowed, static_argnums=1)
    advance = jax.jit(trie.advance)
    for _ in range(5):
        masks = np.asarray(allowed(state, 64))
        tokens = np.zeros((8, 2), np.int32)
        for row in range(8):
            for beam in range(2):
                expected = trie_children(candidates, walked[row][beam])
                assert set(np.flatnonzero(masks[row, beam]).tolist()) == expected
                going_on = sorted(expected - {2}) or [int(rng.integers(3, 60))]
                is_astray = rng.random() < 0.1
                tokens[row, beam] = 59 if is_astray else rng.choice(going_on)
                walked[row][beam].append(int(tokens[row, beam]))
        state = advance(state, tokens)


def test_unknown_prefix_allows_only_eos():
    trie = Trie.build([[4, 5]])
    lost = trie.advance(trie.init_state(1, 1), np.array([[9]]))
    assert np.flatnonzero(trie.allowed(lost, 10)).tolist() == [2]
    lost = trie.advance(lost, np.array([[4]]))
    assert np.flatnonzero(trie.allowed(lost, 10)).tolist() == [2]


def test_vqa_sized_trie_is_small():
    rng = np.random.default_rng(0)
    candidates = random_candidates(rng, 21_000, 59_000, 4)
    trie = Trie.build(candidates)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(trie)) < 50e6
    nodes = trie.nodes_before(np.array([[*candidates[0], 2]], np.int32))
    masks = np.asarray(trie.allowed(nodes, 59_520))[0]
    for place, token in enumerate([*candidates[0], 2]):
        assert masks[place, token]
        assert set(np.flatnonzero(masks[place]).tolist()) == trie_children(
            candidates, candidates[0][:place]
        )


def test_target_masks_leave_out_the_prompt():
    candidates = [[4], [5, 6], [5, 7]]
    trie = Trie.build(candidates)
    targets = np.array([[9, 9, 5, 6, 2], [4, 2, 0, 0, 0]], np.int32)
    masks = np.asarray(trie.target_masks(targets, 12, np.array([2, 0])))
    allowed = [[np.flatnonzero(row).tolist() for row in sentence] for sentence in masks]
    assert allowed[0] == [[], [], [4, 5], [6, 7], [2]]
    assert allowed[1][:2] == [[4, 5], [2]]
    whole = np.asarray(trie.target_masks(targets[1:], 12))
    np.testing.assert_array_equal(whole[0], masks[1])


def test_ranges_keep_the_specials():
    mask = np.asarray(IdRanges(((6, 8), (10, 11))).allowed((), 12))[0, 0]
    assert np.flatnonzero(mask).tolist() == [0, 1, 2, 3, 6, 7, 10]


def test_errors_name_the_cause():
    with pytest.raises(ValueError, match="at least one candidate"):
        Trie.build([])
    with pytest.raises(ValueError, match="candidate 1 of the trie"):
        Trie.build([[4], [5, 2]])
    with pytest.raises(ValueError, match="candidate 0 of the trie"):
        Trie.build([[]])
    with pytest.raises(ValueError, match="contains id 30"):
        Trie.build([[30]], narrow_width=0).allowed(np.zeros((1, 1), np.int32), 20)
    with pytest.raises(ValueError, match="4 <= start < end"):
        IdRanges(((2, 8),))
    with pytest.raises(ValueError, match="ends at 9"):
        IdRanges(((4, 9),)).allowed((), 8)
