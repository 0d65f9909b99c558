"""Evaluation of a run by generation, during and after training, where its weights lie."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from flax.typing import VariableDict

from ofa_jax import schema
from ofa_jax.atomic import JsonObject
from ofa_jax.data.tasks.task import OFATask, TaskSet
from ofa_jax.evaluation.generated_images import CodeImages
from ofa_jax.evaluation.split_evaluation import SplitEvaluation, SplitScore
from ofa_jax.inference.answerer import Answerer
from ofa_jax.model.ofa import OFA
from ofa_jax.progress import format_duration
from ofa_jax.schema import Between
from ofa_jax.sharding.layout import MeshLayout

logger = logging.getLogger("ofa_jax")

# Predictions of an evaluation that is not finished, below the directory of the run.
WORK = "work"


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Generation on held-out examples (`EvaluationConfig`).

    Attributes:
      batch_size: most examples per generation step; fewer where memory is short.
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
      image_tokenizer: what shows the codes of prepared data as images in the report: a codebook
        (`.npz`), weights of a VQGAN (`last.ckpt`) or `module:function`; "" shows none.
    """

    batch_size: Annotated[int, Between(1, 1 << 20)] = 128
    num_examples: Annotated[int, Between(1, 10**12)] = 128
    final_num_examples: Annotated[int, Between(0, 10**12)] = 512
    split: str = "validation"
    extra_splits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unseen_tasks: Sequence[str] = ()
    unseen_task_seeds: Annotated[int, Between(1, 1024)] = 3
    beam_size: Annotated[int, Between(1, 1024)] = 1
    closed_set_method: Literal["", "search", "candidates"] = ""
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    image_tokenizer: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.unseen_tasks, str):
            raise ValueError(
                "EvaluationConfig.unseen_tasks must be a list of names, such as "
                f"({self.unseen_tasks!r},)"
            )
        schema.check(self, "EvaluationConfig")


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """Generates and scores predictions of a run's tasks.

    Several processes answer together: each prepares the same examples, one of them writes.

    Attributes:
      model: the model.
      tasks: what to evaluate.
      config: how much of it.
      layout: the mesh and the rules of the run.
      seed: seed of the evaluation examples.
      stop_requested: asked before every batch of the final evaluation, the same on all processes.
      agree: the number of the primary process, on all processes.
    """

    model: OFA
    tasks: TaskSet
    config: EvaluationConfig
    layout: MeshLayout
    seed: int = 0
    stop_requested: Callable[[], bool] = lambda: False
    agree: Callable[[int], int] = lambda done: done

    def during_training(self, variables: VariableDict) -> dict[str, float]:
        """Scores of every task on a few examples.

        Args:
          variables: of the model, as the run has sharded them.

        Returns:
          "eval/<task>/<metric>" to value.
        """
        evaluate, values = self._splits({}), {}
        for name, task in self.tasks.scored:
            score = evaluate(variables, task, self.config.split, limit=self.config.num_examples)
            if score is not None and score.result is not None:
                for metric, value in score.result.metrics.items():
                    values[f"eval/{name}/{metric}"] = value
        return values

    def final(
        self, variables: VariableDict, run_dir: pathlib.Path | None, inputs: Mapping[str, object]
    ) -> JsonObject:
        """Scores everything after training and writes the predictions of the main split.

        What is predicted is kept until all is done, so that a stopped evaluation goes on.

        Args:
          variables: of the model, as the run has sharded them.
          run_dir: directory of the run; None on processes that write nothing.
          inputs: what the predictions depend on besides the tasks: the step, the weights.

        Returns:
          {"tasks": {name: entry}, "splits": {split: {name: entry}}}, entries as in
          `scoring.Result.entry`.

        Raises:
          Unfinished: `stop_requested` said so.
        """
        config, evaluate = self.config, self._splits(inputs)
        work = None if run_dir is None else run_dir / WORK

        def score(task: OFATask, split: str, count: int, name: str, **options: Any) -> SplitScore:
            start = time.monotonic()
            options = {"work": work, **options}
            found = evaluate(variables, task, split, limit=count, name=name, **options)
            assert found is not None, "there are no other shards"
            _report(name, split, found, time.monotonic() - start)
            return found

        entries: JsonObject = {}
        count = config.final_num_examples
        for name, task in self.tasks.scored:
            found = score(task, config.split, count, name, root=run_dir)
            entries[name] = found.entry() | self._bounds(name)
        for task in self.tasks.unseen:
            entries[task.family] = self._unseen(task, score, run_dir)
        splits: JsonObject = {}
        for split, extra in config.extra_splits.items():
            splits[split] = {
                name: score(task, split, extra, name, **_directories(run_dir, split)).entry()
                for name, task in self.tasks.scored
            }
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        return {"tasks": entries, "splits": splits}

    def _splits(self, inputs: Mapping[str, object]) -> SplitEvaluation:
        config = self.config
        answerer = Answerer(
            self.model,
            self.tasks.tokenizer,
            self.layout,
            beam_size=config.beam_size,
            method=config.closed_set_method,
            seed=self.seed,
        )
        tasks = (*self.tasks.tasks, *self.tasks.unseen)
        return SplitEvaluation(
            answerer,
            self.tasks.lengths,
            config.batch_size,
            seed=self.seed,
            skip_bad=False,
            images=CodeImages.of_settings(tasks, config.image_tokenizer, "", ""),
            inputs=inputs,
            overwrite=True,
            stop_requested=self.stop_requested,
            agree=self.agree,
        )

    def _bounds(self, name: str) -> dict[str, float]:
        bounds = self.config.bounds.get(name)
        return {"floor": bounds[0], "aim": bounds[1]} if bounds else {}

    def _unseen(
        self, task: OFATask, score: Callable[..., SplitScore], run_dir: pathlib.Path | None
    ) -> JsonObject:
        """A task without training: the mean over several evaluation seeds."""
        results = []
        for number in range(self.config.unseen_task_seeds):
            name = task.family if number == 0 else f"{task.family}_seed_{number}"
            found = score(
                task,
                self.config.split,
                self.config.final_num_examples,
                name,
                seed=self.seed + number,
                root=run_dir,
            )
            if found.result is not None:
                results.append(found.result)
        if run_dir is not None:
            _join_seeds(run_dir / "predictions", task.family, self.config.unseen_task_seeds)
        if not results:
            return {}
        mean = {
            metric: float(np.mean([result.metrics[metric] for result in results]))
            for metric in results[0].metrics
        }
        primary = results[0].primary
        entry = results[0].entry() | mean
        constants = [result.baseline for result in results if result.baseline is not None]
        if constants:
            entry["baseline"] = float(np.mean(constants))
        entry["values"] = [result.metrics[primary] for result in results]
        entry["n"] = sum(len(result.scores) for result in results)
        return entry


def _join_seeds(directory: pathlib.Path, name: str, seeds: int) -> None:
    """Puts the predictions of all seeds into one file, so that they are what was scored."""
    with (directory / f"{name}.jsonl").open("ab") as whole:
        for number in range(1, seeds):
            part = directory / f"{name}_seed_{number}.jsonl"
            if part.exists():
                whole.write(part.read_bytes())
                part.unlink()


def _directories(run_dir: pathlib.Path | None, split: str) -> dict[str, pathlib.Path]:
    """Where a further split goes: a directory of its own, laid out as that of the run."""
    if run_dir is None:
        return {}
    return {"root": run_dir / "splits" / split, "work": run_dir / WORK / split}


def _report(name: str, split: str, found: SplitScore, seconds: float) -> None:
    if (result := found.result) is None:
        logger.info("%s: %d predictions, no truth to score them by", name, found.count)
        return
    constant = result.baseline
    logger.info(
        "evaluated %s (%s, %d examples, %s): %s %.3f%s",
        name,
        split,
        len(result.scores),
        format_duration(seconds),
        result.primary,
        result.metrics[result.primary],
        "" if constant is None else f", best constant answer {constant:.3f}",
    )
