"""Directories and hub repositories in HuggingFace's format (SPEC 2.5).

A directory holds config.json, weights as model.safetensors or pytorch_model.bin (in one file or in
shards with an index) and vocabulary files. Reading gives the official names, so the rest of the
import is the same as for fairseq files; no torch and no transformers are needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from ofa_jax import schema
from ofa_jax.atomic import replacing
from ofa_jax.checkpoint.huggingface_names import (
    CONFIG_FIELDS,
    INFERABLE_FIELDS,
    config_from_huggingface,
    config_to_huggingface,
    from_huggingface_name,
    task_from_huggingface,
    to_huggingface_name,
)
from ofa_jax.checkpoint.layout import POSITION_INDEX, config_from_state_dict
from ofa_jax.checkpoint.repairs import CheckpointMismatchError
from ofa_jax.checkpoint.task_facts import TaskFacts
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.checkpoint.torch_reader import (
    StateDict,
    Tensor,
    read_torch_checkpoint,
    without_wrappers,
)
from ofa_jax.checkpoint.torch_writer import write_torch_file
from ofa_jax.model.config import OFAConfig
from ofa_jax.text.gpt2_bpe import FAIRSEQ_FILES
from ofa_jax.text.tokenizer import load_tokenizer

CONFIG_FILE = "config.json"
SAFETENSORS_FILE = "model.safetensors"
TORCH_FILE = "pytorch_model.bin"
# Most trustworthy first: safetensors cannot carry code and maps without unpickling.
_WEIGHT_FILES = (SAFETENSORS_FILE, f"{SAFETENSORS_FILE}.index.json", TORCH_FILE)
_WEIGHT_FILES += (f"{TORCH_FILE}.index.json",)
VOCABULARY_FILES = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "encoder.json",
    "vocab.bpe",
    "dict.txt",
    # Saved by our own tokenizers.
    "trained_bpe.json",
    "vocab_layout.json",
)
_TOKENIZER_SETTINGS = ("added_tokens.json", "tokenizer_config.json")
_REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What ends like this is a file; a dot alone is not enough, since names have versions.
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".json", ".txt", ".gin", ".tar")
_NEIGHBORS = 3


class _SafeTensor:
    """One tensor of a safetensors file, read when it is asked for."""

    _DTYPES = {  # noqa: RUF012 - constant
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U8": "uint8",
        "BOOL": "bool",
    }

    def __init__(self, handle: Any, path: pathlib.Path, name: str):
        piece = handle.get_slice(name)
        dtype = piece.get_dtype()
        if dtype not in self._DTYPES:
            raise CheckpointFileError(f"{path}: {name} has the unsupported dtype {dtype}")
        dtype = self._DTYPES[dtype]
        self._handle, self._name = handle, name
        self.shape = tuple(piece.get_shape())
        self.dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy  # always a fresh array
        values = self._handle.get_tensor(self._name)
        return values if dtype is None else values.astype(dtype)


def read_safetensors(path: str | os.PathLike) -> StateDict:
    """Reads a safetensors file, tensors one at a time.

    Returns:
      Tensors under their names in the file without those of wrapper modules.

    Raises:
      FileNotFoundError: there is no such file.
      CheckpointFileError: it is cut off or no safetensors file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    try:
        handle = safetensors.safe_open(path, "numpy")
        tensors = {name: _SafeTensor(handle, path, name) for name in handle.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointFileError(
            f"{path}: not a whole safetensors file ({error}); most likely an interrupted download, "
            "or a Git LFS pointer that was never fetched"
        ) from error
    return StateDict(without_wrappers(tensors, path))


def _read_one(path: pathlib.Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path).tensors
    return read_torch_checkpoint(path).state_dict.tensors


@dataclasses.dataclass(frozen=True)
class _Index:
    """The fields of an index of shards: name of a tensor to the file that has it."""

    weight_map: Annotated[Mapping[str, str], schema.Between(1, 1 << 20)]


def _read_weights(directory: pathlib.Path) -> StateDict:
    found = next((directory / name for name in _WEIGHT_FILES if (directory / name).is_file()), None)
    if found is None:
        raise CheckpointFileError(
            f"{directory}: no weights in this directory (looked for {', '.join(_WEIGHT_FILES)})"
        )
    if found.suffix != ".json":
        return StateDict(_read_one(found))
    content = schema.read_json(found, CheckpointFileError, expected=dict)
    index = schema.build(_Index, content, found, CheckpointFileError, unknown="ignore").weight_map
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(index.values())):
        path = directory / shard
        if path.parent != directory or not path.is_file():
            raise CheckpointFileError(f"{found}: names the shard {shard!r}, which is not there")
        tensors.update(_read_one(path))
    missing = [name for name in without_wrappers(index, found) if name not in tensors]
    if missing:
        raise CheckpointFileError(
            f"{found}: {len(missing)} tensors such as {missing[0]} are in no shard"
        )
    return StateDict(tensors)


