"""Reads what a run left behind: metrics.json, metrics.jsonl, predictions, configuration.

First step of the report. What is missing is noted and the rest still makes a page; what is there
but malformed is an error that names the file and the line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from ofa_jax.atomic import JsonObject
from ofa_jax.metrics.verdict import Verdict

# What made the directory, as its metrics.json says ("kind"): training where it says nothing.
TRAINING, EVALUATION, ANSWERS = "training", "evaluation", "answers"

# Numbers of a task's entry in metrics.json that are not scores of the model.
BASELINE_KEYS = ("chance", "majority", "baseline")
NOT_SCORES = frozenset({*BASELINE_KEYS, "n", "floor", "aim"})


class RecordError(ValueError):
    """A file of the run is malformed; the message names the file and the line."""


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """Scores of one task on one split.

    Attributes:
      name: registered task name.
      primary: the metric that stands for the task, None where there is no score.
      metrics: metric -> value.
      n: number of scored examples, if known.
      baselines: "chance", "majority" or "baseline" -> value of the primary metric.
      floor: least acceptable value of the primary metric, if one was set.
      aim: wanted value of the primary metric, if one was set.
    """

    name: str
    primary: str | None
    metrics: Mapping[str, float]
    n: int | None = None
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)
    floor: float | None = None
    aim: float | None = None

    @property
    def value(self) -> float | None:
        """Value of the primary metric."""
        return None if self.primary is None else self.metrics[self.primary]

    @property
    def gain(self) -> float | None:
        """How far the primary metric is above the best answer without a model."""
        value, baseline = self.value, self.baseline
        return None if value is None or baseline is None else value - baseline

    @property
    def baseline(self) -> float | None:
        """The best value that needs no model: the largest of the baselines."""
        return max(self.baselines.values(), default=None)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """Everything the report knows of a run.

    Attributes:
      path: the run directory.
      info: the "run" entry of metrics.json; the page looks for the keys name, date, model,
        num_parameters, steps, wall_seconds, hardware, and lists all others as they are.
      tasks: task -> scores on the main split.
      splits: split -> task -> scores.
      history: rows of metrics.jsonl in order of step, one per step (a resumed run repeats steps:
        what was written later wins).
      predictions: task -> rows of predictions/<task>.jsonl.
      split_predictions: split -> task -> rows of splits/<split>/predictions/<task>.jsonl.
      config_text: the resolved configuration, if it was saved.
      settings: the same as data, {} where it was not.
      notices: one sentence per missing or cut-off piece.
    """

    path: pathlib.Path
    info: JsonObject
    tasks: Mapping[str, TaskScores]
    splits: Mapping[str, Mapping[str, TaskScores]]
    history: tuple[JsonObject, ...]
    predictions: Mapping[str, tuple[JsonObject, ...]]
    config_text: str | None
    settings: JsonObject
    notices: tuple[str, ...]
    split_predictions: Mapping[str, Mapping[str, tuple[Mapping[str, object], ...]]] = (
        dataclasses.field(default_factory=dict)
    )

    @property
    def name(self) -> str:
        """The run's name, or its directory's."""
        return str(self.info.get("name") or self.path.resolve().name)

    @property
    def stage(self) -> str:
        """TRAINING, EVALUATION (of a checkpoint), or ANSWERS (to a free instruction)."""
        return str(self.info.get("kind", TRAINING))

    @property
    def task_names(self) -> list[str]:
        """All tasks with scores or predictions, scored ones first."""
        return list(dict.fromkeys([*self.tasks, *self.predictions]))

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and finite values of one key of metrics.jsonl: float64[n], float64[n]."""
        pairs = [(row["step"], row[key]) for row in self.history if _is_finite_number(row.get(key))]
        array = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    @property
    def history_keys(self) -> list[str]:
        """All keys of metrics.jsonl, in order of appearance."""
        return list(dict.fromkeys(key for row in self.history for key in row))


def _is_finite_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise RecordError(f"{path}, line {line}: not UTF-8 text ({error.reason})") from error


