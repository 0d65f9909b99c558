"""What an ablation runs: rows of changed mixtures over equal seeds and steps.

First step of an ablation. `Ablation` is what gin sets (`ablation.Ablation`); `rows` spells it out.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Fields of inputs.DatasetConfig that say how tasks are mixed; a row may change nothing else.
MIXING_FIELDS = (
    "rates",
    "rate_by",
    "maximum",
    "temperature",
    "rate_schedule",
    "rate_interpolation",
)
# What all rows must share: the ablation itself sets them, once for all.
_OWN_BINDINGS = ("MODEL_DIR", "RANDOM_SEED", "TRAIN_STEPS")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One mixture.

    Attributes:
      name: as it stands in the table.
      changes: field of `inputs.DatasetConfig` to its value.
    """

    name: str
    changes: Mapping[str, object]

    @property
    def directory(self) -> str:
        """The name as a directory: lower-case letters, digits and underscores."""
        return re.sub(r"[^a-z0-9.]+", "_", self.name.lower()).strip("_")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """An experiment on the mixture (`ablation.Ablation`).

    The full mixture is always the first row; the others come from `leave_out`, `rate_grid`,
    `temperatures` and `rows`, in this order.

    Attributes:
      gin_files: of the run that every row changes, as for `python -m ofa_jax.train`.
      directory: results and, below `runs/<row>/seed_<number>`, the runs.
      steps: TRAIN_STEPS of every run.
      seeds: RANDOM_SEED of the runs of every row.
      leave_out: families (or tasks, data sets) to leave out, one row each; a mapping from a name to
        several leaves these out together: {"grounding": ("visual_grounding",)}.
      rate_grid: family to the rates that it takes; a row for each combination.
      temperatures: a row each.
      rows: name to changed fields of `inputs.DatasetConfig`, for anything else.
      bindings: further gin bindings of every run, full name to the text of the value.
      reference: name of the first row.
      title: heading of table and chart.
      significance: level of the adjusted p value at which a difference is marked.
      bootstrap_samples: resamples of examples; 0 takes none.
    """

    gin_files: Sequence[str]
    directory: str
    steps: int
    seeds: Sequence[int] = (0, 1, 2)
    leave_out: Sequence[str] | Mapping[str, Sequence[str]] = ()
    rate_grid: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    temperatures: Sequence[float] = ()
    rows: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    bindings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reference: str = "full"
    title: str = "Ablation of the mixture"
    significance: float = 0.05
    bootstrap_samples: int = 2000

    def __post_init__(self) -> None:
        for name in ("gin_files", "seeds", "temperatures"):
            if isinstance(getattr(self, name), str):
                raise ValueError(
                    f"ablation.Ablation.{name} must be a list, such as ({getattr(self, name)!r},)"
                )
        if not self.gin_files:
            raise ValueError("ablation.Ablation.gin_files: name the run file that rows change")
        if not isinstance(self.directory, str) or not self.directory:
            raise ValueError(
                'ablation.Ablation.directory must be a path such as "runs/ablations/a"'
            )
        if "://" in self.directory:
            raise ValueError(
                f"ablation.Ablation.directory {self.directory} must be a directory here"
            )
        if not _whole(self.steps) or self.steps < 1:
            raise ValueError(
                f"ablation.Ablation.steps must be a whole number of 1 or more, got {self.steps!r}"
            )
        self._check_seeds()
        self._check_changes()
        if not 0 < self.significance < 1:
            raise ValueError(
                f"ablation.Ablation.significance must be in (0, 1), got {self.significance}"
            )
        if not _whole(self.bootstrap_samples) or self.bootstrap_samples < 0:
            raise ValueError(
                "ablation.Ablation.bootstrap_samples must be a whole number, 0 or more"
            )
        self.all_rows()

    def _check_seeds(self) -> None:
        seeds = list(self.seeds)
        if not seeds or not all(_whole(seed) and seed >= 0 for seed in seeds):
            raise ValueError(
                f"ablation.Ablation.seeds must be whole numbers such as (0, 1, 2), got {seeds}"
            )
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"ablation.Ablation.seeds: each seed counts once, got {seeds}")

    def _check_changes(self) -> None:
        for family, rates in self.rate_grid.items():
            if isinstance(rates, (str, int, float)) or not all(
                isinstance(rate, (int, float)) and rate >= 0 for rate in rates
            ):
                raise ValueError(
                    f"ablation.Ablation.rate_grid: {family!r} needs rates of 0 or more such as "
                    f"(0.5, 1.0), got {rates!r}"
                )
        for temperature in self.temperatures:
            if not temperature > 0:
                raise ValueError(
                    f"ablation.Ablation.temperatures must be positive, got {temperature}"
                )
        for name, changes in self.rows.items():
            unknown = set(changes) - set(MIXING_FIELDS)
            if unknown or not changes:
                raise ValueError(
                    f"ablation.Ablation.rows: {name!r} may change {', '.join(MIXING_FIELDS)}, got "
                    f"{', '.join(sorted(unknown)) or 'nothing'}"
                )
        for name in self.bindings:
            owner, _, field = name.rpartition(".")
            mixes = owner == "inputs.DatasetConfig"
            if name in _OWN_BINDINGS or (mixes and field in MIXING_FIELDS):
                raise ValueError(
                    f"ablation.Ablation.bindings: {name} is set by directory, seeds, steps or the "
                    "rows, so that all rows have the same budget"
                )

    def all_rows(self) -> tuple[Variant, ...]:
        """The full mixture and every change of it.

        Raises:
          ValueError: nothing to compare, or two rows of one name.
        """
        rows = [Variant(self.reference, {})]
        groups = self.leave_out
        if not isinstance(groups, Mapping):
            groups = {name.replace("_", " "): (name,) for name in groups}
        for name, families in groups.items():
            families = (families,) if isinstance(families, str) else families
            rows.append(Variant(f"without {name}", {"rates": dict.fromkeys(families, 0)}))
        for rates in itertools.product(*self.rate_grid.values()) if self.rate_grid else ():
            chosen = dict(zip(self.rate_grid, rates))
            name = ", ".join(f"{family.replace('_', ' ')} {r:g}" for family, r in chosen.items())
            rows.append(Variant(name, {"rates": chosen}))
        rows += [
            Variant(f"temperature {value:g}", {"temperature": value}) for value in self.temperatures
        ]
        rows += [Variant(name, changes) for name, changes in self.rows.items()]
        if len(rows) < 2:
            raise ValueError(
                "ablation.Ablation: nothing to compare with the full mixture; set leave_out, "
                "rate_grid, temperatures or rows"
            )
        directories = [row.directory for row in rows]
        twice = sorted({name for name in directories if directories.count(name) > 1})
        if twice or "" in directories:
            raise ValueError(f"ablation.Ablation: rows need different names: {', '.join(twice)}")
        return tuple(rows)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
