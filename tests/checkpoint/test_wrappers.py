"""State dicts of wrapped models: prefixes and nesting, in any combination, in every format."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from ofa_jax.checkpoint.exports import official_state_dict
from ofa_jax.checkpoint.huggingface import write_huggingface_directory
from ofa_jax.checkpoint.huggingface_names import config_to_huggingface, to_huggingface_name
from ofa_jax.checkpoint.imports import import_checkpoint, read_stem
from ofa_jax.checkpoint.layout import RESNET_PREFIX
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.checkpoint.torch_writer import write_torch_file
from tests.checkpoint.official import SMALL, random_state_dict

# As compiling, DDP, FSDP, DeepSpeed, Lightning and HuggingFace's heads leave them.
PREFIXES = (
    "_orig_mod.",
    "module.",
    "model.",
    "_fsdp_wrapped_module.",
    "module._orig_mod.",
    "_orig_mod.module.model.",
    "_fsdp_wrapped_module._orig_mod.model.",
    "model._fsdp_wrapped_module.module._orig_mod.",
)


def assert_imported(source):
    imported = import_checkpoint(source, config=SMALL)
    found = official_state_dict(imported)
    for name, value in random_state_dict().items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert not any("_" in name.split(".")[0] for name in imported.record.dtypes)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("theirs", [False, True], ids=["official", "huggingface"])
def test_prefixes_go_before_names_are_translated(tmp_path, prefix, theirs):
    def rename(name):
        return prefix + (to_huggingface_name(name) if theirs else name)

    write_torch_file(
        tmp_path / "m.pt", {"model": {rename(n): v for n, v in random_state_dict().items()}}
    )
    assert_imported(tmp_path / "m.pt")
    assert import_checkpoint(tmp_path / "m.pt", config=SMALL).record.format == (
        "huggingface" if theirs else "fairseq"
    )


@pytest.mark.parametrize(
    "nest",
    [
        ("module",),
        ("state_dict",),
        ("model_state_dict",),
        ("model", "module"),
        ("state_dict", "model"),
        ("module", "state_dict", "model"),
    ],
    ids="/".join,
)
def test_nested_state_dicts_are_found(tmp_path, nest):
    value = {f"module.{name}": tensor for name, tensor in random_state_dict().items()}
    for key in reversed(nest):
        value = {key: value, "step": np.array(7), "optimizer": {"state": {}}}
    write_torch_file(tmp_path / "m.pt", value)
    assert_imported(tmp_path / "m.pt")


def test_wrappers_between_parts_of_a_name_go_too(tmp_path):
    def wrapped(name):
        name = re.sub(r"\.(\d+)\.", r".\1._checkpoint_wrapped_module.", name)
        first, rest = name.split(".", 1)
        return f"_fsdp_wrapped_module.{first}._fsdp_wrapped_module.{rest}"

    write_torch_file(
        tmp_path / "m.pt", {"model": {wrapped(n): v for n, v in random_state_dict().items()}}
    )
    assert_imported(tmp_path / "m.pt")


def test_safetensors_and_sharded_directories(tmp_path):
    tensors = {
        f"_orig_mod.model.{to_huggingface_name(name)}": value
        for name, value in random_state_dict().items()
    }
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    assert_imported(tmp_path / "m.safetensors")
    directory = tmp_path / "shards"
    directory.mkdir()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in part}, directory / shard)
    index = {name: shard for shard, part in shards.items() for name in part}
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    (directory / "config.json").write_text(json.dumps(config_to_huggingface(SMALL)))
    assert_imported(directory)
    path.write_text(json.dumps({"weight_map": {**index, "_orig_mod.lost": "a.safetensors"}}))
    with pytest.raises(CheckpointFileError, match="1 tensors such as lost"):
        import_checkpoint(directory)


def test_moving_averages_and_stems(tmp_path):
    average = {f"module.{name}": value for name, value in random_state_dict().items()}
    write_torch_file(
        tmp_path / "m.pt",
        {"model": {"w": np.zeros(1, np.float32)}, "extra_state": {"ema": {"model": average}}},
    )
    found = official_state_dict(import_checkpoint(tmp_path / "m.pt", config=SMALL, ema=True))
    name = "decoder.layer_norm.weight"
    np.testing.assert_array_equal(found[name], random_state_dict()[name])
    stem = {n: v for n, v in random_state_dict().items() if n.startswith(RESNET_PREFIX)}
    stem = {f"module._orig_mod.{n.removeprefix(RESNET_PREFIX)}": v for n, v in stem.items()}
    write_torch_file(tmp_path / "stem.pth", {"state_dict": stem})
    assert len(read_stem(tmp_path / "stem.pth")) == len(stem)


def test_two_models_in_one_state_dict_are_an_error(tmp_path):
    original = random_state_dict()
    both = {**original, **{f"module.{name}": value for name, value in original.items()}}
    write_torch_file(tmp_path / "m.pt", both)
    with pytest.raises(CheckpointFileError, match=r"both the .*more than one model"):
        import_checkpoint(tmp_path / "m.pt", config=SMALL)
    write_huggingface_directory(tmp_path / "plain", original, SMALL)
    assert_imported(tmp_path / "plain")
