"""Predictions of a whole split, line by line: resumable, shared by processes, in little memory.

The one way from a task to its scores. `predict_split` appends a line per example as soon as its
batch is answered, to a file or, for a short look during training, to a list; a process that is
started again goes on behind the last complete line. `score_split` and `write_split` read the lines
of all shards in the order of the examples. Scoring reads texts, boxes and codes; images are held
for one batch only.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from ofa_jax.atomic import JsonObject, append_lines, cut_torn_line, read_lines
from ofa_jax.data.batches.pipeline import evaluation_row, fill_batch
from ofa_jax.data.ops.image_tokenizer import ImageTokenizer
from ofa_jax.data.sources.array_record import in_turn
from ofa_jax.data.sources.example import Example, Records
from ofa_jax.data.steps.image import IS_TRUNCATED
from ofa_jax.data.tasks.features import FeatureRow, without_pixels
from ofa_jax.data.tasks.instruction import trim_at_eos
from ofa_jax.data.tasks.task import Lengths, OFATask
from ofa_jax.errors import Unfinished
from ofa_jax.evaluation import scorers, scoring
from ofa_jax.evaluation.rows import decoded, prediction_row, shown_examples, write_images
from ofa_jax.evaluation.scoring import Result
from ofa_jax.evaluation.submission import write_submission
from ofa_jax.inference.answerer import Answers
from ofa_jax.progress import Progress

logger = logging.getLogger("ofa_jax")

Answer = Callable[[OFATask, FeatureRow, int], Answers]
"""(task, batch, number of the batch) to answers."""

# Bad records that are named in the log; the others are only counted.
NAMED = 20
_EXAMPLE = "example"
# Of a row: what the model read and a scorer may want to know.
_READ = ("masked_text",)


class Lines(Protocol):
    """Where the lines of a shard go."""

    def resume(self) -> tuple[int, int]:
        """(complete lines, skipped records among them); what a kill left of a line is cut off."""
        ...

    def append(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Adds lines; they are safe when this returns."""
        ...

    def __iter__(self) -> Iterator[JsonObject]: ...


@dataclasses.dataclass(frozen=True)
class FileLines:
    """Lines in a work file."""

    path: pathlib.Path

    def resume(self) -> tuple[int, int]:
        return cut_torn_line(self.path, needs=("index",)), sum("skipped" in line for line in self)

    def append(self, rows: Sequence[Mapping[str, object]]) -> None:
        append_lines(self.path, rows)

    def __iter__(self) -> Iterator[JsonObject]:
        return read_lines(self.path)


@dataclasses.dataclass(frozen=True)
class MemoryLines:
    """Lines of this process alone, the same as a file would give them back."""

    lines: list[str] = dataclasses.field(default_factory=list)

    def resume(self) -> tuple[int, int]:
        return len(self.lines), sum("skipped" in line for line in self)

    def append(self, rows: Sequence[Mapping[str, object]]) -> None:
        self.lines.extend(json.dumps(row) for row in rows)

    def __iter__(self) -> Iterator[JsonObject]:
        return map(json.loads, self.lines)


@dataclasses.dataclass(frozen=True)
class Shard:
    """The examples index, index + count, index + 2 * count, ... of a split.

    Attributes:
      index: number of this shard.
      count: number of shards.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"there is no shard {self.index} of {self.count}; they begin at 0")

    def work_file(self, directory: pathlib.Path, name: str) -> pathlib.Path:
        """Where this shard's lines go."""
        return directory / f"{name}.{self.index:05d}-of-{self.count:05d}.jsonl"


@dataclasses.dataclass(frozen=True)
class Tally:
    """What a pass over a shard did.

    Attributes:
      examples: lines of the shard.
      resumed: of them, those that were there before.
      skipped: bad records among all of them.
    """

    examples: int
    resumed: int
    skipped: int


