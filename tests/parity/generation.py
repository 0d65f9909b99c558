"""The settings and constraints of `generation.json`, in our terms.

The settings are in the key of an entry (`beam5_len16_ngram3`); see the fixtures' README.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import Constraint, IdRanges, Trie
from ofa_jax.vocab import swap_official_ids

Hypotheses = list[list[dict[str, Any]]]

# Where a key does not name the longest output.
_BOX_LENGTH = 4
_UNNORMALIZED_LENGTH = 12
_LENGTH = 16


def config_of(setting: str) -> BeamConfig:
    """Reads the settings from an entry's key.

    Args:
      setting: such as "beam5_len16_lenpen0.5_min4" or "box_beam5".

    Raises:
      ValueError: the key names no beam.
    """

    def number(pattern: str, default: Any, kind: Callable[[str], Any] = int) -> Any:
        found = re.search(pattern, setting)
        return kind(found.group(1)) if found else default

    beam = number(r"beam(\d+)", None)
    if beam is None:
        raise ValueError(f"the setting {setting!r} names no beam (beam1, beam5, ...)")
    is_box, is_unnormalized = "box" in setting, "unnorm" in setting
    longest = _BOX_LENGTH if is_box else _UNNORMALIZED_LENGTH if is_unnormalized else _LENGTH
    return BeamConfig(
        beam=beam,
        max_len_b=number(r"_len(\d+)", longest),
        min_len=number(r"min(\d+)", _BOX_LENGTH if is_box else 1),
        no_repeat_ngram_size=number(r"ngram(\d+)", 0),
        length_penalty=number(r"lenpen(\d+(?:\.\d+)?)", 1.0, float),
        temperature=number(r"temp(\d+(?:\.\d+)?)", 1.0, float),
        normalize_scores=not is_unnormalized,
        gen_code="gen_code" in setting,
    )


def constraint_of(entry: Hypotheses | Mapping[str, Any]) -> Constraint | None:
    """The entry's constraint in internal ids, or None."""
    if isinstance(entry, Mapping) and "constraint_range" in entry:
        start, end = map(int, entry["constraint_range"].split(","))
        return IdRanges(((start, end),))
    if isinstance(entry, Mapping) and "answers" in entry:
        return Trie.build([swap_official_ids(answer).tolist() for answer in entry["answers"]])
    return None


def hypotheses_of(entry: Hypotheses | Mapping[str, Any]) -> Hypotheses:
    """The official hypotheses of an entry, per sentence the best first."""
    return entry["hyps"] if isinstance(entry, Mapping) else entry