def read_json(path: pathlib.Path) -> dict:
    """Reads a JSON object.

    Raises:
      RecordError: naming file and line, where the text is not a JSON object.
    """
    text = _read_text(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}, line 1: must hold a JSON object, not a {type(value).__name__}")
    return value


def read_json_lines(path: pathlib.Path) -> tuple[list[tuple[int, dict]], str | None]:
    """Reads one JSON object per line; blank lines are skipped.

    A last line without a line break that does not parse is what a killed writer leaves; it is
    dropped with a notice, not an error.

    Returns:
      (line number, object) per line, and the notice or None.

    Raises:
      RecordError: naming file and line, where any other line is not a JSON object.
    """
    text = _read_text(path)
    lines = text.split("\n")
    rows: list[tuple[int, dict]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return (
                    rows,
                    f"{path.name}: the last line (line {number}) is cut off; it is left out.",
                )
            raise RecordError(f"{path}, line {number}: not JSON ({error.msg})") from error
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise RecordError(
                f"{path}, line {number}: must be a JSON object, not a {type(row).__name__}"
            )
        rows.append((number, row))
    return rows, None


def _task_scores(path: pathlib.Path, where: str, name: str, entry: object) -> TaskScores:
    if not isinstance(entry, dict):
        raise RecordError(f"{path}: {where}{name} must be an object, not {json.dumps(entry)[:40]}")

    def number(key: str) -> float | None:
        value = entry.get(key)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise RecordError(
                f"{path}: {where}{name}.{key} must be a number, got {json.dumps(value)[:40]}"
            )
        return float(value) if math.isfinite(value) else None

    metrics = {
        key: float(value)
        for key, value in entry.items()
        if key not in NOT_SCORES and _is_finite_number(value)
    }
    primary = entry.get("primary")
    if primary not in metrics:
        primary = next(iter(metrics), None)
    n = number("n")
    return TaskScores(
        name=name,
        primary=primary,
        metrics=metrics,
        n=None if n is None else int(n),
        baselines={k: v for k in BASELINE_KEYS if (v := number(k)) is not None},
        floor=number("floor"),
        aim=number("aim"),
    )


def _mapping(path: pathlib.Path, key: str, value: object) -> dict:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecordError(f'{path}: "{key}" must be an object, not {json.dumps(value)[:40]}')
    return value


def _sorted_history(path: pathlib.Path, rows: Iterable[tuple[int, dict]]) -> tuple[dict, ...]:
    merged: dict[float, dict] = {}
    for number, row in rows:
        if not _is_finite_number(row.get("step")):
            raise RecordError(f'{path}, line {number}: needs a number "step", has {sorted(row)}')
        merged.setdefault(row["step"], {}).update(row)
    return tuple(merged[step] for step in sorted(merged))


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_finite_number, value))


def _checked_prediction(path: pathlib.Path, number: int, row: dict) -> dict:
    """The row, or an error that says which field of which line cannot be drawn."""

    def check(key: str, good: bool, wanted: str) -> None:
        if not good:
            got = json.dumps(row[key])[:60]
            raise RecordError(f'{path}, line {number}: "{key}" must be {wanted}, got {got}')

    for key, value in row.items():
        if value is None:
            continue
        if key.endswith("_box"):
            check(key, _is_box(value), "4 numbers (x0, y0, x1, y1) or null")
        elif key.endswith("_objects"):
            good = isinstance(value, list) and all(
                isinstance(item, dict) and "label" in item and _is_box(item.get("box"))
                for item in value
            )
            check(key, good, 'a list of {"box": 4 numbers, "label": text}')
        elif key == "image_size":
            good = isinstance(value, list) and len(value) == 2
            good = good and all(_is_finite_number(v) and v > 0 for v in value)
            check(key, good, "2 positive numbers (width, height)")
        elif key == "references":
            check(key, isinstance(value, list), "a list of texts")
        elif key == "score":
            number_like = isinstance(value, (int, float))
            check(key, number_like, "a number")
        elif key == "verdict":
            known = [verdict.value for verdict in Verdict]
            check(key, value in known, f"one of {json.dumps(known)}")
        elif key == "found":
            good = isinstance(value, list) and all(isinstance(index, int) for index in value)
            check(key, good, "a list of numbers of true objects")
        elif key == "alternatives":
            good = isinstance(value, list) and all(
                isinstance(item, dict)
                and "text" in item
                and _is_finite_number(item.get("log_probability"))
                for item in value
            )
            check(key, good, 'a list of {"text": text, "log_probability": number}')
    return row


