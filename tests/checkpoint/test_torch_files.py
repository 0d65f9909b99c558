"""Torch files: our writer and reader against each other, damaged files, files with odd content."""

import argparse
import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.torch_archive import CheckpointFileError, TorchTensor, read_torch_file
from ofa_jax.checkpoint.torch_reader import read_torch_checkpoint
from ofa_jax.checkpoint.torch_writer import (
    StoredTensor,
    write_fairseq_checkpoint,
    write_torch_file,
)
from tests.checkpoint.official import replace_none

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((5, 4)).astype(np.float16)
    return {
        "first": shared,
        "tied": shared,
        "float32": rng.standard_normal((2, 3, 4)).astype(np.float32),
        "float64": rng.standard_normal(7),
        "bfloat16": rng.standard_normal((3, 2)).astype(ml_dtypes.bfloat16),
        "int64": np.array([[-1, 1 << 40]]),
        "int32": np.arange(3, dtype=np.int32),
        "uint8": np.arange(3, dtype=np.uint8),
        "bool": np.array([True, False]),
        "complex": np.array([1 + 2j], np.complex64),
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
    }


@FORMATS
def test_round_trip_keeps_values_dtypes_and_ties(tmp_path, legacy):
    path = tmp_path / "model.pt"
    original = weights()
    write_fairseq_checkpoint(path, original, cfg={"model": {"arch": "ofa_tiny"}}, legacy=legacy)
    checkpoint = read_torch_checkpoint(path)
    assert checkpoint.layout == "fairseq"
    assert checkpoint.cfg == {"cfg": {"model": {"arch": "ofa_tiny"}}}
    assert list(checkpoint.state_dict) == list(original)
    assert checkpoint.state_dict.shapes() == {k: v.shape for k, v in original.items()}
    for name, expected in original.items():
        found = checkpoint.state_dict[name]
        assert found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.size == 0 or not found.flags.writeable, name
    tensors = checkpoint.state_dict.tensors
    assert tensors["first"].shares_storage_with(tensors["tied"])
    assert not tensors["first"].shares_storage_with(tensors["bfloat16"])


@FORMATS
def test_strides_offsets_and_parameters(tmp_path, legacy):
    storage = np.arange(12, dtype=np.float32)
    path = tmp_path / "views.pt"
    content = {
        "transposed": StoredTensor(storage, (4, 3), (1, 4)),
        "window": StoredTensor(storage, (2, 2), (4, 2), offset=1, is_parameter=True),
        "expanded": StoredTensor(storage, (2, 3), (0, 1)),
    }
    write_torch_file(path, content, legacy=legacy)
    found = read_torch_file(path)
    np.testing.assert_array_equal(found["transposed"], storage.reshape(3, 4).T)
    np.testing.assert_array_equal(found["window"], [[1, 3], [5, 7]])
    np.testing.assert_array_equal(found["expanded"], [[0, 1, 2], [0, 1, 2]])
    assert found["window"].is_parameter
    assert not found["transposed"].is_parameter


@FORMATS
def test_plain_values_come_back(tmp_path, legacy):
    value = {
        "none": None,
        "flags": [True, False],
        "numbers": (1, -5, 1 << 31, -(1 << 200), 0.1),
        "text": "é 中",
        "ordered": collections.OrderedDict(b=1, a=[]),
        "nothing": ((), {}, ""),
    }
    write_torch_file(tmp_path / "plain.pt", value, legacy=legacy)
    assert read_torch_file(tmp_path / "plain.pt") == value


def test_legacy_and_zip_hold_ties_once(tmp_path):
    table = np.zeros((1000, 8), np.float32)
    for legacy in (False, True):
        path = tmp_path / "ties.pt"
        write_torch_file(path, {"a": table, "b": table, "c": table}, legacy=legacy)
        assert path.stat().st_size < 1.2 * table.nbytes


def test_zip_storages_are_aligned(tmp_path):
    path = tmp_path / "aligned.pt"
    write_torch_file(path, {"a": np.ones(3, np.float32), "b": np.ones(5, np.float16)})
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack("<HH", data[info.header_offset + 26 :][:4])
            assert (info.header_offset + 30 + name + extra) % 64 == 0


