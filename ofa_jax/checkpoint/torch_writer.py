"""Writing `.pt` files that real torch loads, without torch: the end of every export.

The pickle is written opcode by opcode (protocol 2), because its tensors must name functions of
torch that are not installed here. `write_torch_file` takes nested plain containers with arrays as
leaves; `write_fairseq_checkpoint` puts a state dict into fairseq's layout (SPEC 2.1). Both
formats of `torch_archive` can be written: zip (the default) and the one before torch 1.6.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import BinaryIO, TypeGuard

import numpy as np

from ofa_jax.atomic import replacing
from ofa_jax.checkpoint.torch_archive import (
    LEGACY_MAGIC_NUMBER,
    LEGACY_PROTOCOL_VERSION,
    STORAGE_DTYPES,
)
from ofa_jax.checkpoint.torch_reader import Tensor

_STORAGE_CLASSES = {
    dtype: name for name, dtype in STORAGE_DTYPES.items() if name != "UntypedStorage"
}
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is a strided window into a storage which others may share.

    Attributes:
      storage: flat array of the whole storage.
      shape: sizes.
      strides: distance in elements between neighbors, per axis.
      offset: first element within the storage.
      is_parameter: write it as an `nn.Parameter`.
    """

    storage: Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    is_parameter: bool = False


def _is_array(value: object) -> TypeGuard[Tensor]:
    return hasattr(value, "__array__") and hasattr(value, "shape") and hasattr(value, "dtype")


class _PickleEmitter:
    """Collects the opcodes of one object and the storages that its tensors use."""

    def __init__(self, legacy: bool):
        self.legacy = legacy
        self.parts: list[bytes] = [pickle.PROTO + b"\x02"]
        self.storages: dict[str, Tensor] = {}
        self._keys: dict[int, str] = {}

    def finish(self, value: object) -> bytes:
        """The whole pickle of `value`."""
        self.emit(value)
        self.parts.append(pickle.STOP)
        return b"".join(self.parts)

    def emit(self, value: object) -> None:
        """Appends the opcodes that build `value`.

        Raises:
          TypeError: `value` is no container, scalar or array that a checkpoint may hold.
        """
        out = self.parts.append
        if value is None:
            out(pickle.NONE)
        elif isinstance(value, (bool, np.bool_)):
            out(pickle.NEWTRUE if value else pickle.NEWFALSE)
        elif isinstance(value, str):
            text = value.encode("utf-8", "surrogatepass")
            out(pickle.BINUNICODE + struct.pack("<I", len(text)) + text)
        elif isinstance(value, StoredTensor):
            self._emit_tensor(value)
        elif isinstance(value, (int, np.integer)):
            self._emit_int(int(value))
        elif isinstance(value, (float, np.floating)):
            out(pickle.BINFLOAT + struct.pack(">d", float(value)))
        elif _is_array(value):
            self._emit_array(value)
        elif isinstance(value, collections.OrderedDict):
            self._emit_global("collections", "OrderedDict")
            out(pickle.EMPTY_TUPLE + pickle.REDUCE)
            self._emit_items(value)
        elif isinstance(value, Mapping):
            out(pickle.EMPTY_DICT)
            self._emit_items(value)
        elif isinstance(value, tuple):
            out(pickle.MARK)
            for item in value:
                self.emit(item)
            out(pickle.TUPLE)
        elif isinstance(value, list):
            out(pickle.EMPTY_LIST + pickle.MARK)
            for item in value:
                self.emit(item)
            out(pickle.APPENDS)
        else:
            raise TypeError(
                f"a checkpoint holds containers, numbers, strings and arrays, not {type(value)}"
            )

    def _emit_items(self, value: Mapping) -> None:
        self.parts.append(pickle.MARK)
        for key, item in value.items():
            self.emit(key)
            self.emit(item)
        self.parts.append(pickle.SETITEMS)

    def _emit_int(self, value: int) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self.parts.append(pickle.BININT + struct.pack("<i", value))
            return
        data = pickle.encode_long(value)
        if len(data) > 255:
            raise TypeError("a checkpoint holds integers of at most 255 bytes")
        self.parts.append(pickle.LONG1 + bytes([len(data)]) + data)

    def _emit_global(self, module: str, name: str) -> None:
        self.parts.append(pickle.GLOBAL + f"{module}\n{name}\n".encode("ascii"))

    def _emit_array(self, array: Tensor) -> None:
        shape = tuple(int(n) for n in array.shape)
        strides: list[int] = []
        step = 1
        for length in reversed(shape):
            strides.insert(0, step)
            step *= max(length, 1)
        self._emit_tensor(StoredTensor(array, shape, tuple(strides)))

    def _emit_tensor(self, tensor: StoredTensor) -> None:
        out = self.parts.append
        dtype = np.dtype(tensor.storage.dtype).name
        if dtype not in _STORAGE_CLASSES:
            raise TypeError(f"torch has no storage for dtype {dtype}")
        if tensor.is_parameter:
            self._emit_global("torch._utils", "_rebuild_parameter")
            out(pickle.MARK)
        self._emit_global("torch._utils", "_rebuild_tensor_v2")
        out(pickle.MARK)
        # The persistent id of the storage.
        out(pickle.MARK)
        self.emit("storage")
        self._emit_global("torch", _STORAGE_CLASSES[dtype])
        self.emit(self._storage_key(tensor.storage))
        self.emit("cpu")
        self.emit(int(np.prod(tensor.storage.shape, dtype=np.int64)))
        if self.legacy:
            self.emit(None)  # no view of another storage
        out(pickle.TUPLE + pickle.BINPERSID)
        self.emit(tensor.offset)
        self.emit(tuple(tensor.shape))
        self.emit(tuple(tensor.strides))
        self.emit(False)
        self.emit(collections.OrderedDict())
        out(pickle.TUPLE + pickle.REDUCE)
        if tensor.is_parameter:
            self.emit(True)
            self.emit(collections.OrderedDict())
            out(pickle.TUPLE + pickle.REDUCE)

    def _storage_key(self, storage: Tensor) -> str:
        # One object = one storage, so tied weights are written once.
        if id(storage) not in self._keys:
            key = str(len(self._keys))
            self._keys[id(storage)] = key
            self.storages[key] = storage
        return self._keys[id(storage)]


