"""The model of an evaluation or inference: found, loaded, copied to every device.

Shared by `evaluate` and `infer`. Weights lie whole on each device of this process and batches are
split over them; several processes take different examples and never wait for each other.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ofa_jax.checkpoint.imports import ImportedCheckpoint, import_checkpoint

logger = logging.getLogger("ofa_jax")

QUICKSTART = "runs/quickstart"
_LENGTHS = re.compile(r"^TASK_FEATURE_LENGTHS = (\{.*?\})$", re.MULTILINE | re.DOTALL)


def find_checkpoint(checkpoint: str) -> str:
    """The checkpoint to use; without one that of the quickstart, of a run the best that it kept.

    Raises:
      ValueError: none was given, and there is no quickstart run.
    """
    if checkpoint:
        return _best_of_run(pathlib.Path(checkpoint)) or checkpoint
    if pathlib.Path(QUICKSTART).is_dir():
        logger.info("no --checkpoint given, taking %s", QUICKSTART)
        return QUICKSTART
    raise ValueError(
        "no checkpoint: give --checkpoint, the folder of a run, a .pt file, a HuggingFace folder "
        "or a hub repository such as OFA-Sys/ofa-base; `make quickstart` trains a small one"
    )


def _best_of_run(folder: pathlib.Path) -> str | None:
    """The checkpoint that a finished fine-tuning run chose by its evaluations."""
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    step = json.loads(path.read_text(encoding="utf-8")).get("run", {}).get("best_step")
    best = folder / f"checkpoint_{step}"
    if step is None or not best.is_dir():
        return None
    logger.info("taking the best checkpoint of %s, step %d", folder, step)
    return str(best)


def trained_lengths(checkpoint: str) -> dict[str, int] | None:
    """TASK_FEATURE_LENGTHS of the run that a checkpoint comes from, or None.

    Args:
      checkpoint: as the user gave it; the folder of a run or a checkpoint in it.
    """
    for folder in (pathlib.Path(checkpoint), pathlib.Path(checkpoint).absolute().parent):
        path = folder / "config.gin"
        if path.is_file():
            text = path.read_text(encoding="utf-8").replace("\\\n", " ")
            if match := _LENGTHS.search(text):
                return dict(ast.literal_eval(match.group(1)))
    return None


def load_weights(
    checkpoint: str, *, ema: bool = False, dtype: str = "", settings: Mapping[str, Any] | None
) -> ImportedCheckpoint:
    """Reads a checkpoint of any kind.

    Args:
      checkpoint: see `import_checkpoint`.
      ema: take the moving average.
      dtype: type of the computation, "" = as configured.
      settings: fields of `OFAConfig` to change, such as {"code_image_size": 256}.

    Raises:
      ValueError: an unknown field.
      FileNotFoundError: no such checkpoint.
    """
    imported = import_checkpoint(checkpoint, ema=ema, progress=lambda line: logger.info("%s", line))
    changes: dict[str, Any] = dict(settings or {}) | ({"dtype": dtype} if dtype else {})
    known = {field.name for field in dataclasses.fields(imported.config)}
    if unknown := set(changes) - known:
        raise ValueError(f"model_settings: the model has no field {', '.join(sorted(unknown))}")
    return dataclasses.replace(imported, config=dataclasses.replace(imported.config, **changes))


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of this process.

    Attributes:
      mesh: all of them on one axis.
    """

    mesh: Mesh

    @classmethod
    def of_this_process(cls) -> Devices:
        """Every local device."""
        return cls(Mesh(np.array(jax.local_devices()), ("data",)))

    def check_batch(self, batch_size: int, setting: str) -> None:
        """Fails where a batch does not divide over the devices.

        Raises:
          ValueError: names the setting.
        """
        count = self.mesh.size
        if batch_size < 1 or batch_size % count:
            raise ValueError(f"{setting} {batch_size} does not divide over {count} devices")

    def replicate(self, tree: Any) -> Any:
        """A copy of every array on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def split(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch split over the devices along its first axis."""
        return jax.device_put(dict(batch), NamedSharding(self.mesh, PartitionSpec("data")))