def test_ema_prefers_the_float32_average(tmp_path):
    path = tmp_path / "ema.pt"
    content = {
        "model": {"w": np.zeros(2, np.float16), "n": np.ones(1, np.float16)},
        "extra_state": {
            "ema": {"w": np.full(2, 2, np.float16), "n": np.full(1, 3, np.float16)},
            "ema_fp32_params": {"w": np.full(2, 2.001, np.float32)},
        },
    }
    write_torch_file(path, content)
    assert read_torch_checkpoint(path).state_dict["w"].tolist() == [0, 0]
    average = read_torch_checkpoint(path, ema=True).state_dict
    assert average["w"].dtype == np.float32
    np.testing.assert_array_equal(average["w"], np.float32([2.001, 2.001]))
    assert average["n"].tolist() == [3]


def test_missing_ema_and_missing_tensors_are_errors(tmp_path):
    path = tmp_path / "model.pt"
    write_fairseq_checkpoint(path, {"w": np.zeros(2, np.float32)})
    with pytest.raises(CheckpointFileError, match=r"model\.pt: .*moving average"):
        read_torch_checkpoint(path, ema=True)
    write_torch_file(path, {"epoch": 3, "notes": "x"})
    with pytest.raises(CheckpointFileError, match=r"no tensors by name.*epoch, notes"):
        read_torch_checkpoint(path)
    write_torch_file(path, [np.zeros(2, np.float32)])
    with pytest.raises(CheckpointFileError, match="a list, not a state dict"):
        read_torch_checkpoint(path)


def test_bare_state_dict(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_torch_file(path, {"w": np.arange(3, dtype=np.float32)})
    checkpoint = read_torch_checkpoint(path)
    assert checkpoint.layout == "state_dict"
    assert checkpoint.state_dict["w"].tolist() == [0, 1, 2]


def test_unknown_leaf_cannot_be_written(tmp_path):
    with pytest.raises(TypeError, match="set"):
        write_torch_file(tmp_path / "x.pt", {"a": {1, 2}})
    assert list(tmp_path.iterdir()) == []


def legacy_file(obj) -> bytes:
    """A legacy torch file without tensors around any pickle-able object."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = (0x1950A86A20F9469CFC6C, 1001, system, obj, [])
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


def zip_file(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


@pytest.fixture
def omegaconf_like(monkeypatch):
    """Classes that pickle as omegaconf's do, from a module that is gone when they are read."""
    module = types.ModuleType("omegaconf_like")

    class AnyNode:
        def __init__(self, value):
            self.__dict__["_val"] = value

    class DictConfig:
        def __init__(self, **content):
            nodes = {k: v if isinstance(v, DictConfig) else AnyNode(v) for k, v in content.items()}
            self.__dict__.update(_content=nodes, _parent=None)
            for node in nodes.values():
                node.__dict__["_parent"] = self

    for cls in (AnyNode, DictConfig):
        cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_omegaconf_and_namespace_become_plain_values(tmp_path, monkeypatch, omegaconf_like):
    make = omegaconf_like.DictConfig
    cfg = make(model=make(arch="ofa_base", encoder_layers=6), task=make(code_dict_size=8192))
    args = argparse.Namespace(num_bins=1000, lr=[0.1])
    path = tmp_path / "old.pt"
    write_torch_file(path, {"model": {"w": np.ones(1, np.float32)}, "args": None, "cfg": None})
    replace_none(path, args=args, cfg=cfg)
    monkeypatch.delitem(sys.modules, omegaconf_like.__name__)
    assert read_torch_file(path)["cfg"].path == "omegaconf_like.DictConfig"
    checkpoint = read_torch_checkpoint(path)
    assert checkpoint.cfg == {
        "cfg": {
            "model": {"arch": "ofa_base", "encoder_layers": 6},
            "task": {"code_dict_size": 8192},
        },
        "args": {"num_bins": 1000, "lr": [0.1]},
    }
    assert (checkpoint.task.num_codes, checkpoint.task.num_bins) == (8192, 1000)


@FORMATS
def test_truncation_anywhere_is_one_clear_error(tmp_path, legacy):
    whole = tmp_path / "whole.pt"
    write_fairseq_checkpoint(
        whole,
        {"w": np.arange(64, dtype=np.float32), "v": np.ones((3, 3), np.float16)},
        legacy=legacy,
    )
    data = whole.read_bytes()
    cut = tmp_path / "cut.pt"
    step = max(1, len(data) // 150)
    lengths = {*range(0, len(data), step), 1, 2, 4, 8, 30, len(data) - 1, len(data) - 2}
    for length in sorted(lengths):
        cut.write_bytes(data[:length])
        with pytest.raises(CheckpointFileError, match=r"cut\.pt"):
            list(read_torch_checkpoint(cut).state_dict.values())


@FORMATS
def test_flipped_bytes_never_do_worse_than_an_error(tmp_path, legacy):
    whole = tmp_path / "whole.pt"
    write_torch_file(whole, {"w": np.arange(8, dtype=np.float32)}, legacy=legacy)
    data = bytearray(whole.read_bytes())
    rng = np.random.default_rng(1)
    broken = tmp_path / "broken.pt"
    failed = 0
    for place in rng.integers(0, len(data), 250):
        changed = bytearray(data)
        changed[place] ^= int(rng.integers(1, 256))
        broken.write_bytes(changed)
        try:
            for value in read_torch_checkpoint(broken).state_dict.values():
                assert value.nbytes >= 0
        except CheckpointFileError:
            failed += 1
    assert failed > 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"<?xml version='1.0'?><Error/>", "XML answer"),
        (b"\x1f\x8b\x08\x00" + bytes(40), "gzip"),
        (b"just some text", "not a torch checkpoint"),
        (pickle.dumps({"a": 1}, protocol=2), "a pickle that torch did not write"),
        (pickle.dumps({"a": 1}, protocol=4), "a pickle that torch did not write"),
        (zip_file(b"")[:-30], "cut off"),
        (struct.pack("<Q", 20) + b'{"a":{}}            ', "safetensors"),
    ],
    # Not by content: an archive holds the time of the day, and all workers must collect the same.
    ids=[
        "empty",
        "lfs",
        "html",
        "xml",
        "gzip",
        "text",
        "pickle2",
        "pickle4",
        "archive",
        "safetensors",
    ],
)
def test_foreign_files_are_named(tmp_path, content, message):
    path = tmp_path / "foreign.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointFileError, match=message) as error:
        read_torch_file(path)
    assert "foreign.pt" in str(error.value)


