"""Evaluation by generation under t5x: the native examples, scores and prediction files.

`Evaluator` stands in for `seqio.Evaluator` (gin: `inference_evaluator_cls`). t5x hands it a
function that predicts a data set; examples, preparation, decoding of ids, scores and
`predictions/*.jsonl` are those of `ofa_jax.evaluation`, so numbers of the two engines compare.
"""

from __future__ import annotations

import concurrent.futures
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from absl import logging
from clu import metric_writers

from ofa_jax.cli.run_tasks import RunTasks
from ofa_jax.data.features import Row, empty_row
from ofa_jax.data.registration import lookup
from ofa_jax.data.steps import image_tokenizer_of
from ofa_jax.data.task import OFATask
from ofa_jax.evaluation import evaluator

Predict = Callable[[tf.data.Dataset], Sequence[tuple[int, Sequence[int]]]]


class Evaluator:
    """Generates and scores the first examples of a split, task by task."""

    def __init__(
        self,
        mixture_or_task_name: str,
        feature_converter: Any,
        eval_split: str,
        use_cached: bool,
        seed: int | None,
        sequence_length: Mapping[str, int],
        use_memory_cache: bool,
        log_dir: str | None = None,
        logger_cls: Sequence[Any] = (),
        *,
        num_examples: int = 128,
        batch_size: int = 128,
    ) -> None:
        """Takes what t5x passes to `seqio.Evaluator`, and two settings.

        Args:
          mixture_or_task_name: what to evaluate.
          feature_converter: not used, rows come ready.
          eval_split: split of the sources.
          use_cached: not used.
          seed: of the examples.
          sequence_length: task feature lengths.
          use_memory_cache: not used.
          log_dir: where predictions and scores go; None writes nothing.
          logger_cls: not used.
          num_examples: per task.
          batch_size: examples per call of the predict function.

        Raises:
          ValueError: no such mixture, or a task without this split.
        """
        del feature_converter, use_cached, use_memory_cache, logger_cls
        found = lookup(mixture_or_task_name)
        tasks = tuple(task for task, _ in found)
        for task in tasks:
            task.source.open(eval_split)
        self._tasks = RunTasks(
            tasks,
            tuple(rate for _, rate in found),
            (),
            sequence_length,
            tasks[0].tokenizer(),
        )
        self._split, self._seed = eval_split, seed or 0
        self._num_examples, self._batch_size = num_examples, batch_size
        self._folder = pathlib.Path(log_dir) if log_dir else None
        self._writer = None
        if self._folder and jax.process_index() == 0:
            self._writer = metric_writers.create_default_writer(
                str(self._folder), asynchronous=False
            )

    @property
    def eval_tasks(self) -> Sequence[OFATask]:
        """The tasks."""
        return self._tasks.tasks

    @property
    def model_feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one row."""
        return {key: value.shape for key, value in empty_row(self._tasks.lengths).items()}

    def evaluate(
        self,
        *,
        compute_metrics: bool,
        predict_fn: Predict,
        step: int | None = None,
        score_fn: Any = None,
        predict_with_aux_fn: Any = None,
    ) -> tuple[concurrent.futures.Future, dict[str, evaluator.Predictions]]:
        """Predicts on all hosts, scores and writes on the first.

        Args:
          compute_metrics: whether this host scores.
          predict_fn: enumerated data set of rows to (index, ids) pairs.
          step: of the checkpoint.
          score_fn: not used.
          predict_with_aux_fn: not used.

        Returns:
          (finished future of {task: {metric: value}}, or of None where not scored; predictions).
        """
        del score_fn, predict_with_aux_fn
        outputs, results = {}, {}
        for task, name in zip(self._tasks.tasks, self._tasks.names):
            outputs[name] = evaluator.predict(
                task,
                lambda task, rows: _ids(predict_fn, rows),
                self._tasks.lengths,
                split=self._split,
                count=self._num_examples,
                batch_size=self._batch_size,
                seed=self._seed,
            )
            if compute_metrics:
                results[name] = self._score(name, outputs[name], step or 0)
        future: concurrent.futures.Future = concurrent.futures.Future()
        future.set_result(results if compute_metrics else None)
        if compute_metrics and self._folder:
            line = {"step": step}
            for name, metrics in results.items():
                line |= {f"eval/{name}/{metric}": value for metric, value in metrics.items()}
            with (self._folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return future, outputs

    def _score(self, name: str, predictions: evaluator.Predictions, step: int) -> dict[str, float]:
        result = evaluator.score(predictions)
        logging.info("%s, step %d: %s", name, step, result.metrics)
        if self._folder:
            evaluator.write_predictions(
                predictions,
                result,
                self._folder,
                name=name,
                image_tokenizer=image_tokenizer_of(predictions.task),
            )
        if self._writer:
            values = {f"{name}/{metric}": value for metric, value in result.metrics.items()}
            self._writer.write_scalars(step, values)
            self._writer.flush()
        return dict(result.metrics)

    def close(self) -> None:
        """Closes the files."""
        if self._writer:
            self._writer.close()
            self._writer = None


def _ids(predict_fn: Predict, rows: Row) -> np.ndarray:
    """Generated ids int32[b, t] of a batch of rows, in their order."""
    pairs = predict_fn(tf.data.Dataset.from_tensor_slices(dict(rows)).enumerate())
    return np.asarray([ids for _, ids in sorted(pairs)], np.int32)
