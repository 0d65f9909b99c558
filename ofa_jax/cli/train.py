"""The story of a training run: `train_script.train`, behind `python -m ofa_jax.train`.

Check everything that can be checked, restore or initialise, train, evaluate, report. A run that
was killed goes on from its last checkpoint when the same command is given again; a run that is
finished says so and only refreshes its report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax

from ofa_jax.checkpoint.errors import CheckpointError
from ofa_jax.checkpoint.huggingface import is_repository_id
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.manager import CheckpointManager, readable_size, tree_bytes
from ofa_jax.checkpoint.orbax_weights import write_model_config
from ofa_jax.cli import finetuning, gin_files, run_tasks
from ofa_jax.cli.inference_evaluation import InferenceEvaluation, device_name
from ofa_jax.cli.run_log import ProgressBar, RunLog, duration
from ofa_jax.cli.settings import (
    CheckpointConfig,
    DatasetConfig,
    EvaluationConfig,
    PartitionerConfig,
    TrainerConfig,
)
from ofa_jax.data import locations as data_locations
from ofa_jax.data.pipeline import MixturePipeline
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.report.build import build_report
from ofa_jax.sharding import mesh as meshes
from ofa_jax.sharding import placement, rules
from ofa_jax.training import loop
from ofa_jax.training.ema import EMAConfig
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer, check_patterns
from ofa_jax.training.preemption import PreemptionHandler
from ofa_jax.training.state import TrainState, from_checkpoint_tree, to_checkpoint_tree

logger = logging.getLogger("ofa_jax")


def train(
    *,
    model: Any,
    model_dir: str,
    train_dataset_cfg: DatasetConfig,
    optimizer: OptimizerConfig,
    total_steps: int,
    infer_eval_dataset_cfg: EvaluationConfig | None = None,
    checkpoint_cfg: CheckpointConfig = CheckpointConfig(),
    partitioner: PartitionerConfig = PartitionerConfig(),
    trainer: TrainerConfig = TrainerConfig(),
    eval_period: int = 0,
    stats_period: int = 100,
    random_seed: int = 0,
    locations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Trains a mixture, evaluates every task, writes a report.

    Args:
      model: `models.OFA` settings.
      model_dir: folder of the run; made where it does not exist.
      train_dataset_cfg: mixture, lengths, batch size.
      optimizer: update rule and learning rate.
      total_steps: train until this step.
      infer_eval_dataset_cfg: evaluation by generation; None evaluates nothing.
      checkpoint_cfg: how often to save, how many to keep, where to start from.
      partitioner: device mesh and sharding rules.
      trainer: accumulation, smoothing, averaging.
      eval_period: steps between evaluations during training; 0 evaluates only at the end.
      stats_period: steps between log lines.
      random_seed: seed of initialisation, dropout, patches.
      locations: folders by name, for example {"DATA_DIR": ..., "VOCAB_DIR": ...}.

    Returns:
      The content of `metrics.json` ({} without evaluation).

    Raises:
      ValueError: a setting that cannot work; the message names it and what would be right.
    """
    started = time.perf_counter()
    for name, path in (locations or {}).items():
        data_locations.assign(name, path)
    tasks = run_tasks.load(train_dataset_cfg, infer_eval_dataset_cfg)
    if infer_eval_dataset_cfg:
        run_tasks.check_evaluation(tasks, infer_eval_dataset_cfg, period=eval_period)
    layout = tasks.tokenizer.layout
    config: OFAConfig = model.build(
        vocab_size=layout.size, padded_vocab_size=layout.padded_size, num_codes=layout.num_codes
    )
    _check_model_fits(config, tasks)
    mesh = meshes.build_mesh(partitioner.mesh)
    axis_rules = rules.rules_by_name(partitioner.rules)
    placement.check_batch_size(train_dataset_cfg.batch_size, mesh, trainer.num_microbatches)
    pipeline = MixturePipeline(
        tasks=tasks.tasks,
        rates=tasks.rates,
        lengths=tasks.lengths,
        batch_size=train_dataset_cfg.batch_size,
        split=train_dataset_cfg.split,
        seed=train_dataset_cfg.seed,
        num_hosts=jax.process_count(),
        host=jax.process_index(),
        num_workers=train_dataset_cfg.num_workers,
        num_threads=train_dataset_cfg.num_threads,
    )

    run_dir = pathlib.Path(model_dir)
    module = OFA(config)
    tx, schedule = build_optimizer(optimizer)
    ema = EMAConfig(trainer.ema_decay, trainer.ema_start_step) if trainer.ema_decay else None
    example_batch = pipeline.batch(0)

    def create(key: jax.Array) -> TrainState:
        shapes = {name: value[:1] for name, value in example_batch.items()}
        return TrainState.create(module, tx, key, shapes, ema=ema is not None)

    base_key = jax.random.key(random_seed)
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(
            _open_manager(run_dir, checkpoint_cfg, model=config, vocabulary=layout)
        )
        if checkpoint_cfg.initial_path and not manager.steps():
            _check_initial_path(checkpoint_cfg.initial_path)
        state, shardings = placement.create_sharded(create, base_key, mesh=mesh, rules=axis_rules)
        check_patterns(state.params, optimizer)
        state = _restore(manager, state, shardings)
        start_step = int(state.step)
        if start_step == 0:
            state = _start_from(checkpoint_cfg.initial_path, state, shardings, config)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        logger.info(
            "OFA %s, %.2f M parameters, vocabulary of %d, %s, mesh %s, %s",
            model.size,
            parameters / 1e6,
            layout.size,
            device_name(),
            dict(mesh.shape),
            f"{len(tasks.tasks)} tasks at batch size {train_dataset_cfg.batch_size}",
        )
        copies = max(1, checkpoint_cfg.keep + 1 - len(manager.steps()))
        needed = tree_bytes(to_checkpoint_tree(state)) * copies
        if (free := shutil.disk_usage(run_dir).free) < needed:
            raise ValueError(
                f"MODEL_DIR {run_dir} has {readable_size(free)} free; {checkpoint_cfg.keep} "
                f"checkpoints and the one being written need {readable_size(needed)} more"
            )
        run_tasks.refuse_other_settings(run_dir, gin_files.resolved(), total_steps, start_step)
        run_tasks.save_vocabulary(run_dir, tasks.tokenizer)
        write_model_config(run_dir, config)
        (run_dir / "config.gin").write_text(gin_files.resolved(), encoding="utf-8")

        log = RunLog(run_dir, start_step)
        stack.callback(log.close)
        evaluation = None
        if infer_eval_dataset_cfg:
            evaluation = InferenceEvaluation(module, tasks, infer_eval_dataset_cfg, random_seed)
        train_step = finetuning.training_step(
            module,
            tx,
            schedule,
            trainer,
            tasks,
            ema=ema,
            frozen=optimizer.frozen,
            state_shardings=shardings,
            batch_shardings=placement.batch_sharding(mesh),
        )

        def save(step: int, state: TrainState) -> None:
            manager.save(step, to_checkpoint_tree(state))

        def evaluate(step: int, state: TrainState) -> None:
            if evaluation and (step < total_steps or checkpoint_cfg.best_metric):
                values = evaluation.during_training(state.variables(use_ema=True))
                log.write(step, values)
                if checkpoint_cfg.best_metric:
                    score = finetuning.deciding_score(checkpoint_cfg.best_metric, values)
                    manager.save(step, to_checkpoint_tree(state), metrics=score)

        if start_step < total_steps:
            preemption = stack.enter_context(PreemptionHandler())
            stack.enter_context(meshes.mesh_context(mesh, axis_rules))
            timers = loop.Timers()
            state = loop.run(
                state,
                train_step=train_step,
                batches=pipeline.iterate(start_step),
                place=lambda batch: placement.place_batch(batch, mesh),
                rng=base_key,
                periods=loop.Periods(
                    total_steps, stats_period, eval_period, checkpoint_cfg.period or total_steps
                ),
                batch_size=train_dataset_cfg.batch_size,
                task_names=tasks.names,
                log=log.write,
                evaluate=evaluate,
                save=save,
                stop_requested=lambda: preemption.requested,
                progress=ProgressBar(total_steps, start_step),
                timers=timers,
            )
            manager.wait()
            if preemption.requested and int(state.step) < total_steps:
                logger.warning(
                    "stopped at step %d of %d; give the same command again to go on",
                    int(state.step),
                    total_steps,
                )
                return {}
            logger.info(
                "time by part: %s",
                ", ".join(f"{name} {duration(t)}" for name, t in sorted(timers.total.items())),
            )
        results = {}
        state = _best(manager, state, shardings)
        if evaluation and evaluation.config.final_num_examples:
            facts = {
                "model": model.size,
                "num_parameters": parameters,
                "steps": total_steps,
                "batch_size": train_dataset_cfg.batch_size,
                "mixture": train_dataset_cfg.mixture_or_task_name,
                "seed": random_seed,
                "hardware": device_name(),
            }
            if checkpoint_cfg.best_metric:
                facts["best_step"] = int(state.step)
            results = _finish(run_dir, evaluation, state, log, facts)
    logger.info("done in %s", duration(time.perf_counter() - started))
    return results


