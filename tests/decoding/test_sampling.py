"""Sampling draws from the right sets, with the right frequencies, and scores what it drew."""

import functools

import jax
import numpy as np
import pytest

from ofa_jax.decoding.constraints import IdRanges
from ofa_jax.decoding.sampling import SamplingConfig, draw, sample
from tests.decoding.numpy_reference import log_softmax
from tests.decoding.toy_decoder import ToyDecoder, step


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 3]),
        ({"top_p": 0.5}, [1, 3]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.71, "top_k": 1}, [1, 3, 2]),
    ],
)
def test_draw_frequencies(settings, kept):
    probabilities = np.array([0.05, 0.4, 0.2, 0.3, 0.05])
    rows = np.tile(np.log(probabilities), (20_000, 1)).astype(np.float32)
    ids, gains = draw(jax.random.key(0), rows, SamplingConfig(**settings))
    ids = np.asarray(ids)
    np.testing.assert_allclose(gains, rows[0][ids], rtol=1e-6)
    expected = np.zeros(5)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    np.testing.assert_allclose(np.bincount(ids, minlength=5) / len(ids), expected, atol=0.015)


def run(toy, config, seed=0, **kwargs):
    """`sample` under jit; numpy hypotheses."""
    search = jax.jit(
        functools.partial(sample, step, config=config, batch=toy.batch, max_length=8, **kwargs)
    )
    found = search(toy.init_cache(config.samples), rng=jax.random.key(seed))
    return jax.tree.map(np.asarray, found)


def test_codes_only_and_exact_length():
    toy = ToyDecoder(0, batch=2, vocab=24, places=9)
    config = SamplingConfig(samples=16, top_k=5, gen_code=True)
    found = run(toy, config, constraint=IdRanges(((10, 20),)))
    assert (found.lengths == 9).all()
    codes = found.tokens[..., :8]
    assert ((codes >= 10) & (codes < 20)).all()
    assert (found.tokens[..., 8] == 2).all()
    assert len({tuple(row) for row in codes[0].tolist()}) > 8


@pytest.mark.parametrize("prompts", [[[], []], [[7, 2], [9]]], ids=str)
def test_scores_are_the_models_log_probabilities(prompts):
    toy = ToyDecoder(3, batch=2, vocab=24, places=11)
    prefix = np.array([[*prompt, *[0] * (2 - len(prompt))] for prompt in prompts], np.int32)
    found = run(toy, SamplingConfig(samples=4, top_k=6, temperature=0.8), prefix=prefix)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    for sentence in range(2):
        for place in range(4):
            tokens = found.tokens[sentence, place][: found.lengths[sentence, place]].tolist()
            gains = [
                log_softmax(toy.next_logits(sentence, [*prompts[sentence], *tokens[:step]]) / 0.8)[
                    token
                ]
                for step, token in enumerate(tokens)
            ]
            np.testing.assert_allclose(
                found.positional_scores[sentence, place][: len(tokens)], gains, atol=1e-4
            )
            np.testing.assert_allclose(
                found.scores[sentence, place], np.sum(gains) / len(tokens), atol=1e-4
            )
            np.testing.assert_allclose(
                found.log_probabilities[sentence, place], np.sum(gains), atol=1e-4
            )
    assert found.tokens.tolist() != run(toy, SamplingConfig(samples=4, top_k=6), 1).tokens.tolist()


def test_a_prompt_takes_no_place_of_the_codes():
    toy = ToyDecoder(1, batch=2, vocab=24, places=12)
    config = SamplingConfig(samples=3, gen_code=True)
    prefix = np.array([[7, 8, 2], [9, 0, 0]], np.int32)
    found = run(toy, config, prefix=prefix, constraint=IdRanges(((10, 20),)))
    assert (found.lengths == 9).all()
    assert ((found.tokens[..., :8] >= 10) & (found.tokens[..., :8] < 20)).all()


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"top_p .*0 to 1"):
        SamplingConfig(top_p=1.5)
