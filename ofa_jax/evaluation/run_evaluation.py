"""Evaluation by generation, during and after training."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ofa_jax.data.features import Row
from ofa_jax.data.steps import image_tokenizer_of
from ofa_jax.data.task import OFATask, TaskSet
from ofa_jax.evaluation import evaluator, scoring
from ofa_jax.evaluation.submission import file_name, write_submission
from ofa_jax.inference.answerer import Answerer
from ofa_jax.model.ofa import OFA
from ofa_jax.report.labels import format_duration

logger = logging.getLogger("ofa_jax")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Generation on held-out examples (`utils.EvaluationConfig`).

    Attributes:
      batch_size: examples per generation step.
      num_examples: per task, during training.
      final_num_examples: per task of the mixture, after training; 0 skips the final evaluation.
      split: split of both.
      extra_splits: further splits of the final evaluation, split to examples per task; every task
        of the mixture must have them.
      unseen_tasks: tasks that are evaluated but never trained.
      unseen_task_seeds: evaluation seeds over which their scores are averaged.
      beam_size: of tasks whose recipe names none; 1 is greedy.
      closed_set_method: "search" or "candidates" replaces the method of tasks with a closed set
        of answers, "" keeps the task's own. Search is faster, scoring every candidate better.
      bounds: task to (floor, aim) of its headline metric, shown in the report.
      image_tokenizer: what shows the codes of prepared data as pictures in the report: a codebook
        (`.npz`), weights of a VQGAN (`last.ckpt`) or `module:function`; "" shows none.
    """

    batch_size: int = 128
    num_examples: int = 128
    final_num_examples: int = 512
    split: str = "validation"
    extra_splits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unseen_tasks: Sequence[str] = ()
    unseen_task_seeds: int = 3
    beam_size: int = 1
    closed_set_method: str = ""
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    image_tokenizer: str = ""

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_examples", "unseen_task_seeds", "beam_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"utils.EvaluationConfig.{name} must be positive, got {getattr(self, name)}"
                )
        if self.closed_set_method not in ("", "search", "candidates"):
            raise ValueError(
                "utils.EvaluationConfig.closed_set_method must be 'search', 'candidates' or '', "
                f"got {self.closed_set_method!r}"
            )
        if isinstance(self.unseen_tasks, str):
            raise ValueError(
                "utils.EvaluationConfig.unseen_tasks must be a list of names, such as "
                f"({self.unseen_tasks!r},)"
            )


@dataclasses.dataclass(frozen=True)
class InferenceEvaluation:
    """Generates and scores predictions of a run's tasks.

    Attributes:
      model: the model.
      run_tasks: what to evaluate.
      config: how much of it.
      seed: seed of the evaluation examples.
    """

    model: OFA
    run_tasks: TaskSet
    config: EvaluationConfig
    seed: int = 0

    def generate(self, variables: Any, task: OFATask, rows: Row, number: int = 0) -> np.ndarray:
        """Generated ids int32[b, t] of the batch of this number, by the task's own recipe."""
        answerer = Answerer(
            self.model,
            self.run_tasks.tokenizer,
            self.run_tasks.lengths,
            beam_size=self.config.beam_size,
            method=self.config.closed_set_method,
            seed=self.seed,
        )
        return answerer(variables, task, rows, number).tokens

    def predict(
        self, variables: Any, task: OFATask, split: str, count: int, seed: int
    ) -> evaluator.Predictions:
        """Predictions for the first `count` examples of a split."""
        numbers = itertools.count()
        return evaluator.predict(
            task,
            lambda task, rows: self.generate(variables, task, rows, next(numbers)),
            self.run_tasks.lengths,
            split=split,
            count=count,
            batch_size=self.config.batch_size,
            seed=seed,
        )

    def during_training(self, variables: Any) -> dict[str, float]:
        """Scores of every task on a few examples.

        Returns:
          "eval/<task>/<metric>" to value.
        """
        values = {}
        for task, name in zip(self.run_tasks.tasks, self.run_tasks.names):
            predictions = self.predict(
                variables, task, self.config.split, self.config.num_examples, self.seed
            )
            result = evaluator.score(predictions)
            for metric, value in result.metrics.items():
                values[f"eval/{name}/{metric}"] = value
        return values

    def final(self, variables: Any, run_dir: str | pathlib.Path) -> dict[str, Any]:
        """Scores everything after training and writes the predictions of the main split.

        Args:
          variables: of the model.
          run_dir: folder of the run.

        Returns:
          {"tasks": {name: entry}, "splits": {split: {name: entry}}}, entries as in
          `scoring.Result.entry`.
        """
        config = self.config
        entries: dict[str, Any] = {}
        for task, name in zip(self.run_tasks.tasks, self.run_tasks.names):
            start = time.perf_counter()
            predictions = self.predict(
                variables, task, config.split, config.final_num_examples, self.seed
            )
            result = evaluator.score(predictions)
            evaluator.write_predictions(
                predictions,
                result,
                run_dir,
                name=name,
                image_tokenizer=image_tokenizer_of(task, config.image_tokenizer),
            )
            entries[name] = result.entry() | self._bounds(name)
            if task.answering.submission:
                write_submission(
                    pathlib.Path(run_dir)
                    / "submissions"
                    / name
                    / file_name(task.answering.submission, config.split),
                    task.answering.submission,
                    (
                        evaluator.prediction_row(predictions, number)
                        for number in range(len(predictions.ids))
                    ),
                )
            _report(name, config.split, result, time.perf_counter() - start)
        for task in self.run_tasks.unseen:
            entries[task.family] = self._unseen(variables, task, run_dir)
        splits: dict[str, Any] = {}
        for split, count in config.extra_splits.items():
            splits[split] = {}
            for task, name in zip(self.run_tasks.tasks, self.run_tasks.names):
                start = time.perf_counter()
                result = evaluator.score(self.predict(variables, task, split, count, self.seed))
                splits[split][name] = result.entry()
                _report(name, split, result, time.perf_counter() - start)
        return {"tasks": entries, "splits": splits}

    def _bounds(self, name: str) -> dict[str, float]:
        bounds = self.config.bounds.get(name)
        return {"floor": bounds[0], "aim": bounds[1]} if bounds else {}

    def _unseen(self, variables: Any, task: OFATask, run_dir: str | pathlib.Path) -> dict[str, Any]:
        """A task without training: the mean over several evaluation seeds."""
        start = time.perf_counter()
        results = []
        for number in range(self.config.unseen_task_seeds):
            predictions = self.predict(
                variables,
                task,
                self.config.split,
                self.config.final_num_examples,
                self.seed + number,
            )
            results.append(evaluator.score(predictions))
            if number == 0:
                evaluator.write_predictions(predictions, results[0], run_dir, name=task.family)
        mean = {
            metric: float(np.mean([result.metrics[metric] for result in results]))
            for metric in results[0].metrics
        }
        primary = results[0].primary
        entry = results[0].entry() | mean
        entry["baseline"] = float(np.mean([result.baseline for result in results]))
        entry["values"] = [result.metrics[primary] for result in results]
        entry["n"] = sum(len(result.scores) for result in results)
        _report(task.family, "never trained", results[0], time.perf_counter() - start)
        return entry


def _report(name: str, split: str, result: scoring.Result, seconds: float) -> None:
    logger.info(
        "evaluated %s (%s, %d examples, %s): %s %.3f, best constant answer %.3f",
        name,
        split,
        len(result.scores),
        format_duration(seconds),
        result.primary,
        result.metrics[result.primary],
        result.baseline,
    )