def _open_manager(
    run_dir: pathlib.Path, checkpoints: CheckpointConfig, **settings: Any
) -> CheckpointManager:
    config = {name: dataclasses.asdict(value) for name, value in settings.items()}
    try:
        return CheckpointManager(
            run_dir,
            config=config,
            keep=checkpoints.keep,
            best_metric=checkpoints.best_metric or None,
            best_mode=checkpoints.best_mode,
        )
    except CheckpointError as error:
        raise type(error)(f"MODEL_DIR: {error}") from error


def _check_initial_path(path: str) -> None:
    if not is_repository_id(path) and not pathlib.Path(path).exists():
        raise ValueError(f"INITIAL_CHECKPOINT_PATH: there is no {path}")


def _check_model_fits(config: OFAConfig, tasks: run_tasks.RunTasks) -> None:
    """Fails where the model's position tables are too small for the sequences or images."""
    only_codes = all(task.target_modality == "CODE" for task in tasks.tasks)
    # 1,024 image codes and eos; codes have positions of their own.
    longest = {"inputs": config.max_positions, "targets": config.max_positions + only_codes}
    for key, limit in longest.items():
        if tasks.lengths[key] > limit:
            raise ValueError(
                f"TASK_FEATURE_LENGTHS[{key!r}] = {tasks.lengths[key]}, but the model has "
                f"positions for {limit} tokens"
            )
    image, stride = tasks.lengths["image"], config.resnet.stride
    if image % stride or image // stride > config.image_bucket_size:
        raise ValueError(
            f"TASK_FEATURE_LENGTHS['image'] = {image} pixels; this model needs a multiple of "
            f"{stride} of at most {stride * config.image_bucket_size}"
        )
    codes = config.code_window**2 + 1
    if codes > tasks.lengths["targets"] and any(
        task.target_modality == "CODE" for task in tasks.tasks
    ):
        raise ValueError(
            f"TASK_FEATURE_LENGTHS['targets'] = {tasks.lengths['targets']} is too short for image "
            f"infilling: {codes - 1} codes and eos need {codes}"
        )


