"""The two file formats of `torch.save`, opened without torch.

A `.pt` file is a pickle plus raw storages: since torch 1.6 members of an uncompressed zip
archive, before that appended to one stream. Both are memory-mapped, so tensors are views that
cost nothing until they are read, one at a time; the pickle goes through `restricted_pickle` and
runs no code. `torch_reader` finds the weights in what this module returns.
"""

from __future__ import annotations

import dataclasses
import io
import math
import mmap
import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Literal

import ml_dtypes
import numpy as np

from ofa_jax.restricted_pickle import (
    UnsafePickleError,
    load_restricted,
    pickle_length,
)
from ofa_jax.schema import shown

LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL_VERSION = 1001
# More elements than this are not made of a storage with fewer of them (stride 0): small buffers are
# saved so, weights are not.
_MAX_REPEATED = 1 << 12
_MOST_AXES = 64
_MOST_DEFLATED = 16
# Bytes of the largest pickle that describes tensors; that of the largest OFA has 0.4 million.
_LARGEST_PICKLE = 1 << 23

# torch's storage class -> our name of the element type.
STORAGE_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
# torch's dtype object -> our name; files name them where a storage is untyped.
_TORCH_DTYPES = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    **{
        name: name
        for name in (
            *("float32", "float64", "float16", "bfloat16"),
            *("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool"),
            *("complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
        )
    },
}


