"""What a run under t5x writes beside t5x's own files, so that everything else of ours can read it.

With the model's configuration and the vocabulary in its folder, a run of t5x can be resumed by the
native runner, converted, and loaded by `ofa_jax.load`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from t5x import gin_utils  # pyrefly: ignore[missing-import]

from ofa_jax.checkpoint.bucket import directory_path
from ofa_jax.checkpoint.fingerprint import check_fingerprint, write_fingerprint
from ofa_jax.checkpoint.orbax_weights import write_model_config
from ofa_jax.runs import folder as run_folder
from ofa_jax.runs import tasks as run_tasks
from ofa_jax.t5x.models import OFAModel

CONFIG_FILE = "t5x_config.gin"


def write_run_files(model_dir: str, summary_writer: Any, step: int, *, model: OFAModel) -> None:
    """For `summarize_config_fn` of `t5x/train.py`.

    The gin configuration goes to `t5x_config.gin`: `config.gin` is the native runner's, which
    compares it when it goes on.

    Args:
      model_dir: folder of the run, or a gs:// address.
      summary_writer: t5x's writer, or None.
      step: at which the run starts.
      model: of the run.

    Raises:
      ModelMismatchError: the folder belongs to another model.
    """
    if jax.process_index() != 0:
        return
    layout = model.tasks.tokenizer.layout
    directory = directory_path(model_dir)
    settings = {"model": dataclasses.asdict(model.config), "vocabulary": dataclasses.asdict(layout)}
    check_fingerprint(directory, settings)
    write_fingerprint(directory, settings)
    config = gin_utils.get_gin_config_str()
    with run_folder.opened(model_dir) as run:
        (run.files / CONFIG_FILE).write_text(config, encoding="utf-8")
        write_model_config(run.files, model.config)
        run_tasks.save_vocabulary(run.files, model.tasks.tokenizer)
        run_tasks.save_cards(run.files, model.tasks, model.mixture)
    if summary_writer is not None:
        summary_writer.write_texts(step, {"config": config})
        summary_writer.flush()
