"""Evaluation by generation under t5x: that of the native runner, with its files.

`Evaluator` stands in for `seqio.Evaluator` (gin: `inference_evaluator_cls`). Examples, recipes of
the tasks, decoding, scores and `predictions/*.jsonl` are those of
`ofa_jax.evaluation.run_evaluation`, so numbers of the two engines compare.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import flax.core
import jax
from absl import logging
from clu import metric_writers
from jax.sharding import AxisType, Mesh, NamedSharding

from ofa_jax import atomic
from ofa_jax.data.tasks.features import empty_row
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.data.tasks.task import OFATask, TaskSet
from ofa_jax.evaluation.run_evaluation import EvaluationConfig, RunEvaluation
from ofa_jax.runs import directory as run_directory
from ofa_jax.runs import tasks as run_tasks
from ofa_jax.runs.hosts import of_primary
from ofa_jax.sharding.layout import MeshLayout
from ofa_jax.sharding.rules import MESH_AXES
from ofa_jax.t5x.models import OFAModel

__all__ = ["EvaluationConfig", "Evaluator"]


class Evaluator:
    """Generates and scores the first examples of a split, task by task."""

    def __init__(
        self,
        mixture_or_task_name: str,
        feature_converter: object,
        eval_split: str,
        use_cached: bool,
        seed: int | None,
        sequence_length: Mapping[str, int],
        use_memory_cache: bool,
        log_dir: str | None = None,
        logger_cls: Sequence[object] = (),
        *,
        model: OFAModel,
        settings: EvaluationConfig,
        complete: bool = False,
    ) -> None:
        """Takes what t5x passes to `seqio.Evaluator`, and three things more.

        Args:
          mixture_or_task_name: the run's mixture, or another one of some of its tasks.
          feature_converter: not used.
          eval_split: the split; `settings.split` need not be set.
          use_cached: not used.
          seed: of the examples.
          sequence_length: must be that of the run.
          use_memory_cache: not used.
          log_dir: where predictions and scores go, a directory or gs:// address; None writes
            nothing.
          logger_cls: not used.
          model: of the run.
          settings: how much is evaluated, as for the native runner.
          complete: whether this is the final evaluation, with predictions, further splits and
            tasks that were never trained, which needs `log_dir`; otherwise
            `settings.num_examples` per task, scores only.

        Raises:
          ValueError: a task without the split, or not of the run; a setting that says otherwise.
        """
        del feature_converter, use_cached, use_memory_cache, logger_cls
        if dict(sequence_length) != dict(model.tasks.lengths):
            raise ValueError(
                f"utils.DatasetConfig.task_feature_lengths of the evaluation is {sequence_length}, "
                f"that of the run {model.tasks.lengths}: set TASK_FEATURE_LENGTHS, which both read"
            )
        if settings.split not in (EvaluationConfig.split, eval_split):
            raise ValueError(
                f"evaluation.EvaluationConfig.split is {settings.split!r}, utils.DatasetConfig."
                f"split of the evaluation {eval_split!r}: set only the latter"
            )
        settings = dataclasses.replace(settings, split=eval_split)
        self._tasks = _evaluated(model, mixture_or_task_name)
        run_tasks.check_evaluation(self._tasks, settings, period=1)
        self._model, self._settings, self._seed = model, settings, seed or 0
        self._complete = complete
        self._directory, self._writer = None, None
        self._open = contextlib.ExitStack()
        # All hosts come here; one of them writes.
        run = self._open.enter_context(run_directory.opened(log_dir)) if log_dir else None
        if run is not None and run_directory.is_primary():
            self._run = run
            self._directory = run.files
            self._directory.mkdir(parents=True, exist_ok=True)
            self._writer = metric_writers.create_default_writer(
                str(self._directory), asynchronous=False
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
        predict_fn: Any,
        step: int | None = None,
        score_fn: object = None,
        predict_with_aux_fn: object = None,
    ) -> tuple[concurrent.futures.Future, dict[str, object]]:
        """Evaluates a train state; all hosts come here and answer together, the first one writes.

        Args:
          compute_metrics: whether this is the host that scores.
          predict_fn: t5x's partial function, of which only the keyword `train_state` is taken:
            tasks have recipes of their own, which one prediction function cannot follow.
          step: of the checkpoint.
          score_fn: not used.
          predict_with_aux_fn: not used.

        Returns:
          (finished future of {task: {metric: value}}, or of None on other hosts; {}).
        """
        del score_fn, predict_with_aux_fn
        state = predict_fn.keywords["train_state"]
        variables = {
            "params": flax.core.unfreeze(state.params),
            "batch_stats": flax.core.unfreeze(state.flax_mutables).get("batch_stats", {}),
        }
        evaluation = RunEvaluation(
            self._model.module,
            self._tasks,
            self._settings,
            _layout(variables, self._model),
            seed=self._seed,
            agree=of_primary,
        )
        future: concurrent.futures.Future = concurrent.futures.Future()
        if self._complete and of_primary(int(self._directory is not None)):
            results = evaluation.final(variables, self._directory, {"step": step})
            values = _flat_scores(results) if compute_metrics else {}
            if self._directory is not None:
                facts = {"steps": step, "seed": self._model.random_seed}
                atomic.write_json(self._directory / "metrics.json", {**results, "run": facts})
        else:
            values = evaluation.during_training(variables)
        if not compute_metrics:
            future.set_result(None)
            return future, {}
        self._write(values, step or 0)
        by_task: dict[str, dict[str, float]] = {}
        for name, value in values.items():
            task, metric = name.removeprefix("eval/").split("/", 1)
            by_task.setdefault(task, {})[metric] = value
        future.set_result(by_task)
        return future, {}

    def _write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in sorted(values.items()):
            logging.info("step %d, %s: %.4f", step, name, value)
        if self._directory is None or self._writer is None:
            return
        with (self._directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._writer.write_scalars(step, dict(values))
        self._writer.flush()
        self._run.push()

    def close(self) -> None:
        """Closes the files."""
        if self._writer:
            self._writer.close()
            self._writer = None
        self._open.close()


def _evaluated(model: OFAModel, mixture: str) -> TaskSet:
    """The tasks of a mixture as the model has them."""
    tasks = model.tasks
    if mixture == model.mixture:
        return tasks
    setting = "utils.DatasetConfig.mixture_or_task_name of the evaluation"
    names = {task.name for task, _ in lookup(mixture, setting=setting)}
    chosen = [pair for pair in zip(tasks.tasks, tasks.rates) if pair[0].name in names]
    if missing := names - {task.name for task, _ in chosen}:
        raise ValueError(
            f"{setting}: {', '.join(sorted(missing))} is not in MIXTURE_OR_TASK_NAME "
            f"{model.mixture!r} of the run"
        )
    return dataclasses.replace(
        tasks, tasks=tuple(task for task, _ in chosen), rates=tuple(rate for _, rate in chosen)
    )


def _layout(variables: object, model: OFAModel) -> MeshLayout:
    """The mesh that t5x's partitioner put the weights on, or one device where it is none."""
    for leaf in jax.tree.leaves(variables):
        if isinstance(sharding := getattr(leaf, "sharding", None), NamedSharding):
            mesh = cast(Mesh, sharding.mesh)
            if mesh.axis_names != MESH_AXES:  # t5x's own partitioner: data and model
                grid = mesh.devices.reshape(1, *mesh.devices.shape)
                mesh = Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
            return MeshLayout(mesh, model.rules)
    return MeshLayout.local(1)


def _flat_scores(results: Mapping[str, Any]) -> dict[str, float]:
    """The headline metric of every task, as "eval/<task>/<metric>"."""
    return {
        f"eval/{name}/{entry['primary']}": float(entry[entry["primary"]])
        for name, entry in results["tasks"].items()
    }
