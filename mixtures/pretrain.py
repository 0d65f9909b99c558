"""Mixtures over real data with the official sample ratios (SPEC 4.2).

- `ofa_pretrain`: prepared data sets, one slot each (`tasks.pretrain_slots`). A family's rate is
  divided among its slots in proportion to their samples.
- `ofa_pretrain_tsv`: the four official TSV files (`tasks.pretrain`), for those who have them.
- `ofa_without_<family>`, `ofa_tsv_without_<family>`: one of the eight families left out.

Slots can be left out by a rate of 0 (docs/data.md); the other rates stay as they are.
"""

from collections.abc import Mapping

from ofa_jax.bundled.tasks import pretrain  # noqa: F401  (registers the tasks)
from ofa_jax.bundled.tasks.pretrain_slots import SLOTS
from ofa_jax.data.tasks.registration import add_mixture

from .rates import CAPTION_SAMPLES, FAMILIES, QUESTION_SAMPLES, official_rates, without


def _rates_of_families(rates: Mapping[str, float]) -> dict[str, float]:
    """Rates by family of task; matching is divided between captions and questions as rows are."""
    by_family = dict(rates)
    matching = by_family.pop("image_text_matching", None)
    if matching is not None:
        share = CAPTION_SAMPLES / (CAPTION_SAMPLES + QUESTION_SAMPLES)
        by_family["image_text_matching"] = matching * share
        by_family["answer_matching"] = matching * (1 - share)
    return by_family


def rates_of_files(rates: Mapping[str, float]) -> dict[str, float]:
    """Rates of the tasks over the official TSV files, from rates of families."""
    return {f"ofa_{family}": rate for family, rate in _rates_of_families(rates).items()}


def rates_of_slots(rates: Mapping[str, float]) -> dict[str, float]:
    """Rates of the tasks over prepared data, from rates of families."""
    by_task = {}
    for family, rate in _rates_of_families(rates).items():
        samples = {slot.name: slot.samples[family] for slot in SLOTS if family in slot.samples}
        total = sum(samples.values())
        for name, count in samples.items():
            by_task[f"{name}_{family}"] = rate * count / total
    return by_task


add_mixture("ofa_pretrain", rates_of_slots(official_rates()))
add_mixture("ofa_pretrain_tsv", rates_of_files(official_rates()))
for _family in FAMILIES:
    _rates = without(official_rates(), _family)
    add_mixture(f"ofa_without_{_family}", rates_of_slots(_rates))
    add_mixture(f"ofa_tsv_without_{_family}", rates_of_files(_rates))
