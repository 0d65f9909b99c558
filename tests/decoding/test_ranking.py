"""Ranking equals plain teacher forcing of every candidate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.decoding.beam import BeamConfig, beam_search
from ofa_jax.decoding.constraints import Trie
from ofa_jax.decoding.ranking import Candidates, rank_candidates
from tests.decoding.numpy_reference import log_softmax, trie_children
from tests.decoding.toy_decoder import ToyDecoder, step

CANDIDATES = [[9, 9, 9, 4], [4], [5, 6], [5, 7, 8], [10, 4], [5, 6, 7], [11], [3, 4]]

rank = jax.jit(functools.partial(rank_candidates, step), static_argnames="batch")


def expected_scores(toy, prompts, *, renormalize, append_eos):
    """float64[b, candidates] by recomputing every position."""
    scores = np.zeros((toy.batch, len(CANDIDATES)))
    for sentence in range(toy.batch):
        for number, candidate in enumerate(CANDIDATES):
            tokens = [*candidate, 2] if append_eos else candidate
            for place, token in enumerate(tokens):
                row = toy.next_logits(sentence, [*prompts[sentence], *tokens[:place]])
                if renormalize:
                    allowed = trie_children(CANDIDATES, tokens[:place])
                    row[[i for i in range(len(row)) if i not in allowed]] = -np.inf
                scores[sentence, number] += log_softmax(row)[token]
    return scores


@pytest.mark.parametrize("prompts", [[[], [], []], [[6, 7], [8], [20, 21, 22, 23]]], ids=str)
@pytest.mark.parametrize(
    ("renormalize", "append_eos", "chunk"), [(True, True, 3), (False, True, 8), (True, False, 5)]
)
def test_equals_teacher_forcing(prompts, renormalize, append_eos, chunk):
    toy = ToyDecoder(2, batch=3, vocab=24, places=12)
    prefix = np.zeros((3, 4), np.int32)
    for row, tokens in enumerate(prompts):
        prefix[row, : len(tokens)] = tokens
    candidates = Candidates.build(
        CANDIDATES, chunk=chunk, renormalize=renormalize, append_eos=append_eos
    )
    scores = rank(toy.init_cache(1), candidates, batch=3, prefix=jnp.asarray(prefix))
    expected = expected_scores(toy, prompts, renormalize=renormalize, append_eos=append_eos)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_agrees_with_a_beam_as_wide_as_the_candidates():
    toy = ToyDecoder(4, batch=2, vocab=24, places=12)
    scores = rank(toy.init_cache(1), Candidates.build(CANDIDATES), batch=2)
    config = BeamConfig(beam=len(CANDIDATES), normalize_scores=False)
    found = beam_search(
        step,
        toy.init_cache(config.beam),
        config,
        batch=2,
        max_length=6,
        constraint=Trie.build(CANDIDATES),
    )
    np.testing.assert_allclose(found.scores, -np.sort(-np.asarray(scores)), atol=1e-4)
    best = Candidates.build(CANDIDATES, chunk=3).best(scores, 20)
    np.testing.assert_allclose(found.scores, best.scores, atol=1e-4)
    np.testing.assert_array_equal(found.lengths, best.lengths)
    np.testing.assert_array_equal(found.tokens[..., :5], best.tokens)
    np.testing.assert_allclose(np.exp(np.asarray(scores)).sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("append_eos", [True, False])
def test_best_candidates(append_eos):
    candidates = Candidates.build([[5, 6], [4], [7], [8]], chunk=3, append_eos=append_eos)
    best = candidates.best(jnp.array([[-2.0, -1.0, -1.0, -9.0], [-0.5, -3.0, -2.0, -2.5]]), 2)
    end = [2] if append_eos else []
    rows = [[[4], [7]], [[5, 6], [7]]]
    for sentence, answers in enumerate(rows):
        for place, answer in enumerate(answers):
            tokens = best.tokens[sentence, place].tolist()
            assert best.lengths[sentence, place] == len([*answer, *end])
            assert tokens == [*answer, *end] + [0] * (len(tokens) - len([*answer, *end]))
    np.testing.assert_array_equal(best.log_probabilities, [[-1.0, -1.0], [-0.5, -2.0]])
    np.testing.assert_array_equal(best.scores, best.log_probabilities)


def test_wrong_chunk_is_named():
    with pytest.raises(ValueError, match=r"chunk .*at least 1"):
        Candidates.build(CANDIDATES, chunk=0)
