"""Mixtures over real data: `ofa_pretrain` with the official sample ratios (SPEC 4.2)."""

import tasks.pretrain  # noqa: F401  (registers the tasks)
from mixtures.rates import CAPTION_SAMPLES, FAMILIES, QUESTION_SAMPLES, official_rates, without
from ofa_jax.data.registration import add_mixture


def _rates_of_tasks(rates: dict[str, float]) -> dict[str, float]:
    """Rates by task; matching is divided between captions and questions as its rows are."""
    by_task = {f"ofa_{family}": rate for family, rate in rates.items()}
    matching = by_task.pop("ofa_image_text_matching", None)
    if matching is not None:
        share = CAPTION_SAMPLES / (CAPTION_SAMPLES + QUESTION_SAMPLES)
        by_task["ofa_image_text_matching"] = matching * share
        by_task["ofa_answer_matching"] = matching * (1 - share)
    return by_task


add_mixture("ofa_pretrain", _rates_of_tasks(official_rates()))
for _family in FAMILIES:
    add_mixture(f"ofa_without_{_family}", _rates_of_tasks(without(official_rates(), _family)))