def test_other_zip_archives_are_named(tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(CheckpointFileError, match="not a torch checkpoint"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(1))
        archive.writestr("m/constants.pkl", pickle.dumps(()))
    with pytest.raises(CheckpointFileError, match="TorchScript"):
        read_torch_file(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        read_torch_file(tmp_path / "missing.pt")


def test_compressed_members_are_read(tmp_path):
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    write_torch_file(plain, {"w": np.arange(100, dtype=np.float32)})
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info), zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(read_torch_file(packed)["w"], np.arange(100))


def test_big_endian_files_are_read(tmp_path):
    plain, swapped = tmp_path / "plain.pt", tmp_path / "swapped.pt"
    values = np.arange(5, dtype=np.float32)
    write_torch_file(plain, {"w": values.astype(">f4").view("<f4")})
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(swapped, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            target.writestr(info.filename, b"big" if "byteorder" in info.filename else content)
    found = read_torch_file(swapped)["w"]
    np.testing.assert_array_equal(np.asarray(found), values)
    assert np.asarray(found).dtype.isnative


def test_tensor_beyond_its_storage_is_an_error(tmp_path):
    path = tmp_path / "beyond.pt"
    storage = np.zeros(4, np.float32)
    write_torch_file(path, {"w": StoredTensor(storage, (3, 3), (3, 1))})
    tensor = read_torch_file(path)["w"]
    assert isinstance(tensor, TorchTensor)
    with pytest.raises(CheckpointFileError, match="damaged"):
        tensor.numpy()
    write_torch_file(path, {"w": StoredTensor(storage, (1 << 50,), (0,))})
    with pytest.raises(CheckpointFileError, match="damaged"):
        read_torch_file(path)["w"].numpy()


@pytest.mark.parametrize("values", [1, 96])
def test_tensors_of_more_elements_than_are_stored(tmp_path, values):
    """One stored value, or one row, would become gigabytes when the model is filled."""
    path = tmp_path / "repeated.pt"
    storage = np.ones(values, np.float32)
    rows = StoredTensor(storage, (1_048_581, 96), (0, int(values > 1)))
    write_torch_file(path, {"model": {"encoder.embed_tokens.weight": rows}})
    weights = read_torch_checkpoint(path).state_dict
    message = rf"{path}: .*100,663,776 elements, its storage 0 only {values}; .*embed_tokens"
    with pytest.raises(CheckpointFileError, match=message):
        weights["encoder.embed_tokens.weight"]


def test_weights_of_another_model_are_named_with_their_file(tmp_path):
    path = tmp_path / "other.pt"
    write_torch_file(path, {"cfg": {"task": 1}, "model": {"layer.weight": np.ones(3, np.float32)}})
    with pytest.raises(ValueError, match=f"{path}: not an OFA state dict") as error:
        import_checkpoint(path)
    assert "\n" not in str(error.value)