def _predictions(root: pathlib.Path, notices: list[str]) -> dict[str, tuple[dict, ...]]:
    """Task -> rows of root/predictions/<task>.jsonl; what is cut off is added to the notices."""
    found = {}
    for path in sorted((root / "predictions").glob("*.jsonl")):
        rows, notice = read_json_lines(path)
        found[path.stem] = tuple(_checked_prediction(path, n, row) for n, row in rows)
        if notice:
            notices.append(f"predictions/{notice}")
    return found


def collect(run_dir: str | pathlib.Path) -> RunRecord:
    """Reads a run directory.

    Args:
      run_dir: directory with metrics.json, metrics.jsonl, predictions/<task>.jsonl and
        config.gin, all of them optional.

    Returns:
      The record; `notices` says what is missing.

    Raises:
      RecordError: where the directory does not exist or a file is malformed.
    """
    run_dir = pathlib.Path(run_dir)
    if not run_dir.is_dir():
        raise RecordError(f"{run_dir} is not a directory; give the directory of a run")
    notices: list[str] = []

    scores_path = run_dir / "metrics.json"
    scores: dict = {}
    if scores_path.is_file():
        scores = read_json(scores_path)
    else:
        notices.append("metrics.json is missing: no final scores, no run information.")
    tasks = {
        name: _task_scores(scores_path, "tasks.", name, entry)
        for name, entry in _mapping(scores_path, "tasks", scores.get("tasks")).items()
    }
    splits = {
        split: {
            name: _task_scores(scores_path, f"splits.{split}.", name, entry)
            for name, entry in _mapping(scores_path, f"splits.{split}", entries).items()
        }
        for split, entries in _mapping(scores_path, "splits", scores.get("splits")).items()
    }
    for name, task in tasks.items():
        if task.primary is None:
            notices.append(f"metrics.json: task {name} has no score.")
    info = _mapping(scores_path, "run", scores.get("run"))
    stage = info.get("kind", TRAINING)
    if scores and not tasks and stage != ANSWERS:
        notices.append('metrics.json has no "tasks": no final scores.')
    if scores and not splits and stage == TRAINING:
        notices.append('metrics.json has no "splits": no comparison of splits.')

    history: tuple[dict, ...] = ()
    history_path = run_dir / "metrics.jsonl"
    if history_path.is_file():
        rows, notice = read_json_lines(history_path)
        history = _sorted_history(history_path, rows)
        if notice:
            notices.append(notice)
    if not history and stage == TRAINING:
        notices.append("metrics.jsonl is missing or empty: no curves.")

    predictions = _predictions(run_dir, notices)
    split_predictions = {
        directory.name: _predictions(directory, notices)
        for directory in sorted((run_dir / "splits").glob("*"))
    }
    without = [name for name in tasks if not predictions.get(name)]
    if without:
        notices.append(f"No predictions for: {', '.join(without)}.")

    config_path = run_dir / "config.gin"
    config_text = _read_text(config_path) if config_path.is_file() else None
    if config_text is None and stage == TRAINING:
        notices.append("config.gin is missing: the resolved configuration is not shown.")
    settings_path = run_dir / "config.json"
    settings = read_json(settings_path).get("settings") if settings_path.is_file() else None
    return RunRecord(
        path=run_dir,
        info=info,
        tasks=tasks,
        splits=splits,
        history=history,
        predictions=predictions,
        config_text=config_text,
        settings=_mapping(settings_path, "settings", settings),
        notices=tuple(notices),
        split_predictions=split_predictions,
    )
