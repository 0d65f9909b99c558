"""Reads the scores of the finished runs of an ablation.

Third step. Task, metric and predictions come from the files that every run leaves
(`ofa_jax.report.collect`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ofa_jax.ablation.runs import Run
from ofa_jax.report.collect import RunRecord, collect

# Examples' scores by their names.
ExampleScores = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class TaskSeeds:
    """One task under one mixture.

    Attributes:
      metric: the task's primary metric.
      values: seed to its value.
      examples: seed to the score of each evaluated example, where predictions were kept.
    """

    metric: str
    values: Mapping[int, float]
    examples: Mapping[int, ExampleScores]


# Row -> task -> scores; rows and tasks in the order of the table.
Scores = dict[str, dict[str, TaskSeeds]]


def _example_scores(record: RunRecord, task: str) -> dict[str, float]:
    return {
        str(row["example_id"]): float(row["score"])
        for row in record.predictions.get(task, ())
        if row.get("example_id") is not None and row.get("score") is not None
    }


def read_scores(runs: Sequence[Run]) -> Scores:
    """Scores of those runs that are finished.

    Args:
      runs: of one ablation.

    Returns:
      Every row, also those without a finished run (empty).

    Raises:
      ValueError: a run's files are malformed, or a task has different metrics in two runs.
    """
    scores: Scores = {run.row.name: {} for run in runs}
    for run in runs:
        if run.state() != "finished":
            continue
        record = collect(run.results)
        for task, found in record.tasks.items():
            if found.value is None or found.primary is None:
                continue
            known = scores[run.row.name].get(task) or TaskSeeds(found.primary, {}, {})
            if known.metric != found.primary:
                raise ValueError(
                    f"{run.directory}: {task} is scored by {found.primary}, elsewhere by "
                    f"{known.metric}"
                )
            examples = _example_scores(record, task)
            scores[run.row.name][task] = TaskSeeds(
                known.metric,
                {**known.values, run.seed: found.value},
                {**known.examples, **({run.seed: examples} if examples else {})},
            )
    return scores
