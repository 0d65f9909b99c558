"""The tasks of a run: imported, looked up, and checked before any compute is spent."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping

from ofa_jax.checkpoint.fairseq_cfg import official_task
from ofa_jax.checkpoint.huggingface import fetch_repository, is_repository_id
from ofa_jax.checkpoint.imports import vocabulary_beside
from ofa_jax.checkpoint.task_facts import TaskFacts
from ofa_jax.data.ops.image_tokenizer import CODEBOOK_FILE, PatchCodebook
from ofa_jax.data.sources import locations as data_locations
from ofa_jax.data.tasks.card import TaskCard, write_cards
from ofa_jax.data.tasks.instruction import Slot
from ofa_jax.data.tasks.registration import import_modules, lookup
from ofa_jax.data.tasks.task import OFATask, TaskSet, check_lengths, image_tokenizer_of
from ofa_jax.evaluation import scorers
from ofa_jax.evaluation.run_evaluation import EvaluationConfig
from ofa_jax.runs.rates import change_rates, check_presence
from ofa_jax.runs.settings import DatasetConfig, as_json

logger = logging.getLogger("ofa_jax")


def load(dataset: DatasetConfig, evaluation: EvaluationConfig | None) -> TaskSet:
    """Finds the tasks of a run and checks that they fit together.

    Args:
      dataset: settings of the training input.
      evaluation: settings of the evaluation, or None.

    Returns:
      The tasks.

    Raises:
      ValueError: an unknown name, rates of zero, missing files, tasks of different vocabularies,
        or sequences that do not fit; the message names the setting.
    """
    import_modules(dataset.modules)
    found = change_rates(lookup(dataset.mixture_or_task_name), dataset.rates)
    tasks = tuple(task for task, _ in found)
    check_presence(tasks, dataset.split, dataset.mixture_or_task_name)
    unseen = tuple(
        lookup(name, setting="EvaluationConfig.unseen_tasks")[0][0]
        for name in (evaluation.unseen_tasks if evaluation else ())
    )
    tokenizer = tasks[0].tokenizer()
    for task in (*tasks, *unseen):
        other = task.tokenizer()
        if other is not tokenizer and other.digest != tokenizer.digest:
            layouts = f"{tokenizer.layout} and {other.layout}"
            raise ValueError(
                f"tasks {tasks[0].name!r} and {task.name!r} use different vocabularies: "
                + (layouts if other.layout != tokenizer.layout else "other tokens of one layout")
            )
    for task in tasks:
        check_lengths(
            task,
            dataset.task_feature_lengths,
            split=dataset.split,
            seed=dataset.seed,
            skip_bad=dataset.on_bad_record == "skip",
            truncated_images=dataset.truncated_images,
        )
    return TaskSet(
        tasks, tuple(rate for _, rate in found), unseen, dataset.task_feature_lengths, tokenizer
    )


def check_evaluation(
    tasks: TaskSet, evaluation: EvaluationConfig, *, period: int, scored: bool = True
) -> None:
    """Fails at the start where an evaluation could not read its examples at the end.

    Args:
      tasks: of the run.
      evaluation: settings of the evaluation.
      period: steps between evaluations during training, 0 for none.
      scored: whether answers to the tasks are; else only their images are read.

    Raises:
      ValueError: a task lacks a split; the message names the setting.
    """
    if period or evaluation.final_num_examples:
        for task in tasks.tasks:
            if scored:
                scorers.check(task)
                image_tokenizer_of(task, evaluation.image_tokenizer)
            _check_split(task, evaluation.split, "EvaluationConfig.split")
    if evaluation.final_num_examples:
        for task in tasks.unseen:
            _check_split(task, evaluation.split, "EvaluationConfig.split")
        for split in evaluation.extra_splits:
            for task in tasks.tasks:
                _check_split(task, split, "EvaluationConfig.extra_splits")


def _check_split(task: OFATask, split: str, setting: str) -> None:
    try:
        task.source.open(split)
    except ValueError as error:
        raise ValueError(f"task {task.name!r}, split {split!r} ({setting}): {error}") from error


def task_facts(tasks: TaskSet) -> TaskFacts:
    """What the checkpoints of a run say about its task, as an official file does.

    Args:
      tasks: of the run.
    """
    layout = tasks.tokenizer.layout
    prompts = {task.answering.decoder_prompt for task in tasks.tasks}
    name = official_task(task.family for task in tasks.tasks)
    pieces = tasks.tasks[0].instructions[0].source
    fields = {piece.field for piece in pieces if isinstance(piece, Slot)}
    return TaskFacts(
        name=name,
        image_size=tasks.lengths.get("image"),
        max_image_size=layout.max_image_size,
        decoder_prompt=prompts.pop() if len(prompts) == 1 else None,
        num_codes=layout.num_codes,
        num_bins=layout.num_bins,
        add_caption="caption" in fields if name == "snli_ve" else None,
    )


def save_vocabulary(run_dir: str | pathlib.Path, tasks: TaskSet) -> None:
    """Writes what ids stand for to `vocabulary/` of the run, so that checkpoints can be read alone.

    Args:
      run_dir: directory of the run.
      tasks: of the run; a patch codebook that codes their images is written too.
    """
    directory = pathlib.Path(run_dir) / "vocabulary"
    tasks.tokenizer.save(directory)
    for task in tasks.tasks:
        if isinstance(codebook := image_tokenizer_of(task), PatchCodebook):
            codebook.save(directory / CODEBOOK_FILE)


def save_cards(
    run_dir: str | pathlib.Path, tasks: TaskSet, mixture: str, settings: Mapping[str, object]
) -> None:
    """Writes `config.json`: the settings, and by which the model can be asked about its tasks.

    Args:
      run_dir: directory of the run.
      tasks: of the run.
      mixture: name of the mixture or task.
      settings: of the run, by argument of `train`.
    """
    everything = (*(task for _, task in tasks.scored), *tasks.unseen)
    write_cards(
        run_dir,
        mixture,
        [TaskCard.of(task, tasks.lengths) for task in everything],
        as_json(settings),
    )


def refuse_other_settings(
    run_dir: pathlib.Path, config: str, total_steps: int, start_step: int
) -> None:
    """A finished run is not overwritten by one with other settings; an unfinished one warns.

    Args:
      run_dir: directory of the run.
      config: the resolved gin configuration of this start.
      total_steps: steps of this start.
      start_step: step of the checkpoint that it goes on from.

    Raises:
      ValueError: the directory holds a finished run whose `config.gin` differs.
    """
    path = run_dir / "config.gin"
    if start_step == 0:
        return
    try:
        before, now = (settings_lines(text) for text in (path.read_text(encoding="utf-8"), config))
    except (OSError, UnicodeDecodeError):  # Not there, or damaged.
        return
    changed = [line for line in now if line not in before] or [
        line for line in before if line not in now
    ]
    if not changed:
        return
    if start_step >= total_steps:
        raise ValueError(
            f"model_dir holds a finished run with other settings (now: {changed[0]}); "
            "give another model_dir, or delete that directory"
        )
    logger.warning("settings differ from those this run began with: %s", "; ".join(changed))


def settings_lines(config: str) -> list[str]:
    """A line NAME = VALUE for each setting of a gin text."""
    joined = config.replace("\\\n", " ")
    lines = (" ".join(line.split()) for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def assign_locations(locations: Mapping[str, str | None], initial_path: str | None) -> None:
    """Gives the named directories of a run their paths.

    Args:
      locations: name to directory; None leaves a name as it is. VOCAB_DIR may be a repository of
        the hub.
      initial_path: checkpoint to start from. Where nothing says where the vocabulary lies, it is
        the one beside these weights.

    Raises:
      CheckpointFileError: a repository that cannot be had.
    """
    for name, path in locations.items():
        if path and name == "VOCAB_DIR" and is_repository_id(path):
            path = str(fetch_repository(path, weights=False))
        if path:
            data_locations.assign(name, path)
    if initial_path and not data_locations.is_assigned("VOCAB_DIR"):
        if is_repository_id(initial_path):
            initial_path = str(fetch_repository(initial_path, weights=False))
        path = pathlib.Path(initial_path).expanduser()
        for directory in (path, path / "vocabulary", path.parent):
            if vocabulary_beside(directory):
                data_locations.assign("VOCAB_DIR", str(directory))
                return
