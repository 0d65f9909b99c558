"""Reading PyTorch `.pt`, `.pth` and `.bin` checkpoints without torch: the start of every import.

`torch_archive` opens the file; this module picks the state dict out of fairseq's layout
(SPEC 2.1) or takes the file as a bare state dict, and collects what the file tells about the
model. Names and shapes are put in order by `repairs` next.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from ofa_jax.atomic import JsonObject
from ofa_jax.checkpoint.task_facts import TaskFacts, task_arguments
from ofa_jax.checkpoint.torch_archive import CheckpointFileError, TorchTensor, read_torch_file
from ofa_jax.restricted_pickle import Inert, plain_fields


class Tensor(Protocol):
    """An array, or what stands for one that still lies in its file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __array__(self) -> np.ndarray: ...


class StateDict(Mapping[str, np.ndarray]):
    """A state dict whose arrays are read from the file when they are asked for.

    Attributes:
      tensors: name -> tensor still in the file (or any array-like with shape and dtype).
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = dict(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return np.asarray(self.tensors[name])
        except CheckpointFileError as error:
            raise CheckpointFileError(f"{error} ({name})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, without reading the arrays."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def dtypes(self) -> dict[str, str]:
        """Name -> dtype name, without reading the arrays."""
        return {name: np.dtype(tensor.dtype).name for name, tensor in self.tensors.items()}


@dataclasses.dataclass(frozen=True)
class TorchCheckpoint:
    """What a `.pt` file holds for us.

    Attributes:
      path: the file.
      state_dict: the weights that were asked for, under their names in the file without those of
        wrapper modules.
      layout: "fairseq" or "state_dict".
      cfg: `cfg` and `args` of the file, those of the two that it has, as plain nested dicts, lists
        and scalars; an `argparse.Namespace` in them is a dict.
      task: what they say about the task.
    """

    path: pathlib.Path
    state_dict: StateDict
    layout: str
    cfg: JsonObject
    task: TaskFacts


# Entries that hold the state dict: fairseq and HuggingFace, Lightning, plain scripts, DeepSpeed.
_NESTS = ("model", "state_dict", "model_state_dict", "module")
# Parts of names that compiling, data parallelism, FSDP and recomputation put in; no tensor of OFA
# or torchvision has one of them.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_WRAPPERS |= {"_forward_module", "module", "model"}


def without_wrappers(tensors: Mapping[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """Takes the names of wrapper modules out of the names of tensors.

    Args:
      tensors: name -> tensor, such as "module._orig_mod.encoder.layer_norm.bias".
      path: of the file, for messages.

    Returns:
      The same tensors under the names that they have in the model itself.

    Raises:
      CheckpointFileError: two tensors get one name.
    """
    given: dict[str, str] = {}
    for name in tensors:
        plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if plain in given:
            raise CheckpointFileError(
                f"{path}: {given[plain]} and {name} are both the {plain} of a model; it holds more "
                "than one model"
            )
        given[plain] = name
    return {plain: tensors[name] for plain, name in given.items()}


def _tensors(value: object, nested: int = 3) -> dict[str, TorchTensor]:
    """The state dict in a mapping, itself or in one of its entries, however they are nested."""
    if not isinstance(value, Mapping):
        return {}
    for key in _NESTS if nested else ():
        if found := _tensors(value.get(key), nested - 1):
            return found
    return {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, TorchTensor)}


def read_torch_checkpoint(path: str | os.PathLike, *, ema: bool | None = False) -> TorchCheckpoint:
    """Finds the weights in a fairseq checkpoint (SPEC 2.1), a state dict, or one that is nested.

    Args:
      path: the `.pt`, `.pth` or `.bin` file.
      ema: take the moving average from `extra_state` instead of `model`; where the float32
        average is stored as well, its tensors come first. None takes it where the official scripts
        evaluate it.

    Returns:
      The weights and what the file tells about the model and its task.

    Raises:
      CheckpointFileError: unreadable file, no state dict in it, or no moving average.
    """
    path = pathlib.Path(path)
    root = read_torch_file(path)
    if not isinstance(root, Mapping):
        content = root.path if isinstance(root, Inert) else type(root).__name__
        raise CheckpointFileError(
            f"{path}: holds a {content}, not a state dict (was a whole model object saved?)"
        )
    wrapped = next((k for k in _NESTS if k in root), None)
    if wrapped and isinstance(root[wrapped], Inert):
        raise CheckpointFileError(
            f"{path}: its {wrapped!r} is an object of {root[wrapped].path}, not a dict of tensors; "
            "nothing of it was run"
        )
    extra = root.get("extra_state")
    extra = extra if isinstance(extra, Mapping) else {}
    average = _tensors(extra.get("ema")) | _tensors(extra.get("ema_fp32_params"))
    plain = {name: plain_fields(root.get(name)) for name in ("cfg", "args")}
    cfg = {name: fields for name, fields in plain.items() if isinstance(fields, dict)}
    task = TaskFacts.from_arguments(task_arguments(cfg), has_ema=bool(average))
    if ema is None:
        ema = task.is_evaluated_by_average
    if ema and not average:
        raise CheckpointFileError(
            f"{path}: has no moving average (extra_state['ema']); it was trained without "
            "--store-ema. Import the plain weights instead"
        )
    tensors = without_wrappers(average if ema else _tensors(root), path)
    if not tensors:
        keys = ", ".join(sorted(map(str, root))[:8])
        raise CheckpointFileError(f"{path}: no tensors by name in it (top-level keys: {keys})")
    layout = "fairseq" if wrapped == "model" else "state_dict"
    task = dataclasses.replace(task, is_ema=ema)
    return TorchCheckpoint(path, StateDict(tensors), layout, cfg, task)
