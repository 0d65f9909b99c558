"""Images against images: codes, PSNR, Frechet distance, Inception score, CLIP similarities.

No network lives here. The Frechet distance, the Inception score and the CLIP similarities take
the features, class probabilities or embeddings of whatever extractor the caller trusts; numbers are
comparable only between runs with the same extractor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_jax.metrics.pairing import check_pairs

__all__ = [
    "clip_similarities",
    "code_accuracy",
    "code_use",
    "frechet_distance",
    "inception_score",
    "psnr",
]


def code_accuracy(
    predicted: Sequence[Sequence[int] | np.ndarray], true: Sequence[Sequence[int] | np.ndarray]
) -> float:
    """Share of image codes that equal the true code, over all images.

    Args:
      predicted: n sequences of codes, row by row of the code grid.
      true: n sequences of codes.

    Returns:
      Share in [0, 1].

    Raises:
      ValueError: where the numbers of images or the lengths of two grids differ.
    """
    check_pairs(predicted, true, names="predicted and true code grids")
    equal = total = 0
    for index, (p, t) in enumerate(zip(predicted, true)):
        p, t = np.asarray(p).ravel(), np.asarray(t).ravel()
        if p.shape != t.shape:
            raise ValueError(f"image {index}: {p.size} predicted codes for {t.size} true codes")
        equal += int((p == t).sum())
        total += t.size
    if total == 0:
        raise ValueError("all code grids are empty; code accuracy is undefined")
    return equal / total


def psnr(originals: np.ndarray, images: np.ndarray) -> float:
    """Peak signal-to-noise ratio over all pixels of all images, in decibel.

    Args:
      originals: uint8[...].
      images: uint8 of the same shape.

    Returns:
      10 log10(255^2 / mean squared error); infinite where they are equal.

    Raises:
      ValueError: where the shapes differ or there are no pixels.
    """
    if originals.shape != images.shape or not originals.size:
        raise ValueError(f"cannot compare images {originals.shape} with {images.shape}")
    error = float(np.mean(np.square(originals.astype(np.float64) - images)))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def code_use(codes: np.ndarray, num_codes: int) -> dict[str, float]:
    """How images make use of a codebook.

    Args:
      codes: int[...] in [0, num_codes).
      num_codes: size of the codebook.

    Returns:
      "codes_used": the share of codes that occur; "perplexity": exp of the entropy of their
      frequencies, `num_codes` where all are as frequent.
    """
    shares = np.bincount(codes.ravel(), minlength=num_codes) / max(codes.size, 1)
    there = shares[shares > 0]
    entropy = -float((there * np.log(there)).sum())
    return {"codes_used": len(there) / num_codes, "perplexity": float(np.exp(entropy))}


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """Symmetric root of a symmetric positive semi-definite matrix, float64[d, d]."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Squared Frechet distance of two Gaussians (FID, Heusel et al. 2017).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)). The trace of the root is taken from the
    eigenvalues of the symmetric C_a^(1/2) C_b C_a^(1/2), which has the same spectrum: no complex
    parts arise, and none has to be thrown away.

    Args:
      mean_a: float[d].
      covariance_a: float[d, d].
      mean_b: float[d].
      covariance_b: float[d, d].

    Returns:
      Distance >= 0 (rounding aside).

    Raises:
      ValueError: where the dimensions differ.
    """
    mean_a, mean_b = np.asarray(mean_a, np.float64), np.asarray(mean_b, np.float64)
    a, b = np.asarray(covariance_a, np.float64), np.asarray(covariance_b, np.float64)
    d = mean_a.size
    if mean_a.shape != (d,) or mean_b.shape != (d,) or a.shape != (d, d) or b.shape != (d, d):
        raise ValueError(
            "means must be [d] and covariances [d, d] with one d, got "
            f"{mean_a.shape}, {a.shape}, {mean_b.shape}, {b.shape}"
        )
    root = _square_root(a)
    middle = root @ b @ root
    spectrum = np.linalg.eigvalsh((middle + middle.T) / 2)
    trace_root = np.sqrt(np.clip(spectrum, 0.0, None)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * trace_root)


def inception_score(probabilities: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL divergence of p(class | image) from p(class) (Salimans et al. 2016).

    Args:
      probabilities: float[n, c], rows sum to 1.
      splits: the images are cut in order into this many parts, scored one by one.

    Returns:
      Mean and standard deviation over the parts; the score lies in [1, c].

    Raises:
      ValueError: where rows do not sum to 1 or there are fewer images than parts.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or not np.allclose(p.sum(axis=1), 1.0, atol=1e-3) or (p < 0).any():
        raise ValueError("probabilities must be [n, c], not negative, with rows that sum to 1")
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits must be between 1 and the {len(p)} images, got {splits}")
    scores = []
    for part in np.array_split(p, splits):
        marginal = part.mean(axis=0, keepdims=True)
        positive = part > 0
        ratio = np.log(np.where(positive, part, 1.0)) - np.log(
            np.where(marginal > 0, marginal, 1.0)
        )
        divergence = np.where(positive, part * ratio, 0.0).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores))


def clip_similarities(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
    """Cosines of the candidates of each caption with that caption (SPEC 7.9).

    Args:
      image_embeddings: float[n, d], or float[n, g, d] with g candidates per caption.
      text_embeddings: float[n, d].

    Returns:
      float64[n] or float64[n, g] in [-1, 1]; an embedding of zeros gives 0.

    Raises:
      ValueError: where the shapes do not fit.
    """
    images = np.asarray(image_embeddings, dtype=np.float64)
    texts = np.asarray(text_embeddings, dtype=np.float64)
    if (
        texts.ndim != 2
        or images.ndim not in (2, 3)
        or images.shape[0] != texts.shape[0]
        or images.shape[-1] != texts.shape[-1]
    ):
        raise ValueError(
            "image embeddings must be [n, d] or [n, g, d] and text embeddings [n, d], got "
            f"{images.shape} and {texts.shape}"
        )
    if images.ndim == 3:
        texts = texts[:, None]
    norms = np.linalg.norm(images, axis=-1) * np.linalg.norm(texts, axis=-1)
    dots = (images * texts).sum(axis=-1)
    return np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), 0.0)
