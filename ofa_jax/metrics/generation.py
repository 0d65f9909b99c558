"""Generated images by the features of an extractor: FID, Inception score, CLIP score, reranking.

The formulas are in `image`. Here a caller plugs in the networks: functions from images or texts
to vectors, whatever runs them. No weights come with this library, and scores are comparable only
between runs with the same extractors (SPEC 8.5 used Inception v3 and CLIP ViT-B/16).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import numpy as np

from ofa_jax.metrics import image as image_metrics

Images = np.ndarray
"""uint8[n, y, x, 3]."""


@dataclasses.dataclass(frozen=True)
class Extractors:
    """The networks that scores are made of; those that are None leave their scores out.

    Attributes:
      features: images to float[n, d] (FID).
      probabilities: images to float[n, classes] (Inception score).
      image_embeddings: images to float[n, d] (CLIP).
      text_embeddings: texts to float[n, d] (CLIP).
    """

    features: Callable[[Images], np.ndarray] | None = None
    probabilities: Callable[[Images], np.ndarray] | None = None
    image_embeddings: Callable[[Images], np.ndarray] | None = None
    text_embeddings: Callable[[Sequence[str]], np.ndarray] | None = None

    @classmethod
    def load(cls, path: str) -> Extractors:
        """Calls a function of the user that returns extractors.

        Args:
          path: "module:function".

        Raises:
          ValueError: there is no such function, or it returns something else.
        """
        module_name, _, function_name = path.partition(":")
        try:
            function = getattr(importlib.import_module(module_name), function_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"extractors {path!r} must be 'module:function' ({error})") from error
        extractors = function()
        if not isinstance(extractors, cls):
            raise ValueError(f"{path} must return {cls.__name__}, got {type(extractors).__name__}")
        return extractors


@dataclasses.dataclass
class RunningGaussian:
    """Mean and covariance of features that arrive in batches, in constant memory.

    Attributes:
      count: rows so far.
      total: float64[d], their sum.
      outer: float64[d, d], sum of their outer products around the first mean.
      shift: float64[d], subtracted from all rows so that no digits are lost.
    """

    count: int = 0
    total: np.ndarray | None = None
    outer: np.ndarray | None = None
    shift: np.ndarray | None = None

    def add(self, features: np.ndarray) -> None:
        """Adds float[n, d]."""
        rows = np.asarray(features, np.float64)
        if self.shift is None:
            self.shift = rows.mean(axis=0)
            self.total = np.zeros(rows.shape[1])
            self.outer = np.zeros((rows.shape[1], rows.shape[1]))
        rows = rows - self.shift
        self.count += len(rows)
        self.total = self.total + rows.sum(axis=0)
        self.outer = cast(np.ndarray, self.outer) + rows.T @ rows

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean float64[d], covariance float64[d, d] with divisor n - 1).

        Raises:
          ValueError: fewer than two rows.
        """
        if self.count < 2 or self.total is None or self.outer is None or self.shift is None:
            raise ValueError(f"a covariance needs at least two images, got {self.count}")
        mean = self.total / self.count
        covariance = (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean + self.shift, covariance


def batches(pictures: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Stacks single images uint8[y, x, 3] into batches of at most `size`."""
    pending: list[np.ndarray] = []
    for picture in pictures:
        pending.append(picture)
        if len(pending) == size:
            yield np.stack(pending)
            pending = []
    if pending:
        yield np.stack(pending)


def generation_scores(
    generated: Iterable[np.ndarray],
    captions: Sequence[str],
    extractors: Extractors,
    *,
    real: Iterable[np.ndarray] | None = None,
    real_moments: tuple[np.ndarray, np.ndarray] | None = None,
    batch_size: int = 32,
    splits: int = 10,
) -> dict[str, float]:
    """Scores generated images, one per caption, in one pass.

    Args:
      generated: images uint8[y, x, 3] of one size, in the order of the captions.
      captions: n texts.
      extractors: which networks there are decides which scores are computed.
      real: images to compare with, for FID.
      real_moments: their (mean, covariance) instead, as in the official gt_stat.npz.
      batch_size: images per call of an extractor.
      splits: parts of the Inception score.

    Returns:
      Of "fid", "inception_score", "clip_score" those whose networks are given.

    Raises:
      ValueError: the numbers of images and captions differ, or too few images.
    """
    gaussian, probabilities, cosines, count = RunningGaussian(), [], [], 0
    for pictures in batches(generated, batch_size):
        texts = list(captions[count : count + len(pictures)])
        count += len(pictures)
        if extractors.features is not None:
            gaussian.add(extractors.features(pictures))
        if extractors.probabilities is not None:
            probabilities.append(extractors.probabilities(pictures))
        if extractors.image_embeddings is not None and extractors.text_embeddings is not None:
            embedded = extractors.image_embeddings(pictures)
            cosines.append(
                image_metrics.clip_similarities(embedded, extractors.text_embeddings(texts))
            )
    if count != len(captions):
        raise ValueError(f"{count} images for {len(captions)} captions")
    scores: dict[str, float] = {}
    if extractors.features is not None:
        if real is not None:
            truth = RunningGaussian()
            for pictures in batches(real, batch_size):
                truth.add(extractors.features(pictures))
            real_moments = truth.moments()
        if real_moments is not None:
            scores["fid"] = image_metrics.frechet_distance(*gaussian.moments(), *real_moments)
    if probabilities:
        stacked = np.concatenate(probabilities)
        scores["inception_score"] = image_metrics.inception_score(
            stacked, splits=min(splits, len(stacked))
        )[0]
    if cosines:
        scores["clip_score"] = 100.0 * float(np.mean(np.concatenate(cosines)))
    return scores
