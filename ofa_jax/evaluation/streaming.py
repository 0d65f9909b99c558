"""Predictions of a whole split, line by line: resumable, shared by processes, in little memory.

Two passes. `predict_split` appends a line per example to a work file as soon as its batch is
answered; a process that is started again goes on behind the last complete line. `finish` reads the
work files of all shards in the order of the examples and writes predictions, scores and the
submission file. Pictures are held for one batch only; scoring reads texts, boxes and codes.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ofa_jax.data.features import Row
from ofa_jax.data.image_tokenizer import ImageTokenizer
from ofa_jax.data.instruction import Example, trim_at_eos
from ofa_jax.data.pipeline import evaluation_row, fill_batch
from ofa_jax.data.task import IS_TRUNCATED, Lengths, OFATask
from ofa_jax.evaluation import evaluator, scorers, scoring
from ofa_jax.evaluation.scoring import Result
from ofa_jax.evaluation.submission import write_submission

logger = logging.getLogger("ofa_jax")

Answer = Callable[[OFATask, Row, int], tuple[np.ndarray, np.ndarray]]
"""(task, batch, number of the batch) to generated ids int32[b, t] and log-probabilities float[b].
"""

# Bad records that are named in the log; the others are only counted.
NAMED = 20
_EXAMPLE = "example"


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

    def work_file(self, folder: pathlib.Path, name: str) -> pathlib.Path:
        """Where this shard's lines go."""
        return folder / f"{name}.{self.index:05d}-of-{self.count:05d}.jsonl"


