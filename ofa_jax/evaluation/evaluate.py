"""Evaluation of a checkpoint: `eval_script.evaluate`, behind `python -m ofa_jax.eval`.

Every task and split: predict line by line (`evaluation.streaming`), score, write predictions, the
submission file and a report page. The same command goes on where a stopped one was; several
processes given `num_shards` and `shard` share the work, and whoever is last scores it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ofa_jax.atomic import write_json
from ofa_jax.checkpoint.bucket import is_remote, local_folder
from ofa_jax.data import locations as data_locations
from ofa_jax.data.ops.image import TRUNCATED_IMAGES
from ofa_jax.data.registration import import_modules, lookup
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.task import LENGTH_KEYS, OFATask
from ofa_jax.evaluation import scorers
from ofa_jax.evaluation.generated_pictures import CodePictures
from ofa_jax.evaluation.streaming import (
    Answer,
    Shard,
    finish,
    line_count,
    predict_split,
    truncated_count,
)
from ofa_jax.evaluation.submission import file_name
from ofa_jax.inference.answerer import Answerer
from ofa_jax.inference.weights import (
    Devices,
    find_checkpoint,
    load_weights,
    trained_lengths,
    trained_methods,
)
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.report.build import build_report
from ofa_jax.report.labels import format_duration
from ofa_jax.sharding.mesh import device_name

logger = logging.getLogger("ofa_jax")

SETTINGS_FILE = "evaluation.json"
_PROGRESS_SECONDS = 30.0


def evaluate(
    *,
    output_dir: str,
    mixture_or_task_name: str,
    checkpoint: str = "",
    module: str | Sequence[str] = (),
    splits: Sequence[str] = ("validation",),
    task_feature_lengths: Mapping[str, int] | None = None,
    batch_size: int = 32,
    num_examples: int = 0,
    beam_size: int = 1,
    closed_set_method: str = "",
    ema: bool | None = None,
    dtype: str = "",
    model_settings: Mapping[str, Any] | None = None,
    image_tokenizer: str = "",
    extractors: str = "",
    real_statistics: str = "",
    prepared_data: str = "",
    caption_server: str = "",
    num_shards: int = 0,
    shard: int = 0,
    skip_bad_records: bool = True,
    truncated_images: str = "decode",
    seed: int = 0,
    locations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Predicts, scores and reports every task of a mixture on every split.

    Args:
      output_dir: folder of the results; made where it does not exist.
      mixture_or_task_name: a registered task or mixture.
      checkpoint: folder of a run, orbax folder, `.pt`, HuggingFace folder or hub repository; "" is
        the quickstart's run.
      module: modules that register the tasks.
      splits: splits of the tasks' sources.
      task_feature_lengths: None takes those of the run that the checkpoint comes from.
      batch_size: examples per step, over all devices of this process.
      num_examples: the first so many of each split; 0 = all.
      beam_size: of tasks whose recipe names none; 1 is greedy.
      closed_set_method: "search" or "candidates" instead of a task's own method; "" keeps it.
      ema: take the moving average of the weights; None = where a run of ours keeps one, as its
        own scores did.
      dtype: type of the computation; "" = as the checkpoint says.
      model_settings: fields of the model's configuration to change.
      image_tokenizer: what shows codes as pictures: a codebook (`.npz`), weights of a VQGAN
        (`last.ckpt`) or `module:function`; "" shows only those of tasks that bring their own.
      extractors: `module:function` that returns the networks which score generated pictures, see
        `ofa_jax.metrics.generation`; "" scores codes alone.
      real_statistics: `.npz` with `mu` and `sigma` of real pictures' features, for FID; "" takes
        the pictures of the true codes.
      prepared_data: folder of prepared shards that takes the place of the tasks' own files.
      caption_server: "meteor" or "spice" scores COCO captions on PTB tokens by COCO's own programs
        (pycocoevalcap, Java), up to that one; "" by ours.
      num_shards: processes that share the examples; 0 = as many as JAX has.
      shard: number of this one, where `num_shards` is given.
      skip_bad_records: count and leave out bad records; otherwise they are errors.
      truncated_images: "decode" takes what there is of images that are cut off, as the official
        evaluation does; "drop" takes them for bad records. They are counted either way.
      seed: seed of the examples and of sampling.
      locations: folders by name; VOCAB_DIR is by default the vocabulary beside the checkpoint.

    Returns:
      The content of `metrics.json`; {} while other shards are not done.

    Raises:
      ValueError: a setting that cannot work; the message names it.
    """
    started = time.perf_counter()
    if truncated_images not in TRUNCATED_IMAGES:
        raise ValueError(
            f"truncated_images must be {' or '.join(TRUNCATED_IMAGES)}, got {truncated_images!r}"
        )
    part = Shard(jax.process_index(), jax.process_count())
    if num_shards:
        part = Shard(shard, num_shards)
    devices = Devices.of_this_process()
    devices.check_batch(batch_size, "BATCH_SIZE")
    for name, path in (locations or {}).items():
        data_locations.assign(name, path)
    source = find_checkpoint(checkpoint)
    # The copy of a checkpoint in a bucket has another name each time.
    shown = checkpoint if is_remote(checkpoint) else source
    lengths = _lengths(task_feature_lengths, source)
    import_modules((module,) if isinstance(module, str) else tuple(module))
    tasks = [task for task, _ in lookup(mixture_or_task_name)]
    if prepared_data:
        tasks = [dataclasses.replace(task, source=PreparedSource(prepared_data)) for task in tasks]
    if caption_server:
        tasks = [_scored_by_server(task, caption_server) for task in tasks]
    for task in tasks:
        scorers.check_installed(task.scorer)
    imported = load_weights(source, ema=ema, dtype=dtype, settings=model_settings)
    if imported.vocabulary_files and not data_locations.is_assigned("VOCAB_DIR"):
        data_locations.assign("VOCAB_DIR", str(imported.vocabulary_files[0].parent))
    _check_vocabulary(tasks, imported.config, source)
    pictures = CodePictures.of_settings(tasks, image_tokenizer, extractors, real_statistics)
    for task in tasks:
        for split in splits:
            task.source.open(split)

    root = local_folder(output_dir, "OUTPUT_DIR")
    root.mkdir(parents=True, exist_ok=True)
    _refuse_other_settings(
        root,
        {
            "checkpoint": shown,
            "lengths": dict(lengths),
            "seed": seed,
            "beam_size": beam_size,
            "closed_set_method": closed_set_method,
            "ema": ema,
            "prepared_data": prepared_data,
        },
    )
    variables = devices.replicate(imported.variables)
    answerer = Answerer(
        OFA(imported.config),
        tasks[0].tokenizer(),
        lengths,
        beam_size=beam_size,
        method=closed_set_method,
        place=devices.split,
        seed=seed,
    )

    def answer(task: OFATask, rows: Any, number: int) -> tuple[Any, Any]:
        found = answerer(variables, task, rows, number)
        return found.tokens, found.scores

    job = _Job(
        root,
        answer,
        lengths,
        batch_size,
        part,
        seed,
        num_examples or None,
        skip_bad_records,
        truncated_images,
        pictures,
    )
    entries: dict[str, dict[str, Any]] = {split: {} for split in splits}
    for task in tasks:
        for split in splits:
            entry = job.run(task, split, _name(task, tasks, split, splits))
            if entry is not None:
                entries[split][_name(task, tasks)] = entry
    if any(len(group) < len(tasks) for group in entries.values()):
        return {}
    facts = {
        "name": root.name,
        "kind": "evaluation",
        "finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "model": shown,
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(imported.variables["params"])),
        "mixture": mixture_or_task_name,
        "split": splits[0],
        "tuning": trained_methods(source, imported.config),
        "hardware": device_name(),
    }
    results = {"run": facts, **_by_split(entries, splits)}
    write_json(root / "metrics.json", results)
    logger.info("report: %s", build_report(root))
    logger.info("done in %s", format_duration(time.perf_counter() - started))
    return results


