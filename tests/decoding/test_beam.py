"""Beam search equals the slow reference on random toy decoders, whatever the settings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.decoding.beam import BeamConfig, beam_search
from ofa_jax.decoding.constraints import IdRanges, Trie
from tests.decoding import numpy_reference
from tests.decoding.toy_decoder import ToyDecoder, step

BATCH, VOCAB, MAX_LENGTH = 3, 24, 9
ANSWERS = [[4], [5, 6], [5, 7, 8], [9, 9, 9], [10, 4], [5, 6, 7], [11], [3, 4]]


search = jax.jit(
    functools.partial(beam_search, step), static_argnames=("config", "batch", "max_length")
)


def run(toy, config, *, constraint=None, prefix=None, max_length=MAX_LENGTH):
    """`beam_search` under jit; numpy hypotheses."""
    found = search(
        toy.init_cache(config.beam),
        config,
        batch=toy.batch,
        max_length=max_length,
        constraint=constraint,
        prefix=prefix,
    )
    return jax.tree.map(np.asarray, found)


def assert_equal(found, toy, config, *, allowed=None, prefixes=None, max_length=MAX_LENGTH):
    """Compares tokens exactly, scores to 1e-4."""
    for sentence in range(toy.batch):
        expected = numpy_reference.search(
            functools.partial(toy.next_logits, sentence),
            config,
            max_length=max_length,
            prefix=prefixes[sentence] if prefixes else (),
            allowed=allowed,
        )
        lengths = found.lengths[sentence]
        assert (lengths > 0).sum() == len(expected)
        np.testing.assert_array_equal(found.scores[sentence, len(expected) :], -np.inf)
        for place, (tokens, score, gains) in enumerate(expected):
            length = lengths[place]
            assert found.tokens[sentence, place, :length].tolist() == tokens
            assert not found.tokens[sentence, place, length:].any()
            np.testing.assert_allclose(found.scores[sentence, place], score, atol=1e-4)
            total = found.log_probabilities[sentence, place]
            np.testing.assert_allclose(total, sum(gains), atol=1e-4)
            np.testing.assert_allclose(
                found.positional_scores[sentence, place, :length], gains, atol=1e-4
            )


@pytest.mark.parametrize("is_greedy", [True, False])
@pytest.mark.parametrize(
    ("beam", "settings"),
    [
        (2, {}),
        (3, {"no_repeat_ngram_size": 1, "temperature": 0.7, "min_len": 0}),
        (4, {"no_repeat_ngram_size": 2, "min_len": 4, "normalize_scores": False}),
        (5, {"no_repeat_ngram_size": 3, "length_penalty": 0.5}),
        (5, {"gen_code": True, "unk_penalty": 2.0, "length_penalty": 2.0}),
        (4, {"unk_penalty": 2.0, "temperature": 1.5}),
    ],
    ids=str,
)
def test_equals_reference(beam, settings, is_greedy):
    config = BeamConfig(beam=1 if is_greedy else beam, **settings)
    for seed in range(4):
        toy = ToyDecoder(seed, batch=BATCH, vocab=VOCAB, places=MAX_LENGTH + 1)
        assert_equal(run(toy, config), toy, config)


@pytest.mark.parametrize(("beam", "zero_shot"), [(1, False), (3, True), (4, False)])
def test_id_range_equals_reference(beam, zero_shot):
    config = BeamConfig(beam=beam, zero_shot=zero_shot, min_len=4)
    inside = {0, 1, 2, 3, *range(9, 14), *range(17, 20)}
    toy = ToyDecoder(7, batch=BATCH, vocab=VOCAB, places=MAX_LENGTH + 1)
    found = run(toy, config, constraint=IdRanges(((9, 14), (17, 20))))
    assert_equal(found, toy, config, allowed=lambda _: inside)


@pytest.mark.parametrize("narrow_width", [1, 32])
@pytest.mark.parametrize("zero_shot", [False, True])
@pytest.mark.parametrize("beam", [1, 3])
def test_trie_equals_reference(beam, zero_shot, narrow_width):
    config = BeamConfig(beam=beam, zero_shot=zero_shot, normalize_scores=False)
    for seed in range(2):
        toy = ToyDecoder(seed, batch=BATCH, vocab=VOCAB, places=MAX_LENGTH + 1)
        found = run(toy, config, constraint=Trie.build(ANSWERS, narrow_width=narrow_width))
        assert_equal(
            found,
            toy,
            config,
            allowed=functools.partial(numpy_reference.trie_children, ANSWERS),
        )


PROMPTS = [[6, 7, 6, 7], [], [20, 2]]  # one holds EOS, as the official prompt "src" does


def padded(prompts):
    """int32[b, 4] prompts, padded right with 0."""
    rows = [[*prompt, *[0] * (4 - len(prompt))] for prompt in prompts]
    return jnp.asarray(rows, jnp.int32)


@pytest.mark.parametrize("with_trie", [False, True])
@pytest.mark.parametrize(
    ("beam", "settings"),
    [
        (1, {"no_repeat_ngram_size": 2}),
        (3, {"no_repeat_ngram_size": 1, "length_penalty": 0.5}),
        (4, {"min_len": 3, "normalize_scores": False, "zero_shot": True}),
    ],
    ids=str,
)
def test_prompts_are_context_only(beam, settings, with_trie):
    """Prompts of different lengths: their EOS, n-grams, length and probability do not count."""
    if with_trie:
        settings = {**settings, "no_repeat_ngram_size": 0, "min_len": 1}
    config = BeamConfig(beam=beam, **settings)
    toy = ToyDecoder(11, batch=BATCH, vocab=VOCAB, places=4 + MAX_LENGTH + 1)
    constraint = Trie.build(ANSWERS) if with_trie else None
    found = run(toy, config, prefix=padded(PROMPTS), constraint=constraint)
    allowed = functools.partial(numpy_reference.trie_children, ANSWERS) if with_trie else None
    assert_equal(found, toy, config, prefixes=PROMPTS, allowed=allowed)


@pytest.mark.parametrize("beam", [1, 3])
def test_words_of_the_prompt_may_be_repeated(beam):
    """An answer that says three words of the question again is not forbidden."""
    toy = ToyDecoder(1, batch=1, vocab=VOCAB, places=12)

    def echoing_step(cache, tokens, position):
        logits, cache = step(cache, tokens, position)
        favourite = jnp.array([0, 0, 0, 0, 6, 7, 8, 2, 2, 2, 2, 2])[position]
        return logits.at[..., favourite].add(50.0), cache

    found = beam_search(
        echoing_step,
        toy.init_cache(beam),
        BeamConfig(beam=beam, no_repeat_ngram_size=3),
        batch=1,
        max_length=5,
        prefix=jnp.array([[5, 6, 7, 8]]),
    )
    assert found.tokens[0, 0].tolist() == [6, 7, 8, 2, 0, 0]


@pytest.mark.parametrize("beam", [1, 3])
def test_the_only_allowed_answer_is_certain(beam):
    toy = ToyDecoder(4, batch=BATCH, vocab=VOCAB, places=4 + MAX_LENGTH + 1)
    found = run(toy, BeamConfig(beam=beam), prefix=padded(PROMPTS), constraint=Trie.build([[9, 5]]))
    np.testing.assert_array_equal(found.tokens[:, 0, :3], [[9, 5, 2]] * BATCH)
    np.testing.assert_allclose(found.scores[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(found.log_probabilities[:, 0], 0, atol=1e-6)


def test_fewer_candidates_than_beams_leave_empty_places():
    toy = ToyDecoder(0, batch=BATCH, vocab=VOCAB, places=MAX_LENGTH + 1)
    found = run(toy, BeamConfig(beam=5), constraint=Trie.build([[4], [5]]))
    np.testing.assert_array_equal(found.lengths, [[2, 2, 0, 0, 0]] * BATCH)
    np.testing.assert_array_equal(found.scores[:, 2:], -np.inf)
    np.testing.assert_array_equal(found.log_probabilities[:, 2:], -np.inf)
    assert not found.tokens[:, 2:].any()


def test_loop_stops_when_every_sentence_is_done():
    steps = []
    toy = ToyDecoder(0, batch=BATCH, vocab=VOCAB, places=201)

    def recorded_step(cache, tokens, position):
        jax.debug.callback(lambda value: steps.append(int(value)), position)
        return step(cache, tokens, position)

    for beam in (1, 4):
        steps.clear()
        found = beam_search(
            recorded_step,
            toy.init_cache(beam),
            BeamConfig(beam=beam),
            batch=BATCH,
            max_length=200,
            constraint=Trie.build(ANSWERS),
        )
        jax.block_until_ready(found)
        jax.effects_barrier()
        assert max(steps) <= 4


def test_nan_logits_are_never_chosen():
    toy = ToyDecoder(0, batch=1, vocab=VOCAB, places=MAX_LENGTH + 1)

    def broken_step(cache, tokens, position):
        logits, cache = step(cache, tokens, position)
        return logits.at[:, 1:].set(jnp.nan), cache

    found = beam_search(
        broken_step, toy.init_cache(3), BeamConfig(beam=3, min_len=0), batch=1, max_length=4
    )
    assert np.isfinite(np.asarray(found.scores[found.lengths > 0])).all()


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"beam .* 1 to 1,024"):
        BeamConfig(beam=0)
    with pytest.raises(ValueError, match="temperature"):
        BeamConfig(temperature=0.0)
    with pytest.raises(ValueError, match="min_len 5 is larger"):
        BeamConfig(min_len=5, max_len_b=4).max_length()
    toy = ToyDecoder(0, batch=1, vocab=VOCAB, places=9)
    with pytest.raises(ValueError, match=r"vocabulary .*at least 26"):
        run(toy, BeamConfig(beam=13))


def test_max_length_counts_the_source():
    assert BeamConfig(max_len_a=0.5, max_len_b=3).max_length(9) == 7
    assert dataclasses.replace(BeamConfig(), max_len_b=16).max_length(80) == 16
