"""What a run under t5x writes beside t5x's own files, so that everything else of ours can read it.

With the model's configuration and the vocabulary in its directory, a run of t5x can be resumed by
the native runner, converted, and loaded by `ofa_jax.load`.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
from typing import Any

from t5x import gin_utils  # pyrefly: ignore[missing-import]

from ofa_jax.checkpoint.bucket import directory_path
from ofa_jax.checkpoint.fingerprint import check_fingerprint, write_fingerprint
from ofa_jax.checkpoint.orbax_weights import write_model_config
from ofa_jax.runs import directory as run_directory
from ofa_jax.runs import event_files, hosts
from ofa_jax.runs import tasks as run_tasks
from ofa_jax.runs.log import rows_until
from ofa_jax.t5x.models import OFAModel

CONFIG_FILE = "t5x_config.gin"


def write_run_files(
    model_dir: str,
    summary_writer: Any,
    step: int,
    *,
    model: OFAModel,
    best_metric: str = "",
    save_trained: bool = False,
) -> None:
    """For `summarize_config_fn` of `t5x/train.py`.

    The gin configuration goes to `t5x_config.gin`: `config.gin` is the native runner's, which
    compares it when it goes on.

    Args:
      model_dir: directory of the run, or a gs:// address.
      summary_writer: t5x's writer, or None.
      step: at which the run starts.
      model: of the run.
      best_metric: of which only the native runner keeps the best checkpoint.
      save_trained: what only the native runner writes at the end.

    Raises:
      ModelMismatchError: the directory belongs to another model.
      SettingsError: another process trains in the directory.
    """
    if best_metric:
        logging.warning(
            "BEST_METRIC %s: t5x keeps the newest checkpoints; for the best, set "
            "utils.SaveCheckpointConfig.checkpointer_cls = @checkpoints.SaveBestCheckpointer",
            best_metric,
        )
    if save_trained:
        logging.warning("SAVE_TRAINED: after the run, python -m ofa_jax.convert writes the file")
    layout = model.tasks.tokenizer.layout
    directory = directory_path(model_dir)
    settings = {"model": dataclasses.asdict(model.config), "vocabulary": dataclasses.asdict(layout)}
    run = hold(model_dir)
    with hosts.agreed("files of the run"):
        if run_directory.is_primary():
            check_fingerprint(directory, settings)
            write_fingerprint(directory, settings)
            (run.files / CONFIG_FILE).write_text(gin_utils.get_gin_config_str(), encoding="utf-8")
            write_model_config(run.files, model.config)
            run_tasks.save_vocabulary(run.files, model.tasks)
            run_tasks.save_cards(run.files, model.tasks, model.mixture, model.settings)
            run.push()
            # What a run that was killed logged after the step from which this one goes on.
            event_files.purge(directory, step)
            scores = run.files / "inference_eval" / "metrics.jsonl"
            if scores.is_file():
                rows_until(scores, step)
    if summary_writer is not None:
        summary_writer.write_texts(step, {"config": gin_utils.get_gin_config_str()})
        summary_writer.flush()


_directories: dict[str, run_directory.RunDirectory] = {}
_open_directories = contextlib.ExitStack()


def release() -> None:
    """Opens the directories of this process's runs to others; at its end by itself."""
    _directories.clear()
    _open_directories.close()


atexit.register(release)


def hold(model_dir: str) -> run_directory.RunDirectory:
    """The directory of a run, locked until the process ends: t5x says nowhere that it is done.

    A second run of the same command, or hosts that do not know of each other, find it in use.

    Args:
      model_dir: directory or gs:// address; the same on all processes.

    Raises:
      SettingsError: another process trains in the directory.
    """
    if model_dir not in _directories:
        _directories[model_dir] = _open_directories.enter_context(run_directory.opened(model_dir))
    return _directories[model_dir]
