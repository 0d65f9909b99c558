"""`python -m ofa_jax.plan --engine=t5x`: the native plan from the gin files of t5x.

A step is the same under both engines, and so are its arrays; only the settings come from elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import gin
from t5x import gin_utils, train  # pyrefly: ignore[missing-import]

from ofa_jax.cli import gin_files, shell
from ofa_jax.runs import plan
from ofa_jax.t5x import script
from ofa_jax.t5x.models import OFAModel

# Of `OFAModel`, which the plan of a step does not depend on.
_OTHERS = ("beam_size", "random_seed")


def run_plan(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Parses gin files and overrides as t5x's `train.py` does, then plans instead.

    Args:
      options: of `python -m ofa_jax.plan`.
      overrides: gin bindings `NAME = VALUE`.

    Raises:
      ValueError: settings that cannot work; one line.
    """
    shell.set_up_process()
    plan.check_options(options)
    # What a plan does not depend on need not be given.
    bindings = ["MODEL_DIR = '/planned'", "TRAIN_STEPS = 1_000_000", *overrides]
    for name in ("mesh", "dcn_mesh"):
        if getattr(options, name) is not None:
            bindings.append(f"partitioning.Partitioner.{name} = {getattr(options, name)!r}")
    # Where gin files of t5x look for it.
    sys.modules["__main__"].train = gin.configurable(train.train)  # type: ignore[attr-defined]
    script.name_parts()
    try:
        gin_utils.parse_gin_flags(["."], options.gin_file, bindings)
    except (ValueError, AttributeError, OSError) as error:
        raise gin_files.ConfigError(script.explain(error) or str(error)) from error
    script.check()
    settings = gin.get_bindings(OFAModel)
    found: list[plan.StepPlan] = []
    plan.planner(options, found)(
        train_dataset_cfg=settings.pop("dataset"),
        **{name: value for name, value in settings.items() if name not in _OTHERS},
    )
    plan.report(found[0], options)
