"""Rates of the eight pretraining tasks, by family. Plain numbers; they need not sum to one."""

from __future__ import annotations

from collections.abc import Mapping

from ofa_jax.data.tasks.task import PRETRAINING_FAMILIES

FAMILIES = PRETRAINING_FAMILIES

# Image-text samples of the official pretraining data, in millions (SPEC 4.2).
CAPTION_SAMPLES = 15.25
QUESTION_SAMPLES = 2.92
GROUNDING_SAMPLES = 3.20


def official_rates() -> dict[str, float]:
    """Samples of each task per 8 rows of the official vision-language file (SPEC 4.2).

    Every caption or question row also gives a matching sample, every grounding row a grounded
    caption; 8 rows come with 2 texts, 1 image to infill and 1 detection image. Hence
    image-text 16 : text 2 : infilling 1 : detection 1.
    """
    rows = 8.0 / (CAPTION_SAMPLES + QUESTION_SAMPLES + GROUNDING_SAMPLES)
    return {
        "visual_grounding": rows * GROUNDING_SAMPLES,
        "grounded_captioning": rows * GROUNDING_SAMPLES,
        "vqa": rows * QUESTION_SAMPLES,
        "image_text_matching": rows * (CAPTION_SAMPLES + QUESTION_SAMPLES),
        "captioning": rows * CAPTION_SAMPLES,
        "detection": 1.0,
        "image_infilling": 1.0,
        "text_infilling": 2.0,
    }


def without(rates: Mapping[str, float], family: str) -> dict[str, float]:
    """The rates with one family left out, in all its variants; the others keep their proportions.

    Raises:
      ValueError: the family is not in the rates.
    """
    left_out = [name for name in rates if name == family or name.startswith(f"{family}_")]
    if not left_out:
        raise ValueError(f"no task family {family!r}; known: {', '.join(rates)}")
    return {name: rate for name, rate in rates.items() if name not in left_out}


def of_tasks(rates: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Rates by registered task name instead of family."""
    return {f"{prefix}_{family}": rate for family, rate in rates.items()}