@dataclasses.dataclass(frozen=True)
class HuggingFaceCheckpoint:
    """A directory in HuggingFace's format.

    Attributes:
      directory: where it lies.
      state_dict: official names; arrays are read when they are asked for.
      config: from config.json, checked against the weights; from the weights where it is absent.
      vocabulary_files: vocabulary files found in the directory.
      task: what is known about its task, where the directory is an export of ours.
    """

    directory: pathlib.Path
    state_dict: StateDict
    config: OFAConfig
    vocabulary_files: tuple[pathlib.Path, ...]
    task: TaskFacts = dataclasses.field(default_factory=TaskFacts)


def read_huggingface_directory(directory: str | os.PathLike) -> HuggingFaceCheckpoint:
    """Reads config.json, weights and the list of vocabulary files.

    Args:
      directory: a local directory.

    Returns:
      The checkpoint in official names.

    Raises:
      CheckpointFileError: no weights, or unreadable files.
      CheckpointMismatchError: config.json and weights contradict each other.
      ValueError: config.json describes a model that does not exist here.
    """
    directory = pathlib.Path(directory)
    weights = _read_weights(directory)
    tensors = {from_huggingface_name(name): t for name, t in weights.tensors.items()}
    state_dict = StateDict(tensors)
    task = TaskFacts()
    if (directory / CONFIG_FILE).is_file():
        path = directory / CONFIG_FILE
        fields = schema.read_json(path, CheckpointFileError, expected=dict)
        task = task_from_huggingface(fields, path)
        config = config_from_huggingface(fields, path)
        seen = config_from_state_dict(state_dict.shapes(), fields)
        for ours in INFERABLE_FIELDS:
            said, true = getattr(config, ours), getattr(seen, ours)
            theirs = CONFIG_FIELDS.get(ours, ("resnet_type",))[0]
            if said != true:
                true = seen.ffn_dim if true is None else true
                raise CheckpointMismatchError(
                    f"{directory}: config.json says {theirs} = {fields.get(theirs, said)!r}, but "
                    f"the weights have {true!r}; they belong to different models"
                )
    else:
        config = config_from_state_dict(state_dict.shapes())
    vocabulary = tuple(
        directory / name for name in VOCABULARY_FILES if (directory / name).is_file()
    )
    return HuggingFaceCheckpoint(directory, state_dict, config, vocabulary, task)


def copy_vocabulary(files: Iterable[str | os.PathLike], directory: str | os.PathLike) -> None:
    """Copies vocabulary files into a directory, which is created where missing.

    Args:
      files: paths of existing files.
      directory: target.

    Raises:
      FileNotFoundError: one of the files is missing; nothing is copied then.
    """
    paths, directory = [pathlib.Path(path) for path in files], pathlib.Path(directory)
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such vocabulary file")
    directory.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.resolve() != (directory / path.name).resolve():
            shutil.copyfile(path, directory / path.name)


def _write_vocabulary(
    files: Iterable[str | os.PathLike], directory: pathlib.Path, max_positions: int
) -> None:
    """Vocabulary files in HuggingFace's layout, where there is one for them; else as they are."""
    with tempfile.TemporaryDirectory() as temporary:
        found = pathlib.Path(temporary)
        copy_vocabulary(files, found)
        written: dict[str, str] = {}
        # Without the rest of its set, a file is copied.
        with contextlib.suppress(FileNotFoundError):
            written = load_tokenizer(found).huggingface_files(max_positions)
        for name, content in written.items():
            # What another directory of HuggingFace's says about its tokenizer stays.
            if name not in _TOKENIZER_SETTINGS or not (found / name).exists():
                (found / name).write_text(content, encoding="utf-8")
        for name in FAIRSEQ_FILES if written else ():
            (found / name).unlink(missing_ok=True)
        copy_vocabulary(found.iterdir(), directory)


