"""Weights alone in our own directories: what conversion writes and inference reads.

The layout is that of training checkpoints (T5X 4), `<directory>/checkpoint_<step>/state` with the
parameters under `target`, so a converted directory is a run's starting point. Beside it lie
`model_config.json`, without which weights cannot be used, and `source.json`, which remembers the
task of the source and what a later export needs to give back every tensor bit for bit.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from ofa_jax import schema
from ofa_jax.atomic import JsonObject, write_json
from ofa_jax.checkpoint.bucket import best_step_of
from ofa_jax.checkpoint.errors import one_line
from ofa_jax.checkpoint.fingerprint import FINGERPRINT_FILE
from ofa_jax.checkpoint.task_facts import TaskFacts
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.model.config import OFAConfig

CONFIG_FILE = "model_config.json"
RECORD_FILE = "source.json"
_STEP_DIRECTORY = re.compile(r"checkpoint_(\d+)")
# How much orbax may hold in flight; it bounds the memory that saving needs beyond the weights.
_CONCURRENT_GB = 1


@dataclasses.dataclass(frozen=True)
class SourceRecord:
    """Where weights came from and how they were stored there.

    Attributes:
      format: "fairseq", "state_dict", "huggingface", "initialized", or "trained" in a run of ours.
      name: name of the file, directory or repository (no local path).
      dtypes: official tensor name -> dtype name in the source.
      batches_tracked: BatchNorm counters of the source.
      repairs: what was changed on the way in, one line each.
      task: what the source says about its task.
      cfg: the configuration in a fairseq file, as plain values: "cfg", "args" or both.
    """

    format: str
    name: str
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batches_tracked: Mapping[str, int] = dataclasses.field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    task: TaskFacts = dataclasses.field(default_factory=TaskFacts)
    cfg: JsonObject = dataclasses.field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """A JSON-able dict; the most frequent dtype is written once."""
        default = Counter(self.dtypes.values()).most_common(1)
        default = default[0][0] if default else None
        return {
            "format": self.format,
            "name": self.name,
            "task": self.task.to_json(),
            "default_dtype": default,
            "dtypes": {name: dtype for name, dtype in self.dtypes.items() if dtype != default},
            "tensors": [name for name, dtype in self.dtypes.items() if dtype == default],
            "batches_tracked": dict(self.batches_tracked),
            "repairs": list(self.repairs),
            "cfg": dict(self.cfg),
        }

    @classmethod
    def from_json(cls, fields: object, name: object) -> SourceRecord:
        """Inverse of `to_json`.

        Args:
          fields: the parsed file.
          name: of the file.

        Raises:
          CheckpointFileError: it is no such record.
        """
        saved = schema.build(_SavedRecord, fields, name, CheckpointFileError, unknown="ignore")
        return cls(
            saved.format,
            saved.name,
            {**dict.fromkeys(saved.tensors, str(saved.default_dtype)), **saved.dtypes},
            saved.batches_tracked,
            saved.repairs,
            TaskFacts.from_json(saved.task, f"{name}, task"),
            saved.cfg,
        )


@dataclasses.dataclass(frozen=True)
class _SavedRecord:
    """The fields of `source.json`."""

    format: str
    name: str
    task: Mapping[str, object] = dataclasses.field(default_factory=dict)
    default_dtype: str | None = None
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    batches_tracked: Mapping[str, int] = dataclasses.field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    cfg: JsonObject = dataclasses.field(default_factory=dict)


def _read_json(path: pathlib.Path) -> JsonObject:
    return schema.read_json(path, CheckpointFileError, expected=dict)


def write_model_config(directory: str | os.PathLike, config: OFAConfig) -> None:
    """Saves a configuration as `model_config.json`.

    Args:
      directory: the run's or the converted model's directory; created where missing.
    """
    write_json(pathlib.Path(directory) / CONFIG_FILE, dataclasses.asdict(config))


def read_model_config(directory: str | os.PathLike) -> OFAConfig | None:
    """Reads the configuration that lies beside checkpoints.

    Args:
      directory: where `write_model_config` wrote, or the directory of a training run, whose
        fingerprint has the configuration in its section "model".

    Returns:
      The configuration, or None where the directory has neither file.

    Raises:
      CheckpointFileError: the file has unknown fields or impossible values.
    """
    path = pathlib.Path(directory) / CONFIG_FILE
    if path.is_file():
        fields = _read_json(path)
    else:
        path = pathlib.Path(directory) / FINGERPRINT_FILE
        fields = _read_json(path).get("model") if path.is_file() else None
        if fields is None:
            return None
    return schema.build(OFAConfig, fields, path, CheckpointFileError)


def best_step(directory: str | os.PathLike) -> int | None:
    """The step that a finished run chose by its evaluations, where its checkpoint is still there.

    Args:
      directory: a run's directory.
    """
    path = pathlib.Path(directory) / "metrics.json"
    if not path.is_file():
        return None
    step = best_step_of(schema.read_json(path, CheckpointFileError))
    there = step is not None and (path.parent / f"checkpoint_{step}" / "state").is_dir()
    return step if there else None


def step_directory(directory: str | os.PathLike, step: int | None = None) -> pathlib.Path | None:
    """The checkpoint directory of a step, of the run's best step, or of the last step.

    Args:
      directory: a run's directory, or itself a directory `checkpoint_<step>`.
      step: which one; None = the best where the run has chosen one, else the last.

    Returns:
      The directory that has `state` in it, or None.
    """
    directory = pathlib.Path(directory)
    if _STEP_DIRECTORY.fullmatch(directory.name) and (directory / "state").is_dir():
        return directory
    found = {
        int(match.group(1)): child
        for child in (directory.iterdir() if directory.is_dir() else ())
        if (match := _STEP_DIRECTORY.fullmatch(child.name)) and (child / "state").is_dir()
    }
    if step is None:
        step = best_step(directory)
    if step is not None:
        return found.get(step)
    return found[max(found)] if found else None


def write_weights(
    directory: str | os.PathLike,
    variables: Mapping[str, PyTree],
    config: OFAConfig,
    record: SourceRecord,
    *,
    step: int = 0,
) -> pathlib.Path:
    """Writes weights as a checkpoint without optimizer state.

    Args:
      directory: target; gets `checkpoint_<step>`, `model_config.json` and `source.json`.
      variables: {"params", "batch_stats"} of arrays, unboxed.
      record: where the weights came from.
      step: number of the checkpoint.

    Returns:
      The checkpoint's directory.
    """
    directory = pathlib.Path(directory).absolute()
    tree = {
        "target": variables["params"],
        "state": {"step": np.int32(step)},
        "flax_mutables": {"batch_stats": variables["batch_stats"]},
    }
    options = ocp.CheckpointManagerOptions(
        step_prefix="checkpoint", create=True, enable_async_checkpointing=False
    )
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, save_concurrent_gb=_CONCURRENT_GB)
    with ocp.CheckpointManager(
        directory, options=options, item_handlers={"state": handler}
    ) as manager:
        manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree)))
        manager.wait_until_finished()
    write_model_config(directory, config)
    write_source_record(directory, record)
    return directory / f"checkpoint_{step}"


def read_weights(
    directory: str | os.PathLike,
    *,
    step: int | None = None,
    ema: bool | None = False,
    check: Callable[[Mapping[str, object]], None] = lambda shapes: None,
) -> dict[str, PyTree]:
    """Reads parameters and batch statistics, and nothing else, from a checkpoint.

    Args:
      directory: a run's directory or a directory `checkpoint_<step>`.
      step: which checkpoint; None as in `step_directory`.
      ema: read the moving average instead; None = where there is one.
      check: called with a tree like the result before anything is read; its leaves have shapes.

    Returns:
      {"params", "batch_stats"}: nested dicts of numpy arrays, in the layer layout they were
      saved in.

    Raises:
      CheckpointFileError: no checkpoint there, a damaged one, or one without moving average.
    """
    checkpoint = step_directory(directory, step)
    if checkpoint is None:
        wanted = "checkpoint_<step>" if step is None else f"checkpoint_{step}"
        raise CheckpointFileError(f"{directory}: no {wanted} with a state in it")
    state = epath.Path(checkpoint.absolute() / "state")
    # The handler itself, because a Checkpointer would look for files of a layout that t5x's lacks.
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, restore_concurrent_gb=_CONCURRENT_GB)
    try:
        try:
            tree = handler.metadata(state).tree
        except Exception as error:
            raise CheckpointFileError(f"{state}: cannot be read ({one_line(error)})") from error
        if ema is None:
            ema = "ema" in tree
        if ema and "ema" not in tree:
            raise CheckpointFileError(f"{checkpoint}: has no moving average")
        if "target" not in tree:
            raise CheckpointFileError(f"{state}: has no parameters ('target') in it")
        check(_variables(tree, ema))
        wanted = {"ema": tree["ema"]} if ema else {"target": tree["target"]}
        if not ema and "flax_mutables" in tree:
            wanted["flax_mutables"] = tree["flax_mutables"]
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        try:
            found = handler.restore(state, args=arguments)
        except Exception as error:
            raise CheckpointFileError(
                f"{state}: cannot be restored, most likely an incomplete copy ({one_line(error)})"
            ) from error
    finally:
        handler.close()
    return _variables(found, ema)


def _variables(tree: Mapping[str, PyTree], ema: bool) -> dict[str, PyTree]:
    if ema:
        return dict(tree["ema"])
    statistics = tree.get("flax_mutables", {}).get("batch_stats", {})
    return {"params": tree["target"], "batch_stats": statistics}


def write_source_record(directory: str | os.PathLike, record: SourceRecord) -> None:
    """Writes `source.json` beside checkpoints."""
    write_json(pathlib.Path(directory) / RECORD_FILE, record.to_json())


def read_source_record(directory: str | os.PathLike) -> SourceRecord | None:
    """Reads `source.json`, or None where there is none."""
    path = pathlib.Path(directory) / RECORD_FILE
    return SourceRecord.from_json(_read_json(path), path) if path.is_file() else None