def _by_split(
    entries: Mapping[str, Mapping[str, dict[str, Any]]], splits: Sequence[str]
) -> dict[str, Any]:
    """The sections of `metrics.json`: the first split is the main one."""
    scored = {
        split: {name: entry for name, entry in group.items() if "primary" in entry}
        for split, group in entries.items()
    }
    first, *others = splits
    return {
        "tasks": scored[first],
        "splits": {split: scored[split] for split in others},
        "counts": {
            split: {
                name: {key: e[key] for key in ("n", "skipped", "truncated_images") if key in e}
                for name, e in group.items()
            }
            for split, group in entries.items()
        },
    }


@dataclasses.dataclass(frozen=True)
class _Job:
    """This process's share of an evaluation.

    Attributes:
      root: folder of the results.
      answer: the model.
      lengths: task feature lengths.
      batch_size: examples per step.
      part: which examples are this process's.
      seed: of the examples.
      limit: the first so many of each split, or None.
      skip_bad: whether bad records are counted and left out.
      truncated_images: what becomes of images that are cut off.
      pictures: how codes are shown and scored.
    """

    root: pathlib.Path
    answer: Answer
    lengths: Mapping[str, int]
    batch_size: int
    part: Shard
    seed: int
    limit: int | None
    skip_bad: bool
    truncated_images: str
    pictures: CodePictures

    def run(self, task: OFATask, split: str, name: str) -> dict[str, Any] | None:
        """Predicts one split and scores it; None where other shards are not done yet."""
        tally = predict_split(
            task,
            self.answer,
            self.lengths,
            split=split,
            work=self._work_file(name, self.part.index),
            batch_size=self.batch_size,
            shard=self.part,
            seed=self.seed,
            limit=self.limit,
            pictures_root=self.root,
            name=name,
            skip_bad=self.skip_bad,
            truncated_images=self.truncated_images,
            image_tokenizer=self.pictures.tokenizers[task.name],
            progress=_Progress(name),
        )
        total = len(task.source.open(split))
        total = total if self.limit is None else min(total, self.limit)
        count = self.part.count
        works = [self._work_file(name, index) for index in range(count)]
        if any(
            line_count(work) < len(range(index, total, count)) for index, work in enumerate(works)
        ):
            logger.info("%s: waiting for other shards; whoever is last scores it", name)
            return None
        form = task.answering.submission
        submission = self.root / "submissions" / name / file_name(form, split) if form else None
        result, skipped = finish(task, works, self.root, name=name, submission=submission)
        entry: dict[str, Any] = {"n": total - skipped, "skipped": skipped}
        if result is None:
            logger.info("%s: %d predictions, no truth to score them by", name, total - skipped)
        else:
            entry |= result.entry()
            logger.info("%s: %s %.4f", name, result.primary, result.metrics[result.primary])
        for metric, value in self.pictures.scores(task, works).items():
            entry |= {"primary": metric, **entry, metric: value}
            logger.info("%s: %s %.4f", name, metric, value)
        if cut := truncated_count(works):
            entry["truncated_images"] = cut
            logger.warning("%s: %d images are cut off; what there is of them counts", name, cut)
        if skipped:
            logger.warning("%s: %d of %d records were bad and are left out", name, skipped, total)
        logger.info("%s: %d examples here, %d of them before", name, tally.examples, tally.resumed)
        return entry

    def _work_file(self, name: str, index: int) -> pathlib.Path:
        return Shard(index, self.part.count).work_file(self.root / "work", name)


