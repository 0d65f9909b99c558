"""Decoding with the cached model equals teacher forcing with the whole model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from ofa_jax.decoding import generate as generation
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import IdRanges
from ofa_jax.decoding.generate import generate
from ofa_jax.decoding.ranking import Candidates, rank
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.model import OFA, SIZES

MODEL = OFA(SIZES["nano"])


def make_batch(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 400, (2, 7)).astype(np.int32)
    tokens[1, 5:] = 0
    return {
        "encoder_input_tokens": tokens,
        "encoder_images": rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8),
        "encoder_image_masks": np.array([True, False]),
        "decoder_code_masks": np.array([False, True]),
        "task_ids": np.zeros(2, np.int32),
    }


@functools.cache
def make_variables():
    """Random weights without compiling the initialization; the norms scramble the copying of
    inputs that tied embeddings are prone to."""
    batch = {**make_batch(0), "decoder_input_tokens": np.ones((2, 3), np.int32)}
    shapes = meta.unbox(jax.eval_shape(MODEL.init, jax.random.key(0), batch))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = path[-1].key
        if path[0].key == "batch_stats":
            return np.full(leaf.shape, float("var" in name), np.float32)
        noise = rng.normal(size=leaf.shape)
        if len(leaf.shape) < 2:
            return (noise + (name == "scale")).astype(np.float32)
        return (noise / np.prod(leaf.shape[:-1]) ** 0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@jax.jit
def teacher_forced(variables, batch, tokens, temperature=1.0):
    """float32[b, t, v] log-probabilities of what follows each prefix of tokens int32[b, t]."""
    inputs = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=1)[:, :-1]
    logits = MODEL.apply(variables, {**batch, "decoder_input_tokens": inputs})
    return jax.nn.log_softmax(logits / temperature, axis=-1)


def assert_scored_like_teacher_forcing(found, batch, temperature=1.0):
    for place in range(found.tokens.shape[1]):
        tokens = found.tokens[:, place]
        log_probs = teacher_forced(make_variables(), batch, tokens, temperature)
        gains = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
        is_token = np.arange(tokens.shape[1]) < np.asarray(found.lengths[:, place])[:, None]
        np.testing.assert_allclose(
            found.positional_scores[:, place], np.where(is_token, gains, 0), atol=1e-4
        )


def test_greedy_takes_the_best_token_of_teacher_forcing():
    batch = make_batch(1)
    # No token twice: a random model would say the same one for ever.
    config = BeamConfig(beam=1, max_len_b=6, no_repeat_ngram_size=1)
    found = generate(MODEL, make_variables(), batch, config)
    assert_scored_like_teacher_forcing(found, batch)
    log_probs = np.array(teacher_forced(make_variables(), batch, found.tokens[:, 0]))
    log_probs[..., :2] = -np.inf
    log_probs[:, 0, 2] = -np.inf
    for sentence in range(2):
        length = int(found.lengths[sentence, 0])
        tokens = np.asarray(found.tokens[sentence, 0])
        free = min(length, 6)  # the seventh can only be EOS
        for step in range(1, free):
            log_probs[sentence, step, tokens[:step]] = -np.inf
        np.testing.assert_array_equal(log_probs[sentence, :free].argmax(-1), tokens[:free])
        assert tokens[length - 1] == 2


def test_beam_is_scored_like_teacher_forcing_and_beats_greedy():
    batch = make_batch(2)
    settings = {"max_len_b": 6, "min_len": 6, "normalize_scores": False}
    wide = generate(MODEL, make_variables(), batch, BeamConfig(beam=4, **settings))
    assert_scored_like_teacher_forcing(wide, batch)
    greedy = generate(MODEL, make_variables(), batch, BeamConfig(beam=1, **settings))
    assert (wide.scores[:, 0] >= greedy.scores[:, 0] - 1e-5).all()


def test_samples_are_scored_like_teacher_forcing_and_need_a_key():
    batch = make_batch(3)
    config = SamplingConfig(samples=3, top_k=50, max_len_b=6, temperature=0.9)
    found = generate(MODEL, make_variables(), batch, config, rng=jax.random.key(0))
    assert_scored_like_teacher_forcing(found, batch, 0.9)
    with pytest.raises(ValueError, match="sampling needs rng"):
        generate(MODEL, make_variables(), batch, config)


def test_compiled_once_for_new_weights_and_inputs():
    config = BeamConfig(beam=1, max_len_b=6)
    constraint = IdRanges(((10, 90),))
    first = generate(MODEL, make_variables(), make_batch(1), config, constraint=constraint)
    before = generation._generate._cache_size(), generation._encode._cache_size()
    other = jax.tree.map(lambda leaf: leaf * 1.1, make_variables())
    second = generate(MODEL, other, make_batch(2), config, constraint=IdRanges(((10, 90),)))
    assert (generation._generate._cache_size(), generation._encode._cache_size()) == before
    assert first.scores.tolist() != second.scores.tolist()


def test_ranking_with_prompts_equals_teacher_forcing():
    batch = {**make_batch(4), "decoder_code_masks": np.zeros(2, bool)}
    answers = [[30, 31], [32], [30, 40, 41]]
    prompts = [[50, 51, 52], [60]]
    prefix = np.array([[50, 51, 52], [60, 0, 0]], np.int32)
    candidates = Candidates.build(answers, renormalize=False, chunk=2)
    scores = rank(MODEL, make_variables(), batch, candidates, prefix=prefix)
    for number, answer in enumerate(answers):
        rows = [[*prompt, *answer, 2] for prompt in prompts]
        tokens = np.array([row + [0] * (7 - len(row)) for row in rows], np.int32)
        log_probs = np.asarray(teacher_forced(make_variables(), batch, tokens))
        for sentence, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            gains = [log_probs[sentence, i, row[i]] for i in range(len(prompt), len(row))]
            np.testing.assert_allclose(scores[sentence, number], sum(gains), atol=2e-4)
