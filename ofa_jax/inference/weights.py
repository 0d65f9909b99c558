"""The model of an evaluation or inference: found, loaded, copied to every device.

Shared by `evaluate` and `infer`. Weights lie whole on each device of this process and batches are
split over them; several processes take different examples and never wait for each other.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ofa_jax.checkpoint.bucket import is_remote, local_copy
from ofa_jax.checkpoint.imports import ImportedCheckpoint, import_checkpoint
from ofa_jax.checkpoint.orbax_weights import best_step
from ofa_jax.checkpoint.tuned import split_source
from ofa_jax.data.registration import import_modules, lookup
from ofa_jax.model.config import OFAConfig
from ofa_jax.report.paper_tables import configured_methods

logger = logging.getLogger("ofa_jax")

QUICKSTART = "runs/quickstart"
_MACRO = re.compile(r"^([A-Z][A-Z_]+) = (.+(?:\n[ \t]+.+)*)$", re.MULTILINE)


def find_checkpoint(checkpoint: str) -> str:
    """The checkpoint to use; without one that of the quickstart, of a run the best that it kept.

    Raises:
      ValueError: none was given, and there is no quickstart run.
    """
    if is_remote(checkpoint):
        return str(local_copy(checkpoint))
    if checkpoint:
        return _best_of_run(checkpoint) or checkpoint
    if pathlib.Path(QUICKSTART).is_dir():
        logger.info("no --checkpoint given, taking %s", QUICKSTART)
        return QUICKSTART
    raise ValueError(
        "no checkpoint: give --checkpoint, the folder or gs:// address of a run, a .pt file, a "
        "HuggingFace folder or a hub repository such as OFA-Sys/ofa-base; `make quickstart` trains "
        "a small one"
    )


def _best_of_run(folder: str) -> str | None:
    """The checkpoint that a finished fine-tuning run chose by its evaluations."""
    step = best_step(folder)
    if step is None:
        return None
    logger.info("taking the best checkpoint of %s, step %d", folder, step)
    return str(pathlib.Path(folder) / f"checkpoint_{step}")


def trained_lengths(checkpoint: str) -> dict[str, int] | None:
    """TASK_FEATURE_LENGTHS of the run that a checkpoint comes from, or None.

    Args:
      checkpoint: as the user gave it; the folder of a run or a checkpoint in it.
    """
    lengths = _trained_macros(checkpoint).get("TASK_FEATURE_LENGTHS")
    return None if lengths is None else dict(lengths)


def trained_decoder_prompt(checkpoint: str) -> str:
    """What the decoder of a fine-tuned model wants to read first, as its task says.

    Args:
      checkpoint: as the user gave it.

    Returns:
      A decoder prompt as in `Answering`; "none" where no single task is known.
    """
    macros = _trained_macros(checkpoint)
    name, module = macros.get("MIXTURE_OR_TASK_NAME"), macros.get("MIXTURE_OR_TASK_MODULE")
    if name is None or module is None:
        return "none"
    try:
        import_modules((module,) if isinstance(module, str) else tuple(module))
        tasks = lookup(name)
    except (ValueError, ImportError):
        return "none"
    prompts = {task.answering.decoder_prompt for task, _ in tasks}
    return prompts.pop() if len(prompts) == 1 else "none"


def trained_methods(checkpoint: str, config: OFAConfig) -> tuple[str, ...]:
    """The methods of parameter-efficient tuning that made a model, () where all of it was trained.

    Args:
      checkpoint: as the user gave it.
      config: the model; its parts decide where no run is known.
    """
    text = _trained_configuration(checkpoint)
    if text:
        return configured_methods(text)
    tuning = config.tuning
    parts = {
        "prefix": tuning.encoder_prefix or tuning.decoder_prefix,
        "adapter": tuning.adapter_dim,
        "LoRA": tuning.lora_rank,
        # Its file holds only arrays that every model has.
        "BitFit": split_source(checkpoint) is not None and not tuning.is_on,
    }
    return tuple(name for name, is_there in parts.items() if is_there)


def _trained_configuration(checkpoint: str) -> str:
    """`config.gin` of the run that a checkpoint comes from; "" where there is no run."""
    tuned = split_source(checkpoint)
    home = tuned[0] if tuned is not None else pathlib.Path(checkpoint)
    for folder in (home, home.absolute().parent):
        path = folder / "config.gin"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def _trained_macros(checkpoint: str) -> dict[str, Any]:
    """Literal macros of the run that a checkpoint comes from; {} where there is no run."""
    found = {}
    for name, value in _MACRO.findall(_trained_configuration(checkpoint).replace("\\\n", " ")):
        with contextlib.suppress(ValueError, SyntaxError):
            found[name] = ast.literal_eval(value)
    return found


def load_weights(
    checkpoint: str,
    *,
    ema: bool | None = None,
    dtype: str = "",
    settings: Mapping[str, Any] | None,
) -> ImportedCheckpoint:
    """Reads a checkpoint of any kind.

    Args:
      checkpoint: see `import_checkpoint`.
      ema: take the moving average; None = where a run of ours keeps one, as its own scores did.
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