class CheckpointFileError(ValueError):
    """A checkpoint file cannot be read; the message names the file and the likely cause."""


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of a name such as "float16" or "bfloat16" (ml_dtypes' extension types)."""
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(getattr(ml_dtypes, name))


class _Storage:
    """One run of raw bytes in the file, found when a tensor is first read."""

    def __init__(self, archive: _Archive, key: str, dtype: str, count: int):
        self.archive = archive
        self.key = key
        self.dtype = dtype
        self.count = count

    def __setstate__(self, state) -> None:
        raise UnsafePickleError("the pickle tries to change a storage")

    def flat(self, dtype: str) -> np.ndarray:
        """The whole storage as a read-only array [count of elements]."""
        items = numpy_dtype(dtype)
        raw = self.archive.storage_bytes(self.key, self.count * numpy_dtype(self.dtype).itemsize)
        if raw.nbytes % items.itemsize:
            raise CheckpointFileError(
                f"{self.archive.path}: storage {self.key} is no whole number of {dtype} elements"
            )
        values = raw.view(items.newbyteorder(self.archive.byte_order))
        return values if values.dtype.isnative else values.astype(items)


@dataclasses.dataclass(frozen=True, eq=False)
class TorchTensor:
    """A tensor that still lies in its file. `numpy()` or `np.asarray` reads it.

    Attributes:
      shape: sizes.
      dtype: numpy dtype of the stored elements.
      offset: first element within the storage.
      strides: distance in elements between neighbors, per axis.
      is_parameter: whether torch saved it as an `nn.Parameter`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    strides: tuple[int, ...]
    storage: _Storage = dataclasses.field(repr=False)
    is_parameter: bool = False

    def __setstate__(self, state) -> None:
        raise UnsafePickleError("the pickle tries to change a tensor")

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def shares_storage_with(self, other: TorchTensor) -> bool:
        """Whether both are the same elements of the same storage, as tied weights are."""
        same_place = (self.offset, self.shape, self.strides) == (
            other.offset,
            other.shape,
            other.strides,
        )
        same_storage = self.storage.archive is other.storage.archive and (
            self.storage.key == other.storage.key
        )
        return same_place and same_storage

    def numpy(self) -> np.ndarray:
        """Reads the tensor as a read-only array; a view of the file where that is possible."""
        flat = self.storage.flat(self.dtype.name)
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        if math.prod(self.shape) > max(flat.size, _MAX_REPEATED):
            raise CheckpointFileError(
                f"{self.storage.archive.path}: a tensor of shape {self.shape} has "
                f"{math.prod(self.shape):,} elements, its storage {self.storage.key} only "
                f"{flat.size:,}; no weights are stored so, the file is damaged"
            )
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        if last >= flat.size:
            raise CheckpointFileError(
                f"{self.storage.archive.path}: a tensor of shape {self.shape} needs element {last} "
                f"of storage {self.storage.key}, which has {flat.size}; the file is damaged"
            )
        step = flat.dtype.itemsize
        return np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, [s * step for s in self.strides], writeable=False
        )

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        values = self.numpy()
        if dtype is not None and np.dtype(dtype) != values.dtype:
            return values.astype(dtype)
        return values.copy() if copy else values


def _rebuild_tensor(storage, offset, size, stride, *_unused, dtype: str | None = None):
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or not len(size) == len(stride) <= _MOST_AXES:
        raise UnsafePickleError("a tensor without a proper storage, shape and strides")
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
        raise UnsafePickleError("a tensor whose shape, strides or offset are not counts")
    # torch also writes strides for axes of length 1 or 0, where they mean nothing.
    name = dtype or storage.dtype
    return TorchTensor(tuple(size), numpy_dtype(name), offset, tuple(stride), storage)


def _rebuild_tensor_v3(storage, offset, size, stride, _grad, _hooks, dtype, *_unused):
    return _rebuild_tensor(storage, offset, size, stride, dtype=dtype)


def _rebuild_parameter(data, *_unused):
    if not isinstance(data, TorchTensor):
        return data
    return dataclasses.replace(data, is_parameter=True)


def _rebuild_from_type(function, _cls, arguments, _state):
    return function(*arguments)


_ALLOWED = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch", "Size"): tuple,
    ("torch.storage", "UntypedStorage"): "uint8",
    **{
        (module, name): dtype
        for name, dtype in STORAGE_DTYPES.items()
        for module in ("torch", "torch.cuda", "torch.storage")
    },
    **{("torch", name): dtype for name, dtype in _TORCH_DTYPES.items()},
}


class _Archive:
    """A mapped file; subclasses know where each storage lies in it."""

    def __init__(self, path: pathlib.Path, data: mmap.mmap):
        self.path = path
        self.data = data
        self.byte_order: Literal["<", ">"] = "<"

    def root(self) -> object:
        """The unpickled object, tensors still in the file."""
        raise NotImplementedError

    def storage_bytes(self, key: str, size: int) -> np.ndarray:
        """uint8[size], read-only: the raw bytes of one storage."""
        raise NotImplementedError

    def mapped(self, start: int, size: int, what: str) -> np.ndarray:
        """uint8[size]: a read-only piece of the file."""
        if start < 0:
            raise CheckpointFileError(f"{self.path}: {what} lies before the file; it is damaged")
        if start + size > len(self.data):
            raise CheckpointFileError(
                f"{self.path}: {what} should reach byte {start + size}, but the file has "
                f"{len(self.data)}; it is cut off, most likely by an interrupted download or copy"
            )
        return np.frombuffer(self.data, np.uint8, size, start)

    def storage(self, pid: object) -> object:
        """Answers a persistent id of the pickle."""
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module":
            return pid[1]
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise UnsafePickleError(f"unknown kind of persistent id {shown(pid)}")
        _, dtype, key, _location, count = pid[:5]
        if not isinstance(dtype, str):
            name = getattr(dtype, "path", dtype)
            raise UnsafePickleError(f"tensors of storage class {shown(name)} are not supported")
        if not isinstance(key, str | int):
            raise UnsafePickleError(f"a storage is called {shown(key)}")
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise UnsafePickleError(f"storage {key} has {shown(count)} elements")
        if len(pid) > 5 and pid[5] is not None:
            raise UnsafePickleError("storage views (torch before 0.4) are not supported")
        return _Storage(self, str(key), dtype, count)


class _ZipArchive(_Archive):
    def __init__(self, path: pathlib.Path, data: mmap.mmap):
        super().__init__(path, data)
        try:
            self.zip = zipfile.ZipFile(path)
        except Exception as error:
            # A damaged directory fails in many ways (BadZipFile, struct.error, text encoding).
            raise CheckpointFileError(
                f"{path}: starts like a torch zip archive, but its directory at the end cannot be "
                f"read ({error}); the file is cut off, most likely by an interrupted download or "
                "copy"
            ) from error
        names = [n for n in self.zip.namelist() if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(names) != 1:
            raise CheckpointFileError(
                f"{path}: a zip archive, but not a torch checkpoint (it has {len(names)} members "
                "called data.pkl, expected 1)"
            )
        self.prefix = names[0].removesuffix("data.pkl")
        if f"{self.prefix}constants.pkl" in self.zip.NameToInfo:
            raise CheckpointFileError(
                f"{path}: a TorchScript program, not a checkpoint; save its state_dict() instead"
            )
        if f"{self.prefix}byteorder" in self.zip.NameToInfo:
            order = bytes(self.member("byteorder")[:8])
            self.byte_order = ">" if order.strip() == b"big" else "<"

    def member(self, name: str, size: int | None = None) -> np.ndarray:
        """uint8[size]: one member of the archive, mapped where it is stored uncompressed."""
        name = self.prefix + name
        info = self.zip.NameToInfo.get(name)
        if info is None:
            raise CheckpointFileError(f"{self.path}: the archive lacks its member {name}")
        if size is None:
            size = info.file_size
        if info.file_size < size:
            raise CheckpointFileError(
                f"{self.path}: {name} has {info.file_size} bytes, its tensor needs {size}"
            )
        if name.endswith("data.pkl") and size > _LARGEST_PICKLE:
            raise CheckpointFileError(
                f"{self.path}: {name} has {size:,} bytes; at most {_LARGEST_PICKLE:,} are read"
            )
        if info.compress_type != zipfile.ZIP_STORED:
            # torch never compresses; packers do, but weights hardly get smaller.
            if size > _MOST_DEFLATED * len(self.data):
                raise CheckpointFileError(
                    f"{self.path}: {name} claims to unpack to {size:,} bytes, more than "
                    f"{_MOST_DEFLATED} times the file"
                )
            try:
                with self.zip.open(info) as stream:
                    return np.frombuffer(stream.read(size), np.uint8)
            except Exception as error:
                raise CheckpointFileError(f"{self.path}: {name} is damaged ({error})") from error
        header = bytes(self.mapped(info.header_offset, 30, f"the header of {name}"))
        if header[:4] != b"PK\x03\x04":
            raise CheckpointFileError(f"{self.path}: {name} is not where the directory says")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        return self.mapped(info.header_offset + 30 + name_length + extra_length, size, name)

    def root(self) -> object:
        return load_restricted(self.member("data.pkl").tobytes(), _ALLOWED, self.storage)

    def storage_bytes(self, key: str, size: int) -> np.ndarray:
        return self.member(f"data/{key}", size)


class _LegacyArchive(_Archive):
    def __init__(self, path: pathlib.Path, data: mmap.mmap):
        super().__init__(path, data)
        self.places: dict[str, tuple[int, int]] = {}
        self.sizes: dict[str, int] = {}

    def storage(self, pid: object) -> object:
        found = super().storage(pid)
        if isinstance(found, _Storage):
            self.sizes[found.key] = numpy_dtype(found.dtype).itemsize
        return found

    def next_pickle(self) -> bytes:
        start = self.data.tell()
        length = pickle_length(self.data)
        return self.data[start : start + length]

    def root(self) -> object:
        self.data.seek(0)
        load_restricted(self.next_pickle())
        version = load_restricted(self.next_pickle())
        if version != LEGACY_PROTOCOL_VERSION:
            raise UnsafePickleError(f"torch file protocol {shown(version)}, expected 1001")
        system = load_restricted(self.next_pickle())
        if isinstance(system, Mapping) and system.get("little_endian") is False:
            self.byte_order = ">"
        root = load_restricted(self.next_pickle(), _ALLOWED, self.storage)
        keys = load_restricted(self.next_pickle())
        if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
            raise UnsafePickleError("the list of storages is missing")
        place = self.data.tell()
        for key in map(str, keys):
            if key not in self.sizes:
                raise UnsafePickleError(f"storage {key} is listed but no tensor uses it")
            count = int(self.mapped(place, 8, f"storage {key}").view(f"{self.byte_order}i8")[0])
            if count < 0:
                raise UnsafePickleError(f"storage {key} has {count} elements")
            size = count * self.sizes[key]
            self.mapped(place + 8, size, f"storage {key}")
            self.places[key] = (place + 8, size)
            place += 8 + size
        return root

    def storage_bytes(self, key: str, size: int) -> np.ndarray:
        start, stored = self.places.get(key, (0, -1))
        if stored < size:
            raise CheckpointFileError(
                f"{self.path}: storage {key} has {max(stored, 0)} bytes, its tensor needs {size}"
            )
        return self.mapped(start, size, f"storage {key}")


_FOREIGN_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
    (b"<!DOCTYPE", "a web page: the download link returned HTML"),
    (b"<!doctype", "a web page: the download link returned HTML"),
    (b"<html", "a web page: the download link returned HTML"),
    (b"<?xml", "an XML answer of a download server, most likely an error message"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array file"),
    (b"{", "a JSON text"),
)


def _open_archive(path: pathlib.Path) -> _Archive:
    size = path.stat().st_size
    if size == 0:
        raise CheckpointFileError(f"{path}: the file is empty; the download or copy failed")
    with path.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    head = data[:512]
    if head.startswith(b"PK\x03\x04"):
        return _ZipArchive(path, data)
    for beginning, what in _FOREIGN_BEGINNINGS:
        if head.startswith(beginning):
            raise CheckpointFileError(f"{path}: not a torch checkpoint but {what}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < max(size, 1 << 27):
        raise CheckpointFileError(
            f"{path}: a safetensors file; name it .safetensors or give its directory"
        )
    if head[257:262] == b"ustar":
        raise CheckpointFileError(f"{path}: a tar archive (unpack it, or torch before 0.1.10)")
    cut = "not a torch checkpoint, or cut off after a few bytes"
    if not head.startswith(b"\x80"):
        raise CheckpointFileError(f"{path}: {cut} (it begins with {bytes(head[:8])!r})")
    try:
        magic = load_restricted(head[: pickle_length(io.BytesIO(head))])
    except UnsafePickleError:
        magic = None
    if not isinstance(magic, int) or magic != LEGACY_MAGIC_NUMBER:
        raise CheckpointFileError(f"{path}: {cut} (a pickle that torch did not write)")
    return _LegacyArchive(path, data)


def read_torch_file(path: str | os.PathLike) -> object:
    """Reads what `torch.save` wrote, without torch and without running code from the file.

    Args:
      path: a `.pt`, `.pth` or `.bin` file, zip or legacy format. It must not change while its
        tensors are in use, since they are views of it.

    Returns:
      The saved object: plain containers, `TorchTensor` leaves, `Inert` placeholders.

    Raises:
      FileNotFoundError: there is no such file.
      CheckpointFileError: the file is empty, cut off, foreign or damaged.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    try:
        return _open_archive(path).root()
    except UnsafePickleError as error:
        raise CheckpointFileError(
            f"{path}: {error}; the file is cut off, damaged or not a checkpoint"
        ) from error
