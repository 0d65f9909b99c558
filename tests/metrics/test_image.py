"""Image scores against closed forms and scipy."""

import numpy as np
import pytest

from ofa_jax.metrics import image


def moments(features):
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def test_code_accuracy_pools_images():
    assert image.code_accuracy([[1, 2, 3, 4], [5]], [[1, 2, 0, 0], [5]]) == pytest.approx(3 / 5)
    with pytest.raises(ValueError, match=r"image 1: 1 .* 2"):
        image.code_accuracy([[1], [2]], [[1], [2, 3]])


def test_frechet_distance_of_diagonal_gaussians():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    distance = image.frechet_distance(np.zeros(3), np.diag(a), np.ones(3), np.diag(b))
    assert distance == pytest.approx(3 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum())


def test_frechet_distance_equals_matrix_root():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    (mean_a, a), (mean_b, b) = (
        moments(rng.normal(size=(200, 8)) @ rng.normal(size=(8, 8))) for _ in range(2)
    )
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert image.frechet_distance(mean_a, a, mean_b, b) == pytest.approx(expected)


def test_frechet_distance_with_few_samples():
    features = np.random.default_rng(0).normal(size=(5, 16))  # singular covariance
    statistics = moments(features)
    assert image.frechet_distance(*statistics, *statistics) == pytest.approx(0, abs=1e-5)


def test_inception_score_limits():
    certain = np.tile(np.eye(10), (10, 1))
    assert image.inception_score(certain, splits=10) == pytest.approx((10.0, 0.0))
    assert image.inception_score(np.full((20, 4), 0.25), splits=2) == pytest.approx((1.0, 0.0))
    with pytest.raises(ValueError, match="sum to 1"):
        image.inception_score(np.ones((4, 2)), splits=1)
    with pytest.raises(ValueError, match="splits"):
        image.inception_score(np.full((4, 2), 0.5), splits=5)


def test_clip_similarities_of_candidates():
    texts = np.array([[1.0, 0.0], [0.0, 2.0]])
    candidates = np.array([[[0.0, 3.0], [3.0, 4.0]], [[0.0, 5.0], [0.0, 0.0]]])
    cosines = image.clip_similarities(candidates, texts)
    np.testing.assert_allclose(cosines, [[0.0, 0.6], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"\[n, d\]"):
        image.clip_similarities(texts, texts[:, :1])