def predict_split(
    task: OFATask,
    answer: Answer,
    lengths: Lengths,
    *,
    split: str,
    lines: Lines,
    batch_size: int,
    shard: Shard = Shard(),
    seed: int = 0,
    limit: int | None = None,
    skip_bad: bool = True,
    truncated_images: str = "decode",
    progress: Progress | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    agree: Callable[[int], int] = lambda done: done,
) -> Tally:
    """Predicts the examples of a shard, from where its lines end.

    Args:
      lengths: task feature lengths.
      split: split of the task's source.
      lines: of the shard.
      batch_size: examples per call of `answer`; the last batch is filled up.
      shard: which examples are this process's.
      seed: seed of the examples.
      limit: only the first so many examples of the split.
      skip_bad: whether a bad record is counted and left out; otherwise it is an error.
      truncated_images: what becomes of images that are cut off, see `OFATask.prepared`.
      progress: shows how many examples of the shard are done, after every batch.
      stop_requested: asked before every batch.
      agree: with several processes that answer together, the number of lines to go on behind.

    Returns:
      The account of the lines.

    Raises:
      ValueError: the split is empty or cannot be opened; a bad record, without `skip_bad`.
      Unfinished: `stop_requested` said so.
    """
    progress = progress or Progress(shown=False)
    records = task.source.open(split)
    total = len(records) if limit is None else min(limit, len(records))
    if not total:
        raise ValueError(f"task {task.name!r} has no examples in split {split!r}")
    indices = range(shard.index, total, shard.count)
    done, skipped = lines.resume()
    resumed = done = min(agree(done), len(indices))
    progress.update(done, total=len(indices))
    for start in range(done, len(indices), batch_size):
        if stop_requested():
            place = f"behind {done} of {len(indices)} examples"
            raise Unfinished(f"{task.name}, {split}: stopped {place}")
        chosen = indices[start : start + batch_size]
        prepared = _prepared(task, records, chosen, lengths, seed, skip_bad, truncated_images)
        rows = _answered(task, answer, prepared, batch_size, start // batch_size)
        bad = [row for row in rows if "skipped" in row]
        for row in bad[: max(0, NAMED - skipped)]:
            logger.warning("skipped a bad record: %s", row["skipped"])
        skipped += len(bad)
        lines.append(rows)
        done += len(rows)
        progress.update(done, total=len(indices))
    return Tally(done, resumed, skipped)


@dataclasses.dataclass(frozen=True)
class Scored:
    """What the scorer says about the lines of a split.

    Attributes:
      result: scores, or None where no example has a truth.
      judgements: by record number, what the row of a prediction says about it.
      skipped: bad records.
    """

    result: Result | None
    judgements: Mapping[int, Mapping[str, object]]
    skipped: int


def score_split(task: OFATask, works: Sequence[Lines], limit: int | None = None) -> Scored:
    """Scores the complete lines of a split.

    Args:
      works: lines of every shard.
      limit: only the first so many examples count; there may be lines of more.

    Raises:
      ValueError: every record was bad.
    """
    values, examples, numbers, skipped, unjudged = [], [], [], 0, []
    for line in _merged(works, limit):
        if "skipped" in line:
            skipped += 1
        elif scorers.has_truth(task, line[_EXAMPLE]):
            values.append(decoded(task, np.array(line["tokens"], np.int32)))
            read = {key: line["row"][key] for key in _READ if key in line["row"]}
            examples.append(line[_EXAMPLE] | read)
            numbers.append(line["index"])
        else:
            unjudged.append(line["index"])
    if not numbers and not unjudged:
        raise ValueError(f"task {task.name!r}: none of the {skipped} records could be read")
    judgements: dict[int, Mapping[str, object]] = dict.fromkeys(unjudged, scoring.NOT_JUDGED)
    result = scorers.score(task, values, examples) if values else None
    if result is not None:
        judgements |= {number: result.judgement(place) for place, number in enumerate(numbers)}
    return Scored(result, judgements, skipped)


def write_split(
    task: OFATask,
    works: Sequence[Lines],
    scored: Scored,
    root: pathlib.Path,
    *,
    name: str,
    lengths: Lengths,
    split: str,
    seed: int = 0,
    limit: int | None = None,
    image_tokenizer: ImageTokenizer | None = None,
    submission: pathlib.Path | None = None,
) -> None:
    """Writes predictions, images of some of them, and the submission file.

    Args:
      works: lines of every shard, all complete.
      scored: of the same lines.
      root: `predictions/<name>.jsonl` and `examples/<name>/` are written below it.
      name: of the task and split in files.
      lengths: task feature lengths.
      split: split of the task's source.
      seed: seed of the examples.
      limit: see `score_split`.
      image_tokenizer: turns codes into pixels for the images.
      submission: file in the task's official format; None writes none.
    """
    records = task.source.open(split)
    path = root / "predictions" / f"{name}.jsonl"
    temporary = path.with_suffix(".partial")
    temporary.unlink(missing_ok=True)
    shown = shown_examples(scored.judgements)
    # Another scoring may show other examples.
    shutil.rmtree(root / "examples" / name, ignore_errors=True)

    def rows() -> Iterator[JsonObject]:
        for line in _merged(works, limit):
            if "skipped" in line:
                continue
            index, ids = line["index"], np.array(line["tokens"], np.int32)
            row = {**line["row"], **scored.judgements[index]}
            if index in shown:
                try:
                    example, _ = evaluation_row(task, records, index, lengths, seed=seed)
                except (ValueError, KeyError, OSError) as error:
                    logger.warning("no image of example %d of %s: %s", index, name, error)
                else:
                    row |= write_images(task, index, example, ids, root, name, image_tokenizer)
            yield row

    append_lines(temporary, rows())
    temporary.replace(path)
    if submission is not None and task.answering.submission:
        write_submission(submission, task.answering.submission, read_lines(path))


def predicted_lines(works: Sequence[Lines]) -> Iterator[JsonObject]:
    """Lines in the order of the examples, without skipped records.

    Each has `row` (a row of the predictions file), `tokens` and `example`.
    """
    return (line for line in _merged(works) if "row" in line)


def truncated_count(works: Sequence[Lines]) -> int:
    """Examples whose image is cut off and was decoded all the same."""
    return sum(bool(line[_EXAMPLE].get(IS_TRUNCATED)) for line in predicted_lines(works))


def _prepared(
    task: OFATask,
    records: Records,
    indices: Iterable[int],
    lengths: Lengths,
    seed: int,
    skip_bad: bool,
    truncated_images: str,
) -> list[tuple[int, Example | None, FeatureRow | str]]:
    """(index, example, row), or (index, None, reason) for a bad record."""
    found: list[tuple[int, Example | None, FeatureRow | str]] = []
    for index in in_turn(records, indices):
        try:
            example, row = evaluation_row(
                task, records, index, lengths, seed=seed, truncated_images=truncated_images
            )
            found.append((index, example, row))
        except (ValueError, KeyError) as error:
            reason = f"task {task.name!r}, record {index}: {error}"
            if not skip_bad:
                raise ValueError(reason) from error
            found.append((index, None, reason))
    return found


def _answered(
    task: OFATask,
    answer: Answer,
    prepared: list[tuple[int, Example | None, FeatureRow | str]],
    batch_size: int,
    number: int,
) -> list[JsonObject]:
    """Lines of one batch."""
    good = [row for _, _, row in prepared if not isinstance(row, str)]
    found = answer(task, fill_batch(good, batch_size), number) if good else None
    lines: list[JsonObject] = []
    place = 0
    for index, example, row in prepared:
        if example is None or isinstance(row, str) or found is None:
            lines.append({"index": index, "skipped": str(row)})
            continue
        ids = trim_at_eos(found.tokens[place, 0])
        shown = prediction_row(task, index, example, row, ids)
        for field, values in (
            ("log_probability", found.log_probabilities),
            ("decoding_score", found.scores),
        ):
            if np.isfinite(values[place, 0]):
                shown[field] = round(float(values[place, 0]), 5)
        if found.tokens.shape[1] > 1:
            shown["alternatives"] = [
                {
                    "text": str(decoded(task, trim_at_eos(found.tokens[place, other]))),
                    "log_probability": round(float(found.log_probabilities[place, other]), 5),
                }
                for other in range(1, found.tokens.shape[1])
                if np.isfinite(found.scores[place, other])
            ]
        place += 1
        plain = _plain(without_pixels(example))
        lines.append({"index": index, "row": shown, "tokens": ids.tolist(), _EXAMPLE: plain})
    return lines


def _merged(works: Sequence[Lines], limit: int | None = None) -> Iterator[JsonObject]:
    merged = heapq.merge(*works, key=lambda line: line["index"])
    return (line for line in merged if limit is None or line["index"] < limit)


def _plain(value: object) -> object:
    """A value as JSON has it; what JSON has not is left out of dictionaries."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {
            str(name): _plain(item) for name, item in value.items() if not isinstance(item, bytes)
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