def _restore(manager: CheckpointManager, state: TrainState, shardings: Any) -> TrainState:
    """The newest readable checkpoint of this run, or the state as initialised."""
    restored = manager.restore_latest(to_checkpoint_tree(state), to_checkpoint_tree(shardings))
    if restored is None:
        return state
    step, tree = restored
    logger.info("going on from the checkpoint at step %d in %s", step, manager.directory)
    return from_checkpoint_tree(tree, state)


def _best(manager: CheckpointManager, state: TrainState, shardings: Any) -> TrainState:
    """The checkpoint of the best score, or the state as it is where no score decides."""
    step = manager.best_step()
    if step is None or step == int(state.step):
        return state
    logger.info("the best evaluation during training was at step %d", step)
    tree = manager.restore(step, to_checkpoint_tree(state), to_checkpoint_tree(shardings))
    return from_checkpoint_tree(tree, state)


def _start_from(path: str | None, state: TrainState, shardings: Any, config: OFAConfig) -> Any:
    """The weights of another run or of a released checkpoint, with a fresh optimiser."""
    if not path:
        return state
    imported = import_checkpoint(path, config=config)
    logger.info("starting from the weights of %s", path)
    variables = {
        name: jax.tree.map(jax.device_put, imported.variables[name], getattr(shardings, name))
        for name in ("params", "batch_stats")
    }
    ema = None if state.ema is None else jax.tree.map(jax.numpy.copy, variables)
    return dataclasses.replace(state, ema=ema, **variables)


def _finish(
    run_dir: pathlib.Path,
    evaluation: InferenceEvaluation,
    state: TrainState,
    log: RunLog,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Final evaluation, metrics.json and report; an evaluation that is there is kept."""
    path = run_dir / "metrics.json"
    results = _finished_results(path, facts)
    if results is None:
        wall_seconds = log.seconds
        results = evaluation.final(state.variables(use_ema=True), run_dir)
        finished = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        results["run"] = {
            "name": run_dir.name,
            "finished": finished,
            "wall_seconds": round(wall_seconds, 1),
            **facts,
        }
        run_tasks.write_json(path, results)
    else:
        logger.info("this run is finished; delete %s to train again", run_dir)
    report = build_report(run_dir)
    logger.info("report: %s", report)
    return results


def _finished_results(path: pathlib.Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    results = json.loads(path.read_text(encoding="utf-8"))
    same = all(results.get("run", {}).get(key) == value for key, value in facts.items())
    return results if same else None