class _Progress:
    """A log line at the end, and every half minute before."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = self._start = time.perf_counter()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        self._first = done if self._first is None else self._first
        if done < total and now - self._last < _PROGRESS_SECONDS:
            return
        self._last = now
        rate = (done - self._first) / (now - self._start) if done > self._first else 0.0
        left = f", {format_duration((total - done) / rate)} left" if rate and done < total else ""
        logger.info("%s: %d of %d examples%s", self._name, done, total, left)


def _lengths(given: Mapping[str, int] | None, checkpoint: str) -> dict[str, int]:
    lengths = dict(given) if given else trained_lengths(checkpoint)
    if not lengths:
        raise ValueError(
            f"TASK_FEATURE_LENGTHS: {checkpoint} is not the folder of a run, so give the lengths, "
            "such as --gin.TASK_FEATURE_LENGTHS=\"{'inputs': 64, 'targets': 32, 'image': 480}\""
        )
    if set(lengths) != set(LENGTH_KEYS):
        raise ValueError(f"TASK_FEATURE_LENGTHS must name {', '.join(LENGTH_KEYS)}, got {lengths}")
    return lengths


def _check_vocabulary(tasks: Sequence[OFATask], config: OFAConfig, checkpoint: str) -> None:
    for task in tasks:
        size = task.tokenizer().layout.size
        if size != config.vocab_size:
            raise ValueError(
                f"task {task.name!r} has a vocabulary of {size} ids, {checkpoint} of "
                f"{config.vocab_size}; VOCAB_DIR must be the vocabulary of that model"
            )


_SERVER_SCORERS = {"meteor": "server_caption", "spice": "server_caption_with_spice"}


def _scored_by_server(task: OFATask, program: str) -> OFATask:
    if program not in _SERVER_SCORERS:
        raise ValueError(f"caption_server must be 'meteor', 'spice' or '', got {program!r}")
    if task.scorer != "coco_caption":
        raise ValueError(f"caption_server scores COCO captions, and {task.name!r} has none")
    return dataclasses.replace(task, scorer=_SERVER_SCORERS[program])


def _name(
    task: OFATask, tasks: Sequence[OFATask], split: str = "", splits: Sequence[str] = ()
) -> str:
    """Name of a task in files and reports: its family where that is unique, and the split."""
    families = [other.family for other in tasks]
    name = task.family if families.count(task.family) == 1 else task.name
    return name if split in ("", *splits[:1]) else f"{name}_{split}"


def _refuse_other_settings(root: pathlib.Path, settings: dict[str, Any]) -> None:
    """A folder goes on with the settings that it began with."""
    path = root / SETTINGS_FILE
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            name = changed[0]
            raise ValueError(
                f"OUTPUT_DIR {root} holds an evaluation with {name} {before.get(name)!r}, now it "
                f"is {settings[name]!r}; give another folder, or delete that one"
            )
    write_json(path, settings)
