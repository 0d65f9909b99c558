"""Names and numbers as people read them: tasks, metrics, durations, counts."""

from __future__ import annotations

import math
from collections.abc import Iterable

_SPELLING = {
    "acc": "accuracy", "bleu": "BLEU", "bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3",
    "bleu4": "BLEU-4", "cider": "CIDEr", "clip": "CLIP", "f1": "F1", "fid": "FID", "iou": "IoU",
    "itm": "image-text matching", "mcc": "MCC", "psnr": "PSNR", "rouge": "ROUGE", "vqa": "VQA",
}  # fmt: skip
_NOT_SHARES = ("cider", "psnr", "fid", "frechet", "inception", "clip", "loss", "perplexity", "mcc")
_NOT_PROPORTIONS = ("f1", "bleu", "rouge", "iou_mean", "mean_iou", "similarity", "soft")


def _words(name: str) -> str:
    words = [w for w in name.replace("/", " ").replace("-", "_").replace("_", " ").split() if w]
    return " ".join(_SPELLING.get(word.lower(), word) for word in words)


def metric_label(name: str) -> str:
    """`accuracy_at_iou` -> "accuracy at IoU"; `cider_d` -> "CIDEr-D"."""
    label = _words(name)
    return label.replace("CIDEr d", "CIDEr-D").replace("ROUGE l", "ROUGE-L")


def task_labels(names: Iterable[str]) -> dict[str, str]:
    """Readable task names, without the words that all of them begin with.

    Args:
      names: registered task names, e.g. "scenes_vqa", "scenes_captioning".

    Returns:
      Name -> label, e.g. "scenes_vqa" -> "VQA".
    """
    names = list(names)
    parts = [name.split("_") for name in names]
    shared = 0
    if len(names) > 1:
        shortest = min(len(p) for p in parts)
        while shared < shortest - 1 and len({p[shared] for p in parts}) == 1:
            shared += 1
    labels = {}
    for name, part in zip(names, parts):
        label = _words("_".join(part[shared:]))
        labels[name] = label[:1].upper() + label[1:]
    return labels


def is_share(metric: str) -> bool:
    """Whether a metric is a share in [0, 1], to be shown in percent."""
    return not any(word in metric.lower() for word in _NOT_SHARES)


def is_proportion(metric: str) -> bool:
    """Whether a metric is a mean of right-or-wrong examples, so that its error is binomial."""
    return is_share(metric) and not any(word in metric.lower() for word in _NOT_PROPORTIONS)


def sampling_error(value: float, n: int) -> float:
    """Half width of the 95% interval of a proportion: 1.96 sqrt(p (1 - p) / n)."""
    return 1.96 * math.sqrt(max(value * (1 - value), 0.0) / n)


def format_metric(metric: str, value: float | None) -> str:
    """A metric's value with its unit: "84.2%", "1.403", "21.3 dB"; "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if is_share(metric):
        return f"{100 * value:.1f}%"
    if "psnr" in metric.lower():
        return f"{value:.1f} dB"
    return f"{value:.3g}" if abs(value) >= 100 else f"{value:.2f}"


def format_difference(metric: str, value: float) -> str:
    """A signed difference of two values of a metric: "+3.1", in points where it is a share."""
    if is_share(metric):
        return f"{100 * value:+.1f}".replace("-", "−")
    return f"{value:+.2f}".replace("-", "−")


def format_count(value: float) -> str:
    """A whole number with separators, or with one letter from a million on: "93.4 M"."""
    if abs(value) >= 1e9:
        return f"{value / 1e9:.2f} B"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.1f} M"
    return f"{round(value):,}"


def format_tick(value: float) -> str:
    """A number on an axis, short: "500", "12k", "1.5M", "3e-4"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    if 0 < abs(value) < 0.01:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}"


def format_setting(value: object) -> str:
    """Any value of the run's information as text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_setting(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k}: {format_setting(v)}" for k, v in value.items())
    return str(value)