def _raw_bytes(storage: Tensor) -> memoryview:
    values = np.ascontiguousarray(np.asarray(storage)).reshape(-1)
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    return values.view(np.uint8).data


def _write_zip(stream: BinaryIO, value: object, prefix: str) -> None:
    emitter = _PickleEmitter(legacy=False)
    data = emitter.finish(value)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

        def add(name: str, content: Callable[[], bytes | memoryview]) -> None:
            info = zipfile.ZipInfo(f"{prefix}/{name}", (1980, 1, 1, 0, 0, 0))
            payload = content()
            info.file_size = len(payload)
            # torch pads the local header, so that the data can be mapped at aligned addresses.
            start = stream.tell() + 30 + len(info.filename.encode("utf-8")) + 4
            padding = -start % _ALIGNMENT
            info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            with archive.open(info, "w") as member:
                member.write(payload)

        add("data.pkl", lambda: data)
        add("byteorder", lambda: b"little")
        for key, storage in emitter.storages.items():
            add(f"data/{key}", lambda storage=storage: _raw_bytes(storage))
        add("version", lambda: b"3\n")


def _write_legacy(stream: BinaryIO, value: object) -> None:
    emitter = _PickleEmitter(legacy=True)
    data = emitter.finish(value)
    sizes = {"short": 2, "int": 4, "long": 8}
    system = {
        "protocol_version": LEGACY_PROTOCOL_VERSION,
        "little_endian": True,
        "type_sizes": sizes,
    }
    for header in (LEGACY_MAGIC_NUMBER, LEGACY_PROTOCOL_VERSION, system):
        stream.write(pickle.dumps(header, protocol=2))
    stream.write(data)
    stream.write(pickle.dumps(list(emitter.storages), protocol=2))
    for storage in emitter.storages.values():
        raw = _raw_bytes(storage)
        stream.write(struct.pack("<q", len(raw) // np.dtype(storage.dtype).itemsize))
        stream.write(raw)


def write_torch_file(path: str | os.PathLike, value: object, *, legacy: bool = False) -> None:
    """Writes what `torch.load` reads (also with `weights_only=True`).

    Args:
      path: target file; replaced at once when the new one is complete.
      value: nested dicts, lists and tuples of scalars, strings, None, arrays (anything with
        shape, dtype and `__array__`, read one at a time) and `StoredTensor`s. The same array
        object twice becomes one shared storage.
      legacy: write the format of torch before 1.6.

    Raises:
      TypeError: something in `value` has no place in a checkpoint.
    """
    path = pathlib.Path(path)
    with replacing(path) as unfinished, unfinished.open("wb") as stream:
        if legacy:
            _write_legacy(stream, value)
        else:
            _write_zip(stream, value, prefix=path.stem or "archive")


def write_fairseq_checkpoint(
    path: str | os.PathLike,
    state_dict: Mapping[str, Tensor],
    *,
    cfg: Mapping[str, object] | None = None,
    ema: Mapping[str, object] | None = None,
    legacy: bool = False,
) -> None:
    """Writes a state dict in fairseq's layout (SPEC 2.1).

    The optimizer state is left out, as in the released files: fairseq then needs
    `--reset-optimizer`.

    Args:
      path: target `.pt` file.
      state_dict: official name -> array; entries that are the same object share one storage.
      cfg: nested plain configuration with the sections "model", "task" and so on.
      ema: moving average of the same names, or None.
      legacy: write the format of torch before 1.6.
    """
    extra_state: dict[str, object] = {
        "epoch": 0,
        "train_iterator": {"epoch": 1, "iterations_in_epoch": 0},
        "val_loss": None,
    }
    if ema is not None:
        extra_state["ema"] = collections.OrderedDict(ema)
    history = {
        "criterion_name": "AdjustLabelSmoothedCrossEntropyCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {"best": None},
        "num_updates": 0,
    }
    checkpoint = {
        "args": None,
        "cfg": dict(cfg) if cfg is not None else None,
        "model": collections.OrderedDict(state_dict.items()),
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": extra_state,
        "last_optimizer_state": None,
    }
    write_torch_file(path, checkpoint, legacy=legacy)
