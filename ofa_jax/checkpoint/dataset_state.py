"""The input state inside a checkpoint, where t5x keeps it (T5X 4).

An orbax handler for the item `dataset`: one JSON file per process.
"""

from __future__ import annotations

import json

import jax
import orbax.checkpoint as ocp
from etils import epath

from ofa_jax import schema
from ofa_jax.checkpoint.bucket import AnyPath
from ofa_jax.checkpoint.errors import CheckpointError


def dataset_file(directory: AnyPath) -> AnyPath:
    """The file of this process.

    Args:
      directory: a checkpoint's `dataset` directory.

    Returns:
      `train_ds-000-of-001.json`, in a directory of its own where there are several processes.
    """
    process, processes = jax.process_index(), jax.process_count()
    if processes > 1:
        directory = directory / f"process_{process}-of-{processes}"
    return directory / f"train_ds-{process:03d}-of-{processes:03d}.json"


class DatasetHandler(ocp.CheckpointHandler):
    """Writes the input state of every process as JSON, where t5x looks for it."""

    def save(self, directory: epath.Path, args: DatasetSave) -> None:
        """Writes this process's file.

        Args:
          directory: the checkpoint's `dataset` directory.
        """
        path = dataset_file(epath.Path(directory))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(args.state), encoding="utf-8")

    def restore(self, directory: epath.Path, args: DatasetRestore | None = None) -> object:
        """Reads this process's file.

        Args:
          directory: the checkpoint's `dataset` directory.
          args: not used.

        Returns:
          The state.
        """
        del args
        return schema.read_json(dataset_file(epath.Path(directory)), CheckpointError)


@ocp.args.register_with_handler(DatasetHandler, for_save=True)
class DatasetSave(ocp.args.CheckpointArgs):
    """The input state to save."""

    def __init__(self, state: object) -> None:
        """Args: state: JSON-able."""
        self.state = state


@ocp.args.register_with_handler(DatasetHandler, for_restore=True)
class DatasetRestore(ocp.args.CheckpointArgs):
    """Asks for the input state."""
