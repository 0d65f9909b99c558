"""Our files against torch itself. Skipped where torch is not installed, as it is not needed."""

import argparse
import collections

import ml_dtypes
import numpy as np
import pytest

from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.fairseq_cfg import fairseq_cfg
from ofa_jax.checkpoint.imports import ImportedCheckpoint
from ofa_jax.checkpoint.layout import POSITION_INDEX
from ofa_jax.checkpoint.names import to_params
from ofa_jax.checkpoint.orbax_weights import SourceRecord
from ofa_jax.checkpoint.task_facts import TaskFacts
from ofa_jax.checkpoint.torch_reader import read_torch_checkpoint
from ofa_jax.checkpoint.torch_writer import StoredTensor, write_fairseq_checkpoint
from tests.checkpoint.official import SMALL, random_state_dict

torch = pytest.importorskip("torch", reason="compares with torch, which is not a dependency")

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


@FORMATS
def test_torch_reads_our_files(tmp_path, legacy):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((5, 4)).astype(np.float16)
    storage = np.arange(12, dtype=np.float64)
    state_dict = {
        "first": shared,
        "tied": shared,
        "bfloat16": rng.standard_normal((3, 2)).astype(ml_dtypes.bfloat16),
        "view": StoredTensor(storage, (2, 3), (1, 4), 1, is_parameter=True),
        "count": np.array(7),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 3), np.int8),
    }
    path = tmp_path / "ours.pt"
    cfg = {"model": {"x": 1.5, "y": [None, True], "big": 1 << 40, "text": "é"}}
    write_fairseq_checkpoint(path, state_dict, cfg=cfg, ema={"first": shared}, legacy=legacy)
    options = [{"weights_only": True}] + ([] if legacy else [{"weights_only": True, "mmap": True}])
    for keywords in options:
        loaded = torch.load(path, **keywords)
        assert loaded["cfg"] == cfg
        model = loaded["model"]
        assert model["first"].data_ptr() == model["tied"].data_ptr()
        assert isinstance(model["view"], torch.nn.Parameter)
        assert model["view"].stride() == (1, 4)
        assert model["view"].tolist() == [[1, 5, 9], [2, 6, 10]]
        assert model["count"].item() == 7
        assert model["empty"].shape == (0, 3)
        for name in ("first", "bfloat16", "bool"):
            expected = state_dict[name].astype(np.float32)
            np.testing.assert_array_equal(model[name].float().numpy(), expected)


@FORMATS
def test_we_read_files_of_torch(tmp_path, legacy):
    layer = torch.nn.Linear(3, 4)
    base = torch.randn(6, 5)
    model = collections.OrderedDict(
        weight=layer.weight,
        transposed=base.t(),
        window=base[1:3, ::2],
        base=base,
        bfloat16=base.bfloat16(),
        half=base.half(),
        integers=torch.arange(4),
        expanded=torch.tensor(1.5).expand(3, 2),
    )
    if not legacy:
        model["float8"] = base.to(torch.float8_e4m3fn)
        model["uint16"] = torch.arange(3).to(torch.uint16)
    content = {
        "args": argparse.Namespace(arch="ofa_tiny", code_dict_size=64),
        "model": model,
        "extra_state": {"numpy": np.ones(3), "device": torch.device("cpu")},
        "last_optimizer_state": torch.optim.Adam(layer.parameters()).state_dict(),
    }
    path = tmp_path / "theirs.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    found = read_torch_checkpoint(path)
    assert found.cfg == {"args": {"arch": "ofa_tiny", "code_dict_size": 64}}
    assert found.state_dict.tensors["weight"].is_parameter
    for name, tensor in model.items():
        value = found.state_dict[name]
        assert value.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(
            value.astype(np.float64), tensor.detach().double().numpy(), err_msg=name
        )


def test_torch_opens_exports_without_running_code(tmp_path):
    record = SourceRecord("trained", "run", task=TaskFacts(name="refcoco", image_size=64))
    variables = to_params(random_state_dict(), SMALL)
    imported = ImportedCheckpoint(variables, SMALL, record)
    export_checkpoint(imported, tmp_path / "a.pt", "fairseq")
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert loaded["cfg"] == fairseq_cfg(SMALL, record.task, {})
    assert loaded["cfg"]["task"]["_name"] == "refcoco"
    export_checkpoint(imported, tmp_path / "hub", "huggingface")
    hub = torch.load(tmp_path / "hub" / "pytorch_model.bin", weights_only=True)
    index = loaded["model"][POSITION_INDEX]
    assert hub[POSITION_INDEX].tolist() == index[:-1].tolist()
