"""The story of a training run: `train`, behind `python -m ofa_jax.train`.

Check everything that can be checked, restore or initialize, train, evaluate, report. A run that
was killed goes on from its last checkpoint when the same command is given again; a run that is
finished says so and only refreshes its report.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import jax

from ofa_jax import atomic, errors, schema
from ofa_jax.checkpoint.manager import CheckpointManager
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.tasks.features import FeatureRow
from ofa_jax.data.tasks.task import TaskSet
from ofa_jax.evaluation.run_evaluation import EvaluationConfig, RunEvaluation
from ofa_jax.model.vqgan.config import VQGANConfig
from ofa_jax.progress import format_duration
from ofa_jax.provenance import provenance
from ofa_jax.report.collect import NOT_SCORES, RecordError
from ofa_jax.runs import directory as run_directory
from ofa_jax.runs import hosts, objective
from ofa_jax.runs import state as run_state
from ofa_jax.runs import tasks as run_tasks
from ofa_jax.runs.engine import Engine, check_code_grids
from ofa_jax.runs.log import LogConfig, NoLog, RunLog, TrainingProgress
from ofa_jax.runs.loss_evaluation import LossEvaluation, LossEvaluationConfig
from ofa_jax.runs.settings import (
    CheckpointConfig,
    DatasetConfig,
    PartitionerConfig,
    Seed,
    Steps,
    TrainerConfig,
)
from ofa_jax.schema import Between
from ofa_jax.sharding import placement
from ofa_jax.sharding.chips import chip_of
from ofa_jax.sharding.mesh import device_name
from ofa_jax.training import loop
from ofa_jax.training.goodput import GoodputLedger
from ofa_jax.training.optimizer import OptimizerConfig
from ofa_jax.training.profiler import ProfilerWindow
from ofa_jax.training.programs import StepPrograms
from ofa_jax.training.state import TrainState, to_checkpoint_tree

logger = logging.getLogger("ofa_jax")


def train(
    *,
    model: Any,
    model_dir: Annotated[str, Between(1, 4096)],
    train_dataset_cfg: DatasetConfig,
    optimizer: OptimizerConfig,
    total_steps: Annotated[int, Between(1, 10**9)],
    infer_eval_dataset_cfg: EvaluationConfig | None = None,
    loss_evaluation_cfg: LossEvaluationConfig | None = None,
    checkpoint_cfg: CheckpointConfig = CheckpointConfig(),
    partitioner: PartitionerConfig = PartitionerConfig(),
    trainer: TrainerConfig = TrainerConfig(),
    log_cfg: LogConfig = LogConfig(),
    eval_period: Steps = 0,
    stats_period: Annotated[int, Between(1, 10**9)] = 100,
    random_seed: Seed = 0,
    config_text: str = "",
) -> atomic.JsonObject:
    """Trains a mixture, evaluates every task, writes a report.

    Args:
      model: `OFA` settings.
      model_dir: directory of the run, or a gs:// address; made where it does not exist.
      train_dataset_cfg: mixture, lengths, batch size.
      optimizer: update rule and learning rate.
      total_steps: train until this step.
      infer_eval_dataset_cfg: evaluation by generation; None evaluates nothing.
      loss_evaluation_cfg: the loss on held-out batches during training; None measures none.
      checkpoint_cfg: how often to save, how many to keep, where to start from.
      partitioner: device mesh and sharding rules.
      trainer: accumulation, smoothing, averaging, profiling.
      log_cfg: where numbers go besides `metrics.jsonl`.
      eval_period: steps between evaluations during training; 0 evaluates only at the end.
      stats_period: steps between log lines.
      random_seed: seed of initialization, dropout, patches.
      config_text: the whole configuration as text, kept as `config.gin` and compared at every
        start; not a setting, the command gives it.

    Returns:
      The content of `metrics.json` ({} without evaluation).

    Raises:
      ValueError: before the run starts: a setting that cannot work; the message names it and what
        would be right.
      Unfinished: a signal asked to stop; what was done is saved.
    """
    given = dict(locals())
    schema.check_arguments(train, given, "train")
    del given["config_text"]
    hosts.require_same_settings(
        run_tasks.settings_lines(config_text)
        or [f"{name} = {value!r}" for name, value in given.items()]
    )
    began = time.monotonic()
    run_directory.check_model_dir(model_dir)
    run_tasks.assign_locations(train_dataset_cfg.locations, checkpoint_cfg.initial_path)
    train_dataset_cfg.configure_buckets()
    tasks = run_tasks.load(train_dataset_cfg, infer_eval_dataset_cfg)
    is_tokenizer = isinstance(model, VQGANConfig)
    if infer_eval_dataset_cfg:
        run_tasks.check_evaluation(
            tasks, infer_eval_dataset_cfg, period=eval_period, scored=not is_tokenizer
        )
    _check_best(checkpoint_cfg, infer_eval_dataset_cfg, eval_period)
    layout = tasks.tokenizer.layout
    engine_class: type[Engine] = Engine
    described: dict[str, object] = {"vocabulary": layout}
    config: Any  # of the engine's own model
    if is_tokenizer:
        # Imported where it is needed: its step and its checkpoints are nothing to OFA.
        from ofa_jax.runs.image_tokenizer import TokenizerEngine

        engine_class, described, config = TokenizerEngine, {}, model
        if loss_evaluation_cfg or checkpoint_cfg.save_trained:
            raise ValueError(
                "loss_evaluation_cfg and CheckpointConfig.save_trained are of models.OFA: an image "
                "tokenizer is evaluated every eval_period steps and written whole"
            )
    else:
        config = model.build(
            vocab_size=layout.size, padded_vocab_size=layout.padded_size, num_codes=layout.num_codes
        )
    engine_class.check(config, tasks, trainer)
    if not is_tokenizer:
        check_code_grids(config, tasks)
    engine = engine_class.build(
        config,
        tasks,
        optimizer=optimizer,
        trainer=trainer,
        partitioner=partitioner,
        batch_size=train_dataset_cfg.batch_size,
    )
    pipeline = _training_input(train_dataset_cfg, tasks, engine)
    example_batch = pipeline.example_batch()

    base_key = jax.random.key(random_seed)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(run_directory.opened(model_dir))
        run_dir = run.files
        manager = stack.enter_context(
            run_directory.open_manager(run, checkpoint_cfg, model=config, **described)
        )
        run_state.check_initial_path(checkpoint_cfg.initial_path, manager)
        abstract_state = engine.abstract_state(example_batch)
        run_directory.check_space(run, checkpoint_cfg, manager, abstract_state)
        state, shardings = run_state.begin(
            engine, manager, base_key, example_batch, initial_path=checkpoint_cfg.initial_path
        )
        start_step = int(state.step)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        size = getattr(model, "size", "")
        name = f"{engine_class.description} {size}".strip()
        logger.info(
            "%s, %.2f M parameters, vocabulary of %d, %s, %s",
            name,
            parameters / 1e6,
            config.num_codes if is_tokenizer else layout.size,
            device_name(),
            f"{len(tasks.tasks)} tasks at batch size {train_dataset_cfg.batch_size}",
        )
        run_tasks.refuse_other_settings(run_dir, config_text, total_steps, start_step)
        hosts.wait_for_all("settings are compared")
        batches: Iterator[FeatureRow] = iter(())
        if start_step < total_steps:
            rest = pipeline.iterate(start_step)
            # Sources that cannot be read and lengths that do not fit show in the first batch.
            with hosts.agreed("the first batch is read"):
                batches = itertools.chain([next(rest)], rest)
        log: RunLog | NoLog = NoLog()
        ledger = None
        if run_directory.is_primary():
            run_directory.set_damaged_aside(run_dir)
            run_directory.report_placement(run, engine, abstract_state)
            mixture = train_dataset_cfg.mixture_or_task_name
            run_directory.write_settings(run_dir, engine, mixture, config_text, given)
            log = RunLog(
                run_dir,
                start_step,
                log_cfg,
                address=run.address,
                settings=config_text,
            )
            if start_step < total_steps:
                ledger = GoodputLedger(
                    run_dir / "goodput.json", start_step, before=time.monotonic() - began
                )
        stack.callback(log.close)
        errors.started()
        stack.enter_context(hosts.lost_hosts_end_the_process())
        preemption = stack.enter_context(hosts.preemption_handler())
        stop_requested = hosts.stop_question(preemption)
        evaluation = None
        if infer_eval_dataset_cfg:
            evaluation = engine.evaluation(
                infer_eval_dataset_cfg, pipeline, seed=random_seed, stop_requested=stop_requested
            )
        if start_step < total_steps:
            state = _train(
                engine,
                state,
                shardings,
                pipeline,
                batches,
                base_key,
                periods=loop.Periods(
                    total_steps,
                    stats_period,
                    eval_period if evaluation else 0,
                    checkpoint_cfg.period or total_steps,
                    loss_evaluation_cfg.period if loss_evaluation_cfg else 0,
                ),
                run=run,
                manager=manager,
                log=log,
                ledger=ledger,
                evaluation=evaluation,
                loss_evaluation_cfg=loss_evaluation_cfg,
                best_metric=checkpoint_cfg.best_metric,
                stop_requested=stop_requested,
            )
            if int(state.step) < total_steps:
                raise errors.Unfinished(f"stopped at step {int(state.step)} of {total_steps}")
        results = {}
        state = run_state.best(manager, state, shardings)
        if checkpoint_cfg.save_trained:
            variables = hosts.on_every_host(state.variables(use_ema=True))
            if run_directory.is_primary():
                run_directory.write_trained(run, engine, variables, checkpoint_cfg.initial_path)
        if is_tokenizer:
            variables = hosts.on_every_host(state.variables(use_ema=True))
            if run_directory.is_primary():
                engine.export(run.files, variables, int(state.step))
        if evaluation and evaluation.config.final_num_examples:
            facts = {
                "model": size or name,
                "num_parameters": parameters,
                "steps": total_steps,
                "batch_size": train_dataset_cfg.batch_size,
                "mixture": train_dataset_cfg.mixture_or_task_name,
                "seed": random_seed,
                "hardware": device_name(),
            }
            if checkpoint_cfg.best_metric:
                facts["best_step"] = int(state.step)
            results = _finish(run, evaluation, state, log, facts)
    logger.info("done in %s", format_duration(time.monotonic() - began))
    return results


def _check_best(
    checkpoints: CheckpointConfig, evaluation: EvaluationConfig | None, eval_period: int
) -> None:
    if checkpoints.best_metric and not (evaluation and eval_period):
        raise ValueError(
            f"CheckpointConfig.best_metric {checkpoints.best_metric!r} is a score of the "
            "evaluations during training, but eval_period is 0; set it to the steps between them"
        )


def _workers(wanted: int) -> int:
    """As many as there are cores; the batches do not depend on their number."""
    from ofa_jax.data.preparation.splits import usable_cores  # here: it brings what prepares

    cores = usable_cores()
    if wanted > cores:
        logger.info("DatasetConfig.num_workers: %d, one for each core here, not %d", cores, wanted)
    return min(wanted, cores)


def _training_input(dataset: DatasetConfig, tasks: TaskSet, engine: Engine) -> MixturePipeline:
    """This host's part of the training batches."""
    parts, part = placement.input_share(engine.mesh)
    return MixturePipeline(
        tasks=tasks.tasks,
        rates=tasks.rates,
        lengths=tasks.lengths,
        batch_size=dataset.batch_size,
        split=dataset.split,
        seed=dataset.seed,
        num_hosts=parts,
        host=part,
        num_workers=_workers(dataset.num_workers),
        num_threads=dataset.num_threads,
        **dataset.mixing,
    )


