"""Evaluation of a checkpoint: `evaluate`, behind `python -m ofa_jax.eval`.

Every task and split: predict line by line (`evaluation.streaming`), score, write predictions, the
submission file and a report page. The same command goes on where a stopped one was; several
processes given `num_shards` and `shard` share the work, and whoever is last scores it.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import jax

from ofa_jax import extras, schema
from ofa_jax.atomic import JsonObject, write_json
from ofa_jax.checkpoint.bucket import is_remote, local_directory
from ofa_jax.checkpoint.huggingface import fetch_repository, is_repository_id
from ofa_jax.checkpoint.imports import ImportedCheckpoint
from ofa_jax.data.sources import locations as data_locations
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.tasks.registration import import_modules, lookup
from ofa_jax.data.tasks.task import LENGTH_KEYS, OFATask, told_apart
from ofa_jax.errors import started
from ofa_jax.evaluation import scorers
from ofa_jax.evaluation.generated_images import CodeImages
from ofa_jax.evaluation.split_evaluation import SplitEvaluation, SplitScore
from ofa_jax.evaluation.streaming import Shard
from ofa_jax.inference.answerer import Answerer
from ofa_jax.inference.weights import (
    checkpoint_identity,
    find_checkpoint,
    load_weights,
    trained_cards,
    trained_methods,
)
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.progress import format_duration
from ofa_jax.provenance import provenance
from ofa_jax.schema import Between
from ofa_jax.sharding.layout import MeshLayout
from ofa_jax.sharding.mesh import device_name

__all__ = ["evaluate"]

logger = logging.getLogger("ofa_jax")


def evaluate(
    *,
    output_dir: str,
    mixture_or_task_name: str,
    checkpoint: str = "",
    module: str | Sequence[str] = (),
    splits: Sequence[str] = ("validation",),
    task_feature_lengths: Mapping[str, int] | None = None,
    batch_size: Annotated[int, Between(1, 1 << 16)] = 32,
    num_examples: Annotated[int, Between(0, 10**12)] = 0,
    beam_size: Annotated[int, Between(1, 1024)] = 1,
    closed_set_method: Literal["", "search", "candidates"] = "",
    ema: bool | None = None,
    dtype: str = "",
    model_settings: Mapping[str, object] | None = None,
    image_tokenizer: str = "",
    extractors: str = "",
    real_statistics: str = "",
    prepared_data: str = "",
    caption_server: str = "",
    num_shards: Annotated[int, Between(0, 1 << 16)] = 0,
    shard: Annotated[int, Between(0, 1 << 16)] = 0,
    skip_bad_records: bool = True,
    truncated_images: Literal["drop", "decode"] = "decode",
    best: Annotated[int, Between(1, 1024)] = 1,
    overwrite: bool = False,
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0,
    locations: Mapping[str, str] | None = None,
) -> JsonObject:
    """Predicts, scores and reports every task of a mixture on every split.

    Args:
      output_dir: directory of the results; made where it does not exist.
      mixture_or_task_name: a registered task or mixture.
      checkpoint: directory of a run, orbax or HuggingFace directory, `.pt`, or hub repository; ""
        is the quickstart's run.
      module: modules that register the tasks.
      splits: splits of the tasks' sources.
      task_feature_lengths: what is not given is that of the run that the checkpoint comes from,
        or follows from what a `.pt` says about its task.
      batch_size: most examples per step, over all devices of this process; fewer where memory is
        short.
      num_examples: the first so many of each split; 0 = all.
      beam_size: of tasks whose recipe names none; 1 is greedy.
      closed_set_method: "search" or "candidates" instead of a task's own method; "" keeps it.
      ema: take the moving average of the weights; None = where a run of ours keeps one, as its
        own scores did.
      dtype: type of the computation; "" = as the checkpoint says.
      model_settings: fields of the model's configuration to change.
      image_tokenizer: what shows codes as pictures: a codebook (`.npz`), weights of a VQGAN
        (`last.ckpt`) or `module:function`; "" shows only those of tasks that bring their own.
      extractors: `module:function` that returns the networks which score generated images, see
        `ofa_jax.metrics.generation`; "" scores codes alone.
      real_statistics: `.npz` with `mu` and `sigma` of real images' features, for FID; "" takes
        the images of the true codes.
      prepared_data: directory of prepared shards that takes the place of the tasks' own files.
      caption_server: "meteor" or "spice" scores COCO captions on PTB tokens by COCO's own programs
        (pycocoevalcap, Java), up to that one; "" by ours.
      num_shards: processes that share the examples; 0 = as many as JAX has.
      shard: number of this one, where `num_shards` is given.
      skip_bad_records: count and leave out bad records; otherwise they are errors.
      truncated_images: "decode" takes what there is of images that are cut off, as the official
        evaluation does; "drop" takes them for bad records. They are counted either way.
      best: answers per example that the predictions tell, with their log-probabilities.
      overwrite: predict anew what `output_dir` holds of other inputs: another checkpoint, task,
        split, other data or settings; otherwise they are refused.
      seed: seed of the examples and of sampling.
      locations: directories by name; VOCAB_DIR is by default the vocabulary beside the checkpoint.

    Returns:
      The content of `metrics.json`; {} while other shards are not done.

    Raises:
      ValueError: a setting that cannot work; the message names it.
    """
    schema.check_arguments(evaluate, locals(), "evaluate")
    began = time.monotonic()
    part = Shard(jax.process_index(), jax.process_count())
    if num_shards:
        part = Shard(shard, num_shards)
    layout = MeshLayout.local()
    layout.check_batch(batch_size, "batch_size")
    for name, path in (locations or {}).items():
        if name == "VOCAB_DIR" and is_repository_id(path):
            path = str(fetch_repository(path, weights=False))
        data_locations.assign(name, path)
    source = find_checkpoint(checkpoint)
    # The copy of a checkpoint in a bucket has another name each time.
    shown = checkpoint if is_remote(checkpoint) else source
    import_modules((module,) if isinstance(module, str) else tuple(module))
    tasks = told_apart([task for task, _ in lookup(mixture_or_task_name)])
    if prepared_data:
        tasks = [dataclasses.replace(task, source=PreparedSource(prepared_data)) for task in tasks]
    if caption_server:
        tasks = [_scored_by_server(task, caption_server) for task in tasks]
    for task in tasks:
        scorers.check(task)
    imported = load_weights(source, ema=ema, dtype=dtype, settings=model_settings)
    if imported.vocabulary_files and not data_locations.is_assigned("VOCAB_DIR"):
        data_locations.assign("VOCAB_DIR", str(imported.vocabulary_files[0].parent))
    lengths = _lengths(task_feature_lengths, source, imported)
    _check_vocabulary(tasks, imported.config, source)
    pictures = CodeImages.of_settings(tasks, image_tokenizer, extractors, real_statistics)
    for task in tasks:
        for split in splits:
            task.source.open(split)

    root = local_directory(output_dir, "output_dir")
    root.mkdir(parents=True, exist_ok=True)
    answerer = Answerer(
        OFA(imported.config),
        tasks[0].tokenizer(),
        layout,
        beam_size=beam_size,
        method=closed_set_method,
        seed=seed,
    )
    evaluate_split = SplitEvaluation(
        answerer,
        lengths,
        batch_size,
        seed=seed,
        shard=part,
        skip_bad=skip_bad_records,
        truncated_images=truncated_images,
        best=best,
        images=pictures,
        inputs={
            "checkpoint": checkpoint_identity(source),
            "ema": ema,
            "dtype": dtype,
            "model_settings": dict(model_settings or {}),
            "best": best,
        },
        overwrite=overwrite,
    )
    for task in tasks:
        for split in splits:
            evaluate_split.open_work(root / "work", _name(task, tasks, split, splits), task, split)
    started()
    variables = layout.replicate(imported.variables)
    entries: dict[str, JsonObject] = {split: {} for split in splits}
    for task in tasks:
        for split in splits:
            name = _name(task, tasks, split, splits)
            found = evaluate_split(
                variables,
                task,
                split,
                limit=num_examples or None,
                work=root / "work",
                root=root,
                name=name,
            )
            if found is not None:
                entries[split][_name(task, tasks)] = found.entry()
                _report(name, found)
    if any(len(group) < len(tasks) for group in entries.values()):
        return {}
    facts = {
        "name": root.name,
        "kind": "evaluation",
        "finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "wall_seconds": round(time.monotonic() - began, 1),
        "model": shown,
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(imported.variables["params"])),
        "mixture": mixture_or_task_name,
        "split": splits[0],
        "tuning": trained_methods(source, imported.config),
        "hardware": device_name(),
        **provenance(),
    }
    results = {"run": facts, **_by_split(entries, splits)}
    write_json(root / "metrics.json", results)
    try:
        # Imported where it is needed: matplotlib takes a second, and the core has none.
        from ofa_jax.report.build import build_report
    except ModuleNotFoundError as error:
        logger.warning("no report: %s", extras.advice(error))
    else:
        logger.info("report: %s", build_report(root))
    logger.info("done in %s", format_duration(time.monotonic() - began))
    return results


def _report(name: str, found: SplitScore) -> None:
    if found.result is None:
        logger.info("%s: %d predictions, no truth to score them by", name, found.count)
    else:
        result = found.result
        logger.info("%s: %s %.4f", name, result.primary, result.metrics[result.primary])
    for metric, value in found.generated.items():
        logger.info("%s: %s %.4f", name, metric, value)


def _by_split(entries: Mapping[str, Mapping[str, JsonObject]], splits: Sequence[str]) -> JsonObject:
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


def _lengths(
    given: Mapping[str, int] | None, checkpoint: str, imported: ImportedCheckpoint
) -> dict[str, int]:
    given = dict(given or {})
    if unknown := set(given) - set(LENGTH_KEYS):
        raise ValueError(
            f"task_feature_lengths are {', '.join(LENGTH_KEYS)}, not {', '.join(map(str, unknown))}"
        )
    cards = trained_cards(checkpoint) if set(given) != set(LENGTH_KEYS) else ()
    told = {} if cards or len(given) == len(LENGTH_KEYS) else _told(imported)
    lengths = {**(cards[0].lengths if cards else told), **given}
    if missing := [name for name in LENGTH_KEYS if name not in lengths]:
        raise ValueError(
            f"task_feature_lengths: {checkpoint} is not the directory of a run and does not say "
            f"{' and '.join(missing)}, so give the lengths, such as "
            "task_feature_lengths = {'inputs': 64, 'targets': 32, 'image': 480}"
        )
    if told:
        logger.info("task_feature_lengths of the checkpoint's task: %s", lengths)
    return lengths


def _told(imported: ImportedCheckpoint) -> dict[str, int]:
    """Lengths with room for what a foreign checkpoint says about its task."""
    task, most = imported.task, imported.config.max_positions
    found = {} if task.image_size is None else {"image": task.image_size}
    # Official lengths count words, of texts without their instruction.
    if task.max_source_length:
        found["inputs"] = min(2 * task.max_source_length + 32, most)
    if task.max_target_length:
        prompt = found.get("inputs", 0) if task.decoder_prompt not in (None, "none") else 0
        found["targets"] = min(2 * task.max_target_length + 2 + prompt, most + 1)
    return found


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
