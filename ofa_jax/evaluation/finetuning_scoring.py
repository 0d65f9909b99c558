"""Scores of the fine-tuning tasks (SPEC 8), beside those of pretraining in `scoring`.

A scorer takes cleaned predictions and examples whose images may have been dropped. Numpy only;
ROUGE needs the package rouge_score, the caption server's scores pycocoevalcap and Java.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ofa_jax.data.sources.example import Example
from ofa_jax.evaluation.scoring import Result, answer, fit_codes
from ofa_jax.metrics import caption as caption_metrics
from ofa_jax.metrics import caption_server, classification, text, vqa
from ofa_jax.metrics.verdict import of_shares
from ofa_jax.text.cleaning import caption_prediction, without_spaces


def coco_caption(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Captions without punctuation: CIDEr-D, BLEU-1..4, ROUGE-L (SPEC 8.1).

    OFA-NOTE: SPEC 8.1. Document frequencies are those of the evaluated references; the official
    validation reads them from coco-valid-words.p. Baseline: the first reference for all.
    """
    return _captions([caption_prediction(guess) for guess in predictions], examples, _words)


def chinese_caption(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Chinese captions, compared character by character (SPEC 8.10)."""
    return _captions(predictions, examples, _characters)


def _words(caption: str) -> str:
    return " ".join(caption_prediction(caption).split())


def _characters(caption: str) -> str:
    return " ".join(without_spaces(caption.lower()))


def _captions(
    predictions: Sequence[str], examples: Sequence[Example], split: Callable[[str], str]
) -> Result:
    references = [[split(caption) for caption in example["captions"]] for example in examples]
    guesses = [split(guess) for guess in predictions]
    cider = caption_metrics.cider_d(guesses, references)
    constant = caption_metrics.cider_d([references[0][0]] * len(references), references)
    metrics = {"cider_d": float(np.mean(cider))}
    for number, value in enumerate(caption_metrics.bleu(guesses, references), start=1):
        metrics[f"bleu_{number}"] = float(value)
    metrics["rouge_l"] = float(caption_metrics.rouge_l(guesses, references))
    return Result.measured("cider_d", metrics, float(np.mean(constant)), cider)


def server_caption(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Captions as COCO's server scores them, and published tables (SPEC 8.1): PTB tokens, METEOR.

    Needs pycocoevalcap and Java. Otherwise like `coco_caption`.
    """
    return _of_server(predictions, examples, with_spice=False)


def server_caption_with_spice(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """`server_caption` and SPICE, whose parser is downloaded on first use."""
    return _of_server(predictions, examples, with_spice=True)


def _of_server(
    predictions: Sequence[str], examples: Sequence[Example], *, with_spice: bool
) -> Result:
    references = [list(example["captions"]) for example in examples]
    scores = caption_server.server_scores(list(predictions), references, with_spice=with_spice)
    metrics = {"cider_d": scores.pop("cider"), **scores}
    guesses, truth = caption_server.tokenized_pairs(list(predictions), references)
    cider = caption_metrics.cider_d(guesses, truth)
    constant = caption_metrics.cider_d([truth[0][0]] * len(truth), truth)
    return Result.measured("cider_d", metrics, float(np.mean(constant)), cider)


def vqa_answer(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Answers by the confidences of the file (SPEC 7.3), raw and in the benchmark's normal form.

    Baseline: the one answer that is worth most if it is always given.
    """
    tables = [dict(zip(example["answers"], example["answer_conf"])) for example in examples]
    scores = [float(table.get(guess, 0.0)) for guess, table in zip(predictions, tables)]
    worth: dict[str, float] = {}
    for table in tables:
        for word, confidence in table.items():
            worth[word] = worth.get(word, 0.0) + float(confidence)
    normal = [_normalized(table) for table in tables]
    guesses = [vqa.normalize_answer(guess) for guess in predictions]
    return Result(
        primary="vqa_score",
        metrics={
            "vqa_score": vqa.soft_score(list(predictions), tables),
            "vqa_score_normalized": vqa.soft_score(guesses, normal),
        },
        baseline=max(worth.values(), default=0.0) / len(tables),
        scores=scores,
        verdicts=of_shares(scores),
    )


def _normalized(table: Mapping[str, float]) -> dict[str, float]:
    """Confidences by normal form; spellings of one answer add up to at most 1."""
    merged: dict[str, float] = {}
    for word, confidence in table.items():
        key = vqa.normalize_answer(word)
        merged[key] = min(1.0, merged.get(key, 0.0) + float(confidence))
    return merged


def correlated_answer(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Yes or no by Matthews correlation (SPEC 8.7, CoLA). Baseline: 0, of any constant answer."""
    result = answer(predictions, examples)
    true = [example["answer"] for example in examples]
    correlation = classification.matthews_correlation(list(predictions), true)
    metrics = {"matthews_correlation": correlation, **result.metrics}
    return dataclasses.replace(
        result, primary="matthews_correlation", metrics=metrics, baseline=0.0
    )


def yes_or_no(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Yes or no by accuracy and F1 of "yes" (SPEC 8.7, MRPC and QQP)."""
    result = answer(predictions, examples)
    true = [example["answer"] for example in examples]
    metrics = {**result.metrics, "f1": classification.f1(list(predictions), true)}
    return dataclasses.replace(result, metrics=metrics)


def summary(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Summaries by ROUGE (SPEC 7.8). Baseline: the first eight words of the article."""
    references = [example["reference"] for example in examples]
    scores = text.rouge(list(predictions), references)
    leads = [" ".join(str(example["text"]).split()[:8]) for example in examples]
    return Result.measured(
        primary="rouge_l",
        metrics={
            "rouge_1": float(scores["rouge1"].mean()),
            "rouge_2": float(scores["rouge2"].mean()),
            "rouge_l": float(scores["rougeL"].mean()),
        },
        baseline=float(text.rouge(leads, references)["rougeL"].mean()),
        scores=scores["rougeL"],
    )


def written_text(predictions: Sequence[str], examples: Sequence[Example]) -> Result:
    """Text read from images, spaces aside: similarity by edits, exact match (SPEC 8.9)."""
    guesses = [without_spaces(guess) for guess in predictions]
    true = [without_spaces(example["text"]) for example in examples]
    scores = [text.edit_similarity([guess], [line]) for guess, line in zip(guesses, true)]
    most_common = max(set(true), key=true.count)
    return Result(
        primary="edit_similarity",
        metrics={
            "edit_similarity": text.edit_similarity(guesses, true),
            "exact_match": text.exact_match(guesses, true),
        },
        baseline=text.edit_similarity([most_common] * len(true), true),
        scores=scores,
        verdicts=of_shares(scores),
    )


def generated_codes(predictions: Sequence[np.ndarray], examples: Sequence[Example]) -> Result:
    """Codes of generated pictures: complete images, and codes equal to those of the real one.

    The second says little about quality (SPEC 8.5 publishes FID and CLIP scores, for which
    `ofa_jax.metrics.generation` takes the networks); it shows that learning goes on. Baseline: the
    most frequent code everywhere.
    """
    true = [np.asarray(example["image_codes"], np.int64) for example in examples]
    guesses = [fit_codes(np.asarray(guess), len(codes)) for guess, codes in zip(predictions, true)]
    scores = [float(np.mean(guess == codes)) for guess, codes in zip(guesses, true)]
    frequent = np.bincount(np.concatenate(true)).argmax()
    return Result.measured(
        primary="code_accuracy",
        metrics={
            "code_accuracy": float(np.mean(scores)),
            "complete_pictures": float(np.mean([bool((guess >= 0).all()) for guess in guesses])),
        },
        baseline=float(np.mean(np.concatenate(true) == frequent)),
        scores=scores,
    )
