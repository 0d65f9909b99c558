"""Classifier-free guidance: what is drawn follows the mixed logits, and costs only rows."""

import functools

import jax
import numpy as np
import pytest

from ofa_jax.decoding.constraints import IdRanges
from ofa_jax.decoding.generate import _generate, generate
from ofa_jax.decoding.sampling import SamplingConfig, guided, sample
from ofa_jax.model.ofa import OFA
from tests.decoding.numpy_reference import log_softmax
from tests.decoding.toy_decoder import ToyDecoder, step
from tests.model.small import make_config, make_variables


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_scores_are_those_of_the_mixed_logits(guidance):
    toy = ToyDecoder(3, batch=4, vocab=24, places=7)
    config = SamplingConfig(samples=3, top_k=4, min_len=2)
    search = functools.partial(sample, guided(step, guidance), config=config, batch=2, max_length=6)
    found = jax.jit(search)(toy.init_cache(3), rng=jax.random.key(0))
    for row in range(2):
        tokens = np.asarray(found.tokens[row, 0])[: int(found.lengths[row, 0])].tolist()
        gains = []
        for place, token in enumerate(tokens):
            own, empty = (toy.next_logits(r, tokens[:place]) for r in (row, row + 2))
            gains.append(log_softmax(empty + guidance * (own - empty))[token])
        np.testing.assert_allclose(found.log_probabilities[row, 0], np.sum(gains), atol=1e-4)


def test_guidance_by_the_prompt_itself_changes_nothing():
    config = make_config(vocab_size=60, max_positions=16)
    model, variables = OFA(config), make_variables(config)
    tokens = np.array([[1, 7, 8, 9, 2], [1, 12, 11, 2, 0]], np.int32)
    batch = {"encoder_input_tokens": tokens}
    key = jax.random.key(1)
    settings = {"samples": 2, "max_len_b": 4}
    plain = generate(model, variables, batch, SamplingConfig(**settings), rng=key)
    strong = SamplingConfig(**settings, guidance=4.0)
    same = generate(model, variables, batch, strong, unconditional=tokens, rng=key)
    np.testing.assert_array_equal(plain.tokens, same.tokens)
    programs = _generate._cache_size()
    other = np.array([[1, 5, 2, 0, 0]] * 2, np.int32)
    moved = generate(model, variables, batch, strong, unconditional=other, rng=key)
    assert not np.allclose(plain.log_probabilities, moved.log_probabilities)
    assert _generate._cache_size() == programs, "other prompts are the same program"
    with pytest.raises(ValueError, match=r"guidance .*empty prompts"):
        generate(model, variables, batch, strong, rng=key)


def test_ranges_tell_every_id_that_can_be_drawn():
    assert IdRanges(((10, 13), (20, 21))).ids().tolist() == [0, 1, 2, 3, 10, 11, 12, 20]


@pytest.mark.parametrize("guidance", [-0.5, 101, "2"])
def test_guidance_out_of_bounds_is_named(guidance):
    with pytest.raises(ValueError, match="guidance"):
        SamplingConfig(guidance=guidance)
