"""One task on one split: predicted, scored, written. What every evaluation is made of."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import re
from collections.abc import Callable, Mapping

from flax.typing import VariableDict

from ofa_jax import digest
from ofa_jax.atomic import JsonObject, parsed, write_json
from ofa_jax.data.sources import split_paths
from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.data.tasks.features import FeatureRow
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.task import Lengths, OFATask, image_tokenizer_of
from ofa_jax.evaluation.fitting_batch import fitting_batch
from ofa_jax.evaluation.generated_images import CodeImages
from ofa_jax.evaluation.scoring import Result
from ofa_jax.evaluation.streaming import (
    FileLines,
    Lines,
    MemoryLines,
    Shard,
    predict_split,
    score_split,
    truncated_count,
    write_split,
)
from ofa_jax.evaluation.submission import file_name
from ofa_jax.inference.answerer import Answerer, Answers, Recipe
from ofa_jax.inference.ranked_images import (
    MatchingRanker,
    Ranker,
    clip_ranker,
    ranked,
    source_texts,
)
from ofa_jax.progress import Progress

logger = logging.getLogger("ofa_jax")

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclasses.dataclass(frozen=True)
class SplitScore:
    """What an evaluation of one split found.

    Attributes:
      result: scores, or None where no example has a truth.
      skipped: bad records that were left out.
      count: examples that were predicted.
      generated: scores of generated images.
      truncated: examples whose image is cut off.
    """

    result: Result | None
    skipped: int
    count: int
    generated: Mapping[str, float]
    truncated: int = 0

    def entry(self) -> JsonObject:
        """The entry of `metrics.json`."""
        entry: JsonObject = {"n": self.count, "skipped": self.skipped}
        entry |= self.result.entry() if self.result else {}
        if self.truncated:
            entry["truncated_images"] = self.truncated
        for metric, value in self.generated.items():
            entry |= {"primary": metric, **entry, metric: value}
        return entry


@dataclasses.dataclass(frozen=True)
class SplitEvaluation:
    """Evaluates tasks, split by split.

    Attributes:
      answerer: the model.
      lengths: task feature lengths.
      batch_size: most examples per step; fewer where memory is short.
      seed: of the examples.
      shard: which examples are this process's.
      skip_bad: whether bad records are counted and left out; otherwise they are errors.
      truncated_images: what becomes of images that are cut off, see `OFATask.prepared`.
      best: answers that a row tells.
      images: how codes are shown and scored as images.
      inputs: what all predictions depend on: the checkpoint, settings of the decoding.
      overwrite: whether predictions of other inputs are made anew; otherwise they are refused.
      stop_requested: asked before every batch.
      agree: see `predict_split`.
    """

    answerer: Answerer
    lengths: Lengths
    batch_size: int
    seed: int = 0
    shard: Shard = dataclasses.field(default_factory=Shard)
    skip_bad: bool = True
    truncated_images: str = "decode"
    best: int = 1
    images: CodeImages | None = None
    inputs: Mapping[str, object] = dataclasses.field(default_factory=dict)
    overwrite: bool = False
    stop_requested: Callable[[], bool] = lambda: False
    agree: Callable[[int], int] = lambda done: done

    def __call__(
        self,
        variables: VariableDict,
        task: OFATask,
        split: str,
        *,
        limit: int | None = None,
        seed: int | None = None,
        work: pathlib.Path | None = None,
        root: pathlib.Path | None = None,
        name: str = "",
    ) -> SplitScore | None:
        """Predicts one split, scores it, writes it.

        Args:
          split: split of its source.
          limit: only the first so many examples.
          seed: of the examples, in the place of `self.seed`.
          work: directory of the lines; None keeps them in memory.
          root: directory of predictions, images and submission; None writes none.
          name: of the task and split in files.

        Returns:
          What was found; None while other shards are not done.

        Raises:
          OtherInputsError: `work` holds predictions of other inputs.
          ValueError: see `predict_split`.
          Unfinished: `stop_requested` said so.
        """
        seed = self.seed if seed is None else seed
        works: list[Lines] = [MemoryLines()]
        if work is not None:
            works = [FileLines(path) for path in self.open_work(work, name, task, split, seed)]
        recipe = Recipe.of_task(task, self.lengths["targets"])
        ranker = self._ranker(variables, task)

        def answer(task: OFATask, rows: FeatureRow, number: int) -> Answers:
            if ranker is None:
                return self.answerer(variables, recipe, rows, number, best=self.best)
            samples = int(task.answering.decoding.get("samples", 1))
            found = self.answerer(variables, recipe, rows, number, best=samples)
            texts = source_texts(rows, task.instructions[0], self.answerer)
            pixels, start = image_tokenizer_of(task), task.tokenizer().layout.code_start
            assert pixels is not None, "the scorer has one"
            return ranked(found, texts, ranker, pixels, start).first(self.best)

        predict_split(
            task,
            answer,
            self.lengths,
            split=split,
            lines=works[self.shard.index],
            batch_size=fitting_batch(
                self.batch_size, self.answerer.model.config, self.lengths, self.answerer.layout
            ),
            shard=self.shard,
            seed=seed,
            limit=limit,
            skip_bad=self.skip_bad,
            truncated_images=self.truncated_images,
            progress=Progress(f"{name or task.name}, {split}"),
            stop_requested=self.stop_requested,
            agree=self.agree,
        )
        total = len(task.source.open(split))
        total = total if limit is None else min(total, limit)
        for index, lines in enumerate(works):
            if sum(1 for _ in lines) < len(range(index, total, self.shard.count)):
                if self.shard.count == 1:
                    # Another process of the same run holds the lines of an earlier start.
                    return SplitScore(None, 0, total, {})
                logger.info("%s: waiting for other shards; whoever is last scores it", name)
                return None
        scored = score_split(task, works, limit)
        if root is not None:
            form = task.answering.submission
            write_split(
                task,
                works,
                scored,
                root,
                name=name,
                lengths=self.lengths,
                split=split,
                seed=seed,
                limit=limit,
                image_tokenizer=self.images.tokenizers[task.name] if self.images else None,
                submission=(root / "submissions" / name / file_name(form, split) if form else None),
            )
        generated = self.images.scores(task, works) if self.images and root else {}
        if scored.skipped:
            logger.warning(
                "%s: %d of %d records were bad and are left out", name, scored.skipped, total
            )
        if cut := truncated_count(works):
            logger.warning("%s: %d images are cut off; what there is of them counts", name, cut)
        return SplitScore(scored.result, scored.skipped, total - scored.skipped, generated, cut)

    def _ranker(self, variables: VariableDict, task: OFATask) -> Ranker | None:
        """What orders the samples of a task: CLIP where it is given, else the model itself."""
        if not task.answering.ranking:
            return None
        networks = self.images.extractors if self.images else None
        if networks is not None and (by_clip := clip_ranker(networks)):
            return by_clip
        matching = Instruction.parse(task.answering.ranking)
        return MatchingRanker(self.answerer, variables, matching, self.lengths["image"])

    def open_work(
        self, work: pathlib.Path, name: str, task: OFATask, split: str, seed: int | None = None
    ) -> list[pathlib.Path]:
        """The files of the lines of every shard, which hold predictions of these inputs or none.

        Args:
          work: their directory.
          name: of the task and split in files.
          split: split of its source.
          seed: of the examples, in the place of `self.seed`.

        Raises:
          OtherInputsError: they hold predictions of other inputs; the message names what changed.
        """
        seed = self.seed if seed is None else seed
        path = work / f"{name}.json"
        shards = (Shard(index, self.shard.count) for index in range(self.shard.count))
        files = [shard.work_file(work, name) for shard in shards]
        used = task.prepare if task.eval_prepare is None else task.eval_prepare
        now = {
            **self.inputs,
            "beam_size": self.answerer.beam_size,
            "closed_set_method": self.answerer.method,
            "sampling_seed": self.answerer.seed,
            "task": TaskCard.of(task, self.lengths).to_json(),
            "preparation": [_ADDRESS.sub("", repr(step)) for step in used],
            "source": _ADDRESS.sub("", repr(task.source)),
            "data": digest.identities(split_paths.of_source(task.source, split)),
            "split": split,
            "truncated_images": self.truncated_images,
            "seed": seed,
            "shards": self.shard.count,
        }
        now = json.loads(json.dumps(now))
        if path.exists():
            before = parsed(path.read_bytes())
            remedy = "give another directory, or overwrite what is there (--overwrite)"
            if isinstance(before, dict):
                changed = digest.differences(before, now)
            else:
                changed = [f"{path.name} is damaged"]
                if not self.overwrite:
                    raise digest.OtherInputsError(f"{path}: is damaged; {remedy}")
            if changed and not self.overwrite:
                digest.refuse_other(path.parent, before, now, remedy=remedy)
            if changed:
                logger.info("%s is predicted anew: %s", path.stem, changed[0])
        elif not any(file.exists() for file in files):
            changed = []
        else:
            changed = ["what it depends on was not noted"]
        if changed:
            for file in files:
                file.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, now)
        return files