@dataclasses.dataclass(frozen=True)
class Tally:
    """What a pass over a shard did.

    Attributes:
      examples: lines in the work file.
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
    work: pathlib.Path,
    batch_size: int,
    shard: Shard = Shard(),
    seed: int = 0,
    limit: int | None = None,
    pictures_root: pathlib.Path | None = None,
    name: str = "",
    skip_bad: bool = True,
    truncated_images: str = "decode",
    image_tokenizer: ImageTokenizer | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tally:
    """Appends predictions of a shard to its work file, from where it ends.

    Args:
      task: the task.
      answer: the model.
      lengths: task feature lengths.
      split: split of the task's source.
      work: the work file; its folder is made.
      batch_size: examples per call of `answer`; the last batch is filled up.
      shard: which examples are this process's.
      seed: seed of the examples.
      limit: only the first so many examples of the split.
      pictures_root: folder below which `examples/<name>/` gets the first pictures; None writes
        none.
      name: of the task in files.
      skip_bad: whether a bad record is counted and left out; otherwise it is an error.
      truncated_images: what becomes of images that are cut off, see `OFATask.prepared`.
      image_tokenizer: turns codes into pixels for the pictures.
      progress: called with (examples done, examples of the shard) after every batch.

    Returns:
      The account of the work file.

    Raises:
      InstructionError: a bad record, without `skip_bad`.
      ValueError: the split is empty or cannot be opened.
    """
    records = task.source.open(split)
    total = len(records) if limit is None else min(limit, len(records))
    if not total:
        raise ValueError(f"task {task.name!r} has no examples in split {split!r}")
    indices = range(shard.index, total, shard.count)
    work.parent.mkdir(parents=True, exist_ok=True)
    done, skipped = _resume(work)
    resumed = done
    if done:
        logger.info("%s: going on behind %d examples", work.name, done)
    with work.open("a", encoding="utf-8") as file:
        for start in range(done, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            lines = _answered(
                task,
                answer,
                lengths,
                _prepared(task, records, chosen, lengths, seed, skip_bad, truncated_images),
                batch_size,
                start // batch_size,
                (pictures_root, name, image_tokenizer),
            )
            bad = [line for line in lines if "skipped" in line]
            for line in bad[: max(0, NAMED - skipped)]:
                logger.warning("skipped a bad record: %s", line["skipped"])
            skipped += len(bad)
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
            done += len(lines)
            progress(done, len(indices))
    return Tally(done, resumed, skipped)


def finish(
    task: OFATask,
    works: Sequence[pathlib.Path],
    output_dir: pathlib.Path,
    *,
    name: str,
    submission: pathlib.Path | None,
) -> tuple[Result | None, int]:
    """Scores the complete work files of a split, writes predictions and submission.

    Args:
      task: the task.
      works: one work file per shard, all complete.
      output_dir: `predictions/<name>.jsonl` is written below it.
      name: of the task and split in files.
      submission: file in the task's official format; None writes none.

    Returns:
      (scores, or None where no example has a truth; number of skipped records).

    Raises:
      ValueError: every record was bad.
    """
    values, examples, skipped = [], [], 0
    scored = []
    for line in _merged(works):
        if "skipped" in line:
            skipped += 1
            continue
        has_truth = scorers.has_truth(task.scorer, line[_EXAMPLE])
        scored.append(has_truth)
        if has_truth:
            values.append(evaluator.decoded(task, np.array(line["tokens"], np.int32)))
            examples.append(line[_EXAMPLE])
    if not scored:
        raise ValueError(f"task {task.name!r}: none of the {skipped} records could be read")
    result = scorers.SCORERS[task.scorer](values, examples) if values else None
    judged = map(result.judgement, range(len(result.scores))) if result else iter(())
    path = output_dir / "predictions" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    with temporary.open("w", encoding="utf-8") as file:
        for row, has_truth in zip(_rows(works), scored):
            row = {**row, **(next(judged) if has_truth else scoring.NOT_JUDGED)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    temporary.replace(path)
    if submission is not None and task.answering.submission:
        write_submission(submission, task.answering.submission, _rows(works))
    return result, skipped


def predicted_lines(works: Sequence[pathlib.Path]) -> Iterator[dict[str, Any]]:
    """Lines of complete work files in the order of the examples, without skipped records.

    Each has `row` (a row of the predictions file), `tokens` and `example`.
    """
    return (line for line in _merged(works) if "row" in line)


def truncated_count(works: Sequence[pathlib.Path]) -> int:
    """Examples of complete work files whose image is cut off and was decoded all the same."""
    return sum(bool(line[_EXAMPLE].get(IS_TRUNCATED)) for line in predicted_lines(works))


def line_count(work: pathlib.Path) -> int:
    """Complete lines of a work file, 0 where there is none."""
    if not work.exists():
        return 0
    with work.open("rb") as file:
        return sum(line.endswith(b"\n") for line in file)


def _prepared(
    task: OFATask,
    records: Any,
    indices: Iterable[int],
    lengths: Lengths,
    seed: int,
    skip_bad: bool,
    truncated_images: str,
) -> list[tuple[int, Example | None, Row | str]]:
    """(index, example, row), or (index, None, reason) for a bad record."""
    found: list[tuple[int, Example | None, Row | str]] = []
    for index in indices:
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
    lengths: Lengths,
    prepared: list[tuple[int, Example | None, Row | str]],
    batch_size: int,
    number: int,
    pictures: tuple[pathlib.Path | None, str, ImageTokenizer | None],
) -> list[dict[str, Any]]:
    """Lines of the work file for one batch."""
    good = [(index, example, row) for index, example, row in prepared if example is not None]
    answers: dict[int, tuple[np.ndarray, float]] = {}
    if good:
        batch = fill_batch([row for _, _, row in good if not isinstance(row, str)], batch_size)
        tokens, scores = answer(task, batch, number)
        for (index, _, _), ids, value in zip(good, np.asarray(tokens), np.asarray(scores)):
            answers[index] = (trim_at_eos(ids), float(value))
    lines: list[dict[str, Any]] = []
    for index, example, row in prepared:
        if example is None or isinstance(row, str):
            lines.append({"index": index, "skipped": str(row)})
            continue
        ids, log_probability = answers[index]
        one = evaluator.Predictions(
            task,
            [index],
            [example],
            [row["encoder_input_tokens"]],
            [row["decoder_target_tokens"]],
            [evaluator.decoded(task, ids)],
            [ids],
        )
        shown = evaluator.prediction_row(one, 0)
        if np.isfinite(log_probability):
            shown["log_probability"] = round(log_probability, 5)
        root, name, image_tokenizer = pictures
        if root is not None and index < evaluator.PICTURES:
            folder = root / "examples" / name
            folder.mkdir(parents=True, exist_ok=True)
            shown |= evaluator.write_pictures(one, 0, folder, root, image_tokenizer)
        lines.append(
            {
                "index": index,
                "row": shown,
                "tokens": ids.tolist(),
                _EXAMPLE: _plain(evaluator.without_pixels(example)),
            }
        )
    return lines


def _resume(work: pathlib.Path) -> tuple[int, int]:
    """(complete lines, skipped records among them); an incomplete last line is cut off."""
    if not work.exists():
        return 0, 0
    lines = skipped = end = 0
    with work.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            lines += 1
            end += len(line)
            skipped += b'"skipped":' in line[:64]
    with work.open("r+b") as file:
        file.truncate(end)
    return lines, skipped


def _lines(work: pathlib.Path) -> Iterator[dict[str, Any]]:
    with work.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _merged(works: Sequence[pathlib.Path]) -> Iterator[dict[str, Any]]:
    return heapq.merge(*map(_lines, works), key=lambda line: line["index"])


def _rows(works: Sequence[pathlib.Path]) -> Iterator[dict[str, Any]]:
    return (line["row"] for line in predicted_lines(works))


def _plain(value: Any) -> Any:
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
