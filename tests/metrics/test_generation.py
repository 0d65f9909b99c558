"""Scores of generated images with networks that can be calculated by hand."""

import numpy as np
import pytest

from ofa_jax.metrics.generation import (
    Extractors,
    RunningGaussian,
    generation_scores,
)
from ofa_jax.metrics.image import frechet_distance

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (40, 4, 4, 3)).astype(np.uint8)
OTHERS = RNG.integers(50, 256, (30, 4, 4, 3)).astype(np.uint8)
PROJECTION = RNG.normal(size=(48, 5))
WORDS = {"dark": np.array([1.0, 0.0]), "bright": np.array([0.0, 1.0])}


def features(pictures):
    return pictures.reshape(len(pictures), -1) / 255 @ PROJECTION


def brightness(pictures):
    mean = pictures.mean(axis=(1, 2, 3)) / 255
    return np.stack([1 - mean, mean], axis=1)


def moments(features):
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def words(texts):
    return np.stack([WORDS[text] for text in texts])


def test_statistics_in_batches_are_those_of_everything():
    running = RunningGaussian()
    rows = features(PICTURES) + 1e6  # far from zero, where naive sums lose digits
    for part in (rows[:7], rows[7:8], rows[8:]):
        running.add(part)
    mean, covariance = running.moments()
    expected_mean, expected = moments(rows)
    np.testing.assert_allclose(mean, expected_mean)
    np.testing.assert_allclose(covariance, expected, atol=1e-6)
    with pytest.raises(ValueError, match="two images, got 0"):
        RunningGaussian().moments()


def test_scores_of_given_networks():
    extractors = Extractors(
        features=features,
        probabilities=brightness,
        image_embeddings=brightness,
        text_embeddings=words,
    )
    captions = ["dark"] * 20 + ["bright"] * 20
    scores = generation_scores(iter(PICTURES), captions, extractors, real=OTHERS, batch_size=16)
    expected = frechet_distance(*moments(features(PICTURES)), *moments(features(OTHERS)))
    assert scores["fid"] == pytest.approx(expected, rel=1e-6)
    assert 1.0 <= scores["inception_score"] < 2.0
    embedded = brightness(PICTURES)
    cosines = (embedded * words(captions)).sum(1) / np.linalg.norm(embedded, axis=1)
    assert scores["clip_score"] == pytest.approx(100 * cosines.mean())
    same = generation_scores(PICTURES, captions, extractors, real=PICTURES)
    assert same["fid"] == pytest.approx(0.0, abs=1e-6)


def test_only_what_is_given_is_computed():
    captions = ["dark"] * 40
    assert generation_scores(PICTURES, captions, Extractors()) == {}
    assert set(generation_scores(PICTURES, captions, Extractors(probabilities=brightness))) == {
        "inception_score"
    }
    with pytest.raises(ValueError, match="40 images for 3 captions"):
        generation_scores(PICTURES, captions[:3], Extractors())


def make():
    return Extractors(features=features)


def test_extractors_come_from_a_function_of_the_user():
    assert Extractors.load(f"{__name__}:make").features is features
    with pytest.raises(ValueError, match="must be 'module:function'"):
        Extractors.load("no_such_module:make")
    with pytest.raises(ValueError, match=r"Extractors, got ndarray"):
        Extractors.load(f"{__name__}:features_of_nothing")


def features_of_nothing():
    return np.zeros(1)