def write_huggingface_directory(
    directory: str | os.PathLike,
    state_dict: Mapping[str, Tensor],
    config: OFAConfig,
    *,
    weights: Iterable[str] = (SAFETENSORS_FILE, TORCH_FILE),
    vocabulary_files: Iterable[str | os.PathLike] = (),
    task: TaskFacts | None = None,
) -> None:
    """Writes a directory that HuggingFace's OFA classes and `read_huggingface_directory` read.

    Args:
      directory: target; created where missing.
      state_dict: official names -> array-likes. `*.version` entries are left out.
      weights: which weight files to write, of "model.safetensors" and "pytorch_model.bin". Tied
        embeddings share one storage in the latter and are repeated in the former.
      vocabulary_files: go into the directory, in HuggingFace's layout: `vocab.json` and
        `merges.txt` instead of fairseq's files, `vocab.txt` with the specials in front.
      task: what is known about the task, for `read_huggingface_directory`.

    Raises:
      ValueError: an unknown weight file, or a damaged vocabulary.
      FileNotFoundError: a vocabulary file is missing.
    """
    directory = pathlib.Path(directory)
    weights = tuple(weights)
    if unknown := set(weights) - {SAFETENSORS_FILE, TORCH_FILE}:
        raise ValueError(f"weights may name {SAFETENSORS_FILE} and {TORCH_FILE}, not {unknown}")
    _write_vocabulary(vocabulary_files, directory, config.max_positions)
    source = getattr(state_dict, "tensors", state_dict)
    renamed = {
        to_huggingface_name(name): tensor
        for name, tensor in source.items()
        if not name.endswith(".version")
    }
    if (index := renamed.get(POSITION_INDEX)) is not None:
        # HuggingFace's class has one filler less behind the window, and loads no other length.
        renamed[POSITION_INDEX] = np.asarray(index)[:-1]
    if TORCH_FILE in weights:
        write_torch_file(directory / TORCH_FILE, renamed)
    if SAFETENSORS_FILE in weights:
        arrays = {name: np.ascontiguousarray(np.asarray(t)) for name, t in renamed.items()}
        # Scalars: ascontiguousarray makes them vectors of one entry.
        arrays = {name: a.reshape(renamed[name].shape) for name, a in arrays.items()}
        with replacing(directory / SAFETENSORS_FILE) as unfinished:
            # The library writes files that only their owner may read; new ones have the user's.
            unfinished.touch()
            mode = unfinished.stat().st_mode
            safetensors.numpy.save_file(arrays, unfinished, metadata={"format": "pt"})
            unfinished.chmod(mode)
    text = json.dumps(config_to_huggingface(config, task), indent=2, sort_keys=True)
    (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def is_repository_id(source: str) -> bool:
    """Whether a string is "owner/name" of the hub.

    A mistyped path is none: there is no local directory of the owner's name, and the name does not
    end like that of a file.
    """
    return _looks_like_repository(source) and not pathlib.Path(source).parent.exists()


def _looks_like_repository(source: str) -> bool:
    return bool(_REPOSITORY_ID.fullmatch(source)) and not source.endswith(_FILE_SUFFIXES)


def no_such_path(source: str | os.PathLike) -> FileNotFoundError:
    """The error for a path that is not there: names what is, nearest first.

    Args:
      source: the path as the user gave it.
    """
    home, below = pathlib.Path(source), ""
    while not home.is_dir() and home != home.parent:
        home, below = home.parent, home.name
    names = sorted(child.name for child in home.iterdir()) if home.is_dir() else []
    near = difflib.get_close_matches(below, names, n=_NEIGHBORS, cutoff=0.5)
    shown = ", ".join(str(home / name) for name in near or names[:_NEIGHBORS])
    there = "there is " if near else f"{home} has "
    message = f"{source}: no such file or directory" + (f"; {there}{shown}" if shown else "")
    if _looks_like_repository(str(source)):
        message += f". It is not looked for on the hub, because there is a directory {home} here"
    return FileNotFoundError(message)


def fetch_repository(
    repository: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    weights: bool = True,
) -> pathlib.Path:
    """Downloads a model repository of the HuggingFace hub, or finds it in the local cache.

    Args:
      repository: "owner/name".
      revision: branch, tag or commit.
      local_files_only: never touch the network.
      weights: False takes the vocabulary files only.

    Returns:
      The local directory.

    Raises:
      CheckpointFileError: the repository cannot be had; the message says what to do.
    """
    # Imported here: it takes a second, and only downloads need it.
    import huggingface_hub

    patterns = list(VOCABULARY_FILES)
    if weights:
        patterns += [CONFIG_FILE, "*.safetensors", "*.bin", "*.index.json"]
    try:
        directory = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            local_files_only=local_files_only,
            allow_patterns=patterns,
        )
    except Exception as error:
        # The hub's client raises errors of several libraries; all mean that there are no files.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointFileError(
            f"{repository}: there is no such directory here, and it cannot be downloaded from the "
            f"HuggingFace hub and is not in the local cache ({reason}). Without a network, "
            "download the repository elsewhere and give its directory."
        ) from error
    return pathlib.Path(directory)