def _train(
    engine: Engine,
    state: TrainState,
    shardings: object,
    pipeline: MixturePipeline,
    batches: Iterator[FeatureRow],
    base_key: jax.Array,
    *,
    periods: loop.Periods,
    run: run_directory.RunDirectory,
    manager: CheckpointManager,
    log: RunLog | NoLog,
    ledger: GoodputLedger | None,
    evaluation: RunEvaluation | None,
    loss_evaluation_cfg: LossEvaluationConfig | None,
    best_metric: str,
    stop_requested: Callable[[], bool],
) -> TrainState:
    """Runs the loop with everything that it calls; returns the last state."""
    start_step, batch_size = int(state.step), pipeline.batch_size
    step = engine.train_step(shardings)
    # A self-critical step is no single program.
    programs = StepPrograms(step) if hasattr(step, "lower") else None
    timers = loop.Timers()
    peak = _peak_examples_per_second(engine, pipeline)

    def save(step: int, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
        run.check_lock()
        # A start from this checkpoint must find the lines that were written before it.
        log.flush()
        run.push()
        manager.save(
            step,
            to_checkpoint_tree(state),
            dataset_state=run_state.input_state(engine, step, batch_size),
            metrics=metrics,
        )

    def rescue(step: int, state: TrainState) -> None:
        logger.error("batch %d cannot be read; saving what is trained so far", step)
        save(step, state)

    def evaluate(step: int, state: TrainState) -> None:
        if evaluation and (step < periods.total or best_metric):
            values = evaluation.during_training(state.variables(use_ema=True))
            hosts.wait_for_all("examples are evaluated")
            log.write(step, values)
            if best_metric:
                save(step, state, objective.deciding_score(best_metric, values))

    def prepare(*arguments: object) -> None:
        if programs and engine.on_mesh(programs.prepare)(*arguments):
            hosts.wait_for_all("the step is compiled")

    def write(step: int, values: dict[str, float]) -> None:
        if peak:
            values["mfu"] = values["examples_per_second"] / peak
        if ledger:
            values["goodput"] = ledger.update(step, timers.total).share
        if pipeline.skipped.total:
            values["bad_records"] = pipeline.skipped.total
        if pipeline.skipped.truncated:
            values["truncated_images"] = pipeline.skipped.truncated.total()
        log.write(step, values)

    measure = None
    if loss_evaluation_cfg:
        loss_evaluation = LossEvaluation(engine, loss_evaluation_cfg, pipeline, shardings)
        measure = lambda step, state: log.write(step, loss_evaluation(state))  # noqa: E731
    watcher = None
    if engine.trainer.profile_steps:
        watcher = ProfilerWindow(
            run.files / "profile", engine.trainer.profile_start, engine.trainer.profile_steps
        )
    primary = run_directory.is_primary()
    try:
        state = loop.run(
            state,
            train_step=engine.on_mesh(programs or step),
            batches=batches,
            place=lambda batch: placement.place_batch(batch, engine.mesh),
            rng=base_key,
            periods=periods,
            batch_size=batch_size,
            task_names=engine.tasks.names,
            log=write,
            evaluate=evaluate,
            save=save,
            measure=measure,
            prepare=prepare if programs else None,
            # Saving takes all hosts, and the others know nothing of what went wrong on this one.
            rescue=rescue if jax.process_count() == 1 else None,
            stop_requested=stop_requested,
            progress=TrainingProgress(periods.total, start_step, shown=primary),
            watcher=watcher,
            timers=timers,
        )
    except loop.NonFiniteLossError as error:
        path = run_directory.dump_batch(
            run.files, error.batch, pipeline.batch(error.batch), engine.tasks
        )
        raise loop.NonFiniteLossError(f"{error}: {run.shown(path)}", error.batch) from error
    timers.measure("save", manager.wait)
    if ledger:
        goodput = ledger.update(int(state.step), timers.total)
        logger.info("%s", goodput)
    logger.info(
        "time by part: %s",
        ", ".join(f"{name} {format_duration(t)}" for name, t in sorted(timers.total.items())),
    )
    return state


def _peak_examples_per_second(engine: Engine, pipeline: MixturePipeline) -> float | None:
    """Examples per second at the chips' peak, where it is known; 1 / it is the MFU per example."""
    chip = chip_of(jax.devices()[0].device_kind)
    operations = engine.operations_per_example(pipeline.lengths) if chip else None
    if chip is None or operations is None:
        return None
    return chip.flops * engine.mesh.size / operations


def _finish(
    run: run_directory.RunDirectory,
    evaluation: RunEvaluation,
    state: TrainState,
    log: RunLog | NoLog,
    facts: Mapping[str, object],
) -> atomic.JsonObject:
    """Final evaluation, metrics.json and report; an evaluation that is there is kept."""
    path = run.files / "metrics.json"
    results = _finished_results(path, facts)
    is_finished = hosts.of_primary(int(results is not None))
    variables = state.variables(use_ema=True)
    inputs = {"step": int(state.step), "facts": facts}
    if not run_directory.is_primary():
        # All hosts answer together, one writes.
        return {} if is_finished else evaluation.final(variables, None, inputs)
    if results is None:
        wall_seconds = log.seconds
        results = evaluation.final(variables, run.files, inputs)
        finished = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        results["run"] = {
            "name": run.files.name,
            "finished": finished,
            "wall_seconds": round(wall_seconds, 1),
            **facts,
            **provenance(),
        }
        log.write(int(state.step), final_scores(results["tasks"]))
        log.flush()
        run.check_lock()
        atomic.write_json(path, results)
    else:
        logger.info("this run is finished; delete %s to train again", run.address)
    try:
        # Imported where it is needed: matplotlib takes a second.
        from ofa_jax.report.build import build_report

        report = build_report(run.files)
    except RecordError as error:
        logger.warning("no report: %s", error)
    else:
        logger.info("report: %s", run.shown(report))
    return results


def final_scores(tasks: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """Final scores under the names that evaluations during training have."""
    return {
        f"eval/{task}/{name}": value
        for task, entry in tasks.items()
        for name, value in entry.items()
        if isinstance(value, float) and name not in NOT_SCORES
    }


def _finished_results(path: pathlib.Path, facts: Mapping[str, object]) -> atomic.JsonObject | None:
    results = atomic.parsed(path.read_bytes()) if path.is_file() else None
    run = results.get("run") if isinstance(results, dict) else None
    same = isinstance(run, dict) and all(run.get(key) == value for key, value in facts.items())
    return results if same else None
