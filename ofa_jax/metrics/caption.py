"""Captions against reference captions: CIDEr-D, BLEU-1..4, ROUGE-L.

Used by evaluation, and by self-critical training as the reward (losses/scst), where document
frequencies of a whole training set are given from outside. Texts are split at blanks; lower-casing
and punctuation are the caller's business (`ofa_jax.text`), since SCST and the COCO server differ.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from ofa_jax.metrics.pairing import check_pairs
from ofa_jax.restricted_pickle import load_restricted
from ofa_jax.schema import LARGEST_JSON, build, read_json

__all__ = ["DocumentFrequency", "NGram", "bleu", "cider_d", "ngram_counts", "rouge_l"]

NGram = tuple[str, ...]

_MAX_ORDER = 4
_LENGTH_SIGMA = 6.0
_ROUGE_BETA = 1.2


def ngram_counts(text: str, max_order: int = _MAX_ORDER) -> collections.Counter[NGram]:
    """Counts all n-grams of a text, n = 1..max_order.

    Args:
      text: words separated by blanks.
      max_order: longest n-gram.

    Returns:
      Word tuple -> count.
    """
    words = text.split()
    return collections.Counter(
        tuple(words[i : i + n]) for n in range(1, max_order + 1) for i in range(len(words) - n + 1)
    )


@dataclasses.dataclass(frozen=True)
class _SavedFrequencies:
    num: float
    counts: dict


@dataclasses.dataclass(frozen=True)
class DocumentFrequency:
    """In how many documents (images) each n-gram occurs.

    Attributes:
      counts: word tuple -> number of documents with it in any reference.
      num_documents: number of documents. Stored as such; CIDEr-D uses its natural logarithm.
    """

    counts: Mapping[NGram, float]
    num_documents: float

    def __post_init__(self) -> None:
        if self.num_documents <= 0:
            raise ValueError(f"num_documents must be positive, got {self.num_documents}")

    @classmethod
    def from_references(cls, references: Sequence[Sequence[str]]) -> DocumentFrequency:
        """Counts over the references of a corpus, one list of captions per image."""
        counts: collections.Counter[NGram] = collections.Counter()
        for captions in references:
            counts.update({ngram for caption in captions for ngram in ngram_counts(caption)})
        return cls(counts, float(len(references)))

    @classmethod
    def load(cls, path: str | pathlib.Path) -> DocumentFrequency:
        """Reads a table from `save` (.json), or one of the official pickles (SPEC 5.5).

        The pickles (coco-train-words.p) hold {"ref_len", "document_frequency"}. They are read
        without running any code from the file.

        Raises:
          ValueError: where the file does not hold such a table.
        """
        path = pathlib.Path(path)
        try:
            if path.suffix == ".json":
                saved = build(_SavedFrequencies, read_json(path), path)
                counts = {tuple(k.split(" ")): float(v) for k, v in saved.counts.items()}
                return cls(counts, saved.num)
            if (size := path.stat().st_size) > LARGEST_JSON:
                raise ValueError(f"it has {size:,} bytes; at most {LARGEST_JSON:,} are read")
            raw = load_restricted(path.read_bytes(), placeholders=False, encoding="latin1")
            return cls(dict(raw["document_frequency"]), float(raw["ref_len"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a table of document frequencies: {error}") from error

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the table as JSON, which `load` reads."""
        counts = {" ".join(ngram): count for ngram, count in self.counts.items()}
        text = json.dumps({"num": self.num_documents, "counts": counts}, ensure_ascii=False)
        pathlib.Path(path).write_text(text, encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class _Vector:
    """Weighted n-grams of one caption: per order the weights, their norm; the bigram count."""

    weights: tuple[dict[NGram, float], ...]
    norms: tuple[float, ...]
    num_bigrams: int


def _vector(caption: str, frequency: DocumentFrequency, log_documents: float) -> _Vector:
    weights: tuple[dict[NGram, float], ...] = tuple({} for _ in range(_MAX_ORDER))
    num_bigrams = 0
    for ngram, count in ngram_counts(caption).items():
        idf = log_documents - math.log(max(1.0, frequency.counts.get(ngram, 0.0)))
        weights[len(ngram) - 1][ngram] = count * idf
        if len(ngram) == 2:
            num_bigrams += count
    norms = tuple(math.sqrt(sum(w * w for w in order.values())) for order in weights)
    return _Vector(weights, norms, num_bigrams)


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """Mean over orders of the clipped cosine, times the length penalty."""
    delta = hypothesis.num_bigrams - reference.num_bigrams
    penalty = math.exp(-(delta**2) / (2 * _LENGTH_SIGMA**2))
    total = 0.0
    for order in range(_MAX_ORDER):
        others = reference.weights[order]
        dot = 0.0
        for ngram, weight in hypothesis.weights[order].items():
            other = others.get(ngram, 0.0)
            dot += min(weight, other) * other
        if hypothesis.norms[order] != 0 and reference.norms[order] != 0:
            dot /= hypothesis.norms[order] * reference.norms[order]
        total += dot * penalty
    return total / _MAX_ORDER


def cider_d(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    document_frequency: DocumentFrequency | None = None,
) -> np.ndarray:
    """CIDEr-D of each caption (Vedantam et al. 2015; details SPEC 5.5).

    n-gram weights are count * (ln R - ln max(1, df)), without a floor at 0. The hypothesis'
    weight is clipped to the reference's. The Gaussian length penalty (sigma 6) compares numbers
    of bigrams, not of words, as the public code does.

    Args:
      hypotheses: n captions, words separated by blanks. For SCST the caller appends "<eos>".
      references: n lists of reference captions.
      document_frequency: frequencies of a training set; None counts them in `references`, one
        document per entry.

    Returns:
      float64[n], from 0 to 10; the corpus score is the mean. (Published tables show it times 100,
      e.g. 140.3 for 1.403.)

    Raises:
      ValueError: where the lengths differ or are zero, or a caption has no reference.
    """
    check_pairs(hypotheses, references, names="hypotheses and reference lists")
    _check_references(references)
    frequency = document_frequency or DocumentFrequency.from_references(references)
    log_documents = math.log(frequency.num_documents)
    cache: dict[str, _Vector] = {}

    def vector(caption: str) -> _Vector:
        if caption not in cache:
            cache[caption] = _vector(caption, frequency, log_documents)
        return cache[caption]

    scores = np.zeros(len(hypotheses))
    for i, (hypothesis, captions) in enumerate(zip(hypotheses, references)):
        own = vector(hypothesis)
        scores[i] = 10.0 * sum(_similarity(own, vector(c)) for c in captions) / len(captions)
    return scores


def _check_references(references: Sequence[Sequence[str]]) -> None:
    for index, captions in enumerate(references):
        if isinstance(captions, str) or len(captions) == 0:
            raise ValueError(f"references[{index}] must be a list of at least one caption")


def bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], max_order: int = 4
) -> list[float]:
    """Corpus BLEU-1..max_order (Papineni et al. 2002) as the COCO caption server computes it.

    Counts are clipped by the largest count in any reference and summed over the corpus; the
    reference length is the one closest to the hypothesis (the shorter of two equally close). The
    server's tiny constants (1e-15 and 1e-9) replace smoothing.

    Args:
      hypotheses: n captions, words separated by blanks.
      references: n lists of reference captions.
      max_order: longest n-gram.

    Returns:
      `max_order` shares in [0, 1]: BLEU-1, BLEU-2, ...

    Raises:
      ValueError: where the lengths differ or are zero, or a caption has no reference.
    """
    check_pairs(hypotheses, references, names="hypotheses and reference lists")
    _check_references(references)
    guessed = np.zeros(max_order)
    correct = np.zeros(max_order)
    hypothesis_length = reference_length = 0
    for hypothesis, captions in zip(hypotheses, references):
        limits: collections.Counter[NGram] = collections.Counter()
        for caption in captions:
            limits |= ngram_counts(caption, max_order)
        for ngram, count in ngram_counts(hypothesis, max_order).items():
            guessed[len(ngram) - 1] += count
            correct[len(ngram) - 1] += min(count, limits[ngram])
        length = len(hypothesis.split())
        hypothesis_length += length
        reference_length += min(
            (len(c.split()) for c in captions), key=lambda r: (abs(r - length), r)
        )
    tiny, small = 1e-15, 1e-9
    precisions = (correct + tiny) / (guessed + small)
    ratio = (hypothesis_length + tiny) / (reference_length + small)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    geometric = np.cumprod(precisions) ** (1.0 / np.arange(1, max_order + 1))
    return [float(value * brevity) for value in geometric]


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    previous = [0] * (len(b) + 1)
    for word in a:
        current = [0]
        for j, other in enumerate(b):
            current.append(previous[j] + 1 if word == other else max(previous[j + 1], current[-1]))
        previous = current
    return previous[-1]


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L (Lin 2004) in the variant of the COCO caption server, mean over captions.

    F = (1 + beta^2) P R / (R + beta^2 P) with beta 1.2, where the best precision P and the best
    recall R of the longest common subsequence are taken over the references one by one. This is
    not the ROUGE-L of the `rouge_score` package, which summarisation reports.

    Args:
      hypotheses: n captions, words separated by blanks.
      references: n lists of reference captions.

    Returns:
      Share in [0, 1].

    Raises:
      ValueError: where the lengths differ or are zero, or a caption has no reference.
    """
    check_pairs(hypotheses, references, names="hypotheses and reference lists")
    _check_references(references)
    scores = []
    for hypothesis, captions in zip(hypotheses, references):
        words = hypothesis.split()
        precision = recall = 0.0
        for caption in captions:
            others = caption.split()
            if words and others:
                common = _longest_common_subsequence(words, others)
                precision = max(precision, common / len(words))
                recall = max(recall, common / len(others))
        if precision == 0 or recall == 0:
            scores.append(0.0)
            continue
        square = _ROUGE_BETA**2
        scores.append((1 + square) * precision * recall / (recall + square * precision))
    return float(np.mean(scores))
