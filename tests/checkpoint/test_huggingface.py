"""HuggingFace's format: names, configuration, directories, shards, the hub without a network."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ofa_jax.checkpoint.huggingface import (
    fetch_repository,
    is_repository_id,
    read_huggingface_directory,
    read_safetensors,
    write_huggingface_directory,
)
from ofa_jax.checkpoint.huggingface_names import (
    config_from_huggingface,
    config_to_huggingface,
    from_huggingface_name,
    is_huggingface_naming,
    to_huggingface_name,
)
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.layout import SHARED_EMBEDDING, expected_shapes
from ofa_jax.checkpoint.repairs import CheckpointMismatchError
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.checkpoint.torch_reader import read_torch_checkpoint
from ofa_jax.checkpoint.torch_writer import write_torch_file
from ofa_jax.model.config import SIZES
from tests.checkpoint.official import SMALL, random_state_dict

# What config.json of a released repository looks like (the fields that matter).
RELEASED_BASE = {
    "model_type": "ofa",
    "vocab_size": 59457,
    "max_position_embeddings": 1024,
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "resnet_type": "resnet101",
    "token_bucket_size": 256,
    "image_bucket_size": 42,
    "code_image_size": 128,
    "activation_function": "gelu",
    "attn_scale_factor": 2.0,
    "dropout": 0.1,
    "encoder_drop_path_rate": 0.2,
}


@pytest.mark.parametrize(
    ("official", "theirs"),
    [
        ("encoder.layers.3.attn_ln.weight", "encoder.layers.3.self_attn_mid_layer_norm.weight"),
        ("decoder.layers.3.self_attn_ln.bias", "decoder.layers.3.self_attn_mid_layer_norm.bias"),
        ("decoder.layers.0.cross_attn_ln.bias", "decoder.layers.0.cross_attn_mid_layer_norm.bias"),
        ("decoder.layers.0.ffn_layernorm.weight", "decoder.layers.0.ffn_layer_norm.weight"),
        (
            "decoder.layers.1.encoder_attn_layer_norm.weight",
            "decoder.layers.1.cross_attn_layer_norm.weight",
        ),
        (
            "decoder.layers.1.encoder_attn.k_proj.weight",
            "decoder.layers.1.cross_attn.k_proj.weight",
        ),
        ("decoder.layers.1.encoder_attn.c_attn", "decoder.layers.1.cross_attn.c_attn"),
        *(
            (same, same)
            for same in (
                "encoder.layers.3.self_attn_layer_norm.weight",
                "encoder.layernorm_embedding.weight",
                "decoder.cross_pos_q_linear.weight",
                "encoder.embed_images.layer1.0.downsample.0.weight",
                "decoder.output_projection.weight",
            )
        ),
    ],
)
def test_names(official, theirs):
    assert to_huggingface_name(official) == theirs
    assert from_huggingface_name(theirs) == official


def naive_rename(name: str) -> str:
    """The replacements of SPEC 2.5 in the order given there."""
    for old, new in (
        ("self_attn_ln", "self_attn_mid_layer_norm"),
        ("ffn_layernorm", "ffn_layer_norm"),
        ("cross_attn_ln", "cross_attn_mid_layer_norm"),
        ("encoder_attn", "cross_attn"),
    ):
        name = name.replace(old, new)
    return name if "self_attn_ln" in name else name.replace(".attn_ln", ".self_attn_mid_layer_norm")


def test_all_names_are_renamed_reversibly():
    names = list(expected_shapes(SIZES["base"]))
    renamed = [to_huggingface_name(name) for name in names]
    assert renamed == [naive_rename(name) for name in names]
    assert len(set(renamed)) == len(names)
    assert [from_huggingface_name(name) for name in renamed] == names
    assert is_huggingface_naming(renamed)
    assert not is_huggingface_naming(names)


def test_released_configuration():
    config = config_from_huggingface(RELEASED_BASE)
    assert config == dataclasses.replace(SIZES["base"], dropout=0.1, encoder_drop_path=0.2)


@pytest.mark.parametrize("size", SIZES)
def test_configuration_round_trip(size):
    fields = config_to_huggingface(SIZES[size])
    assert config_from_huggingface(json.loads(json.dumps(fields))) == SIZES[size]
    assert (fields["resnet_type"] is None) == (size == "nano")
    assert (fields["bos_token_id"], fields["pad_token_id"]) == (0, 1)
    imagenet = dataclasses.replace(SIZES[size], image_mean=(0.4, 0.5, 0.6), image_std=(1, 1, 2))
    fields = json.loads(json.dumps(config_to_huggingface(imagenet)))
    assert config_from_huggingface(fields) == imagenet


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normformer": False}, "normformer is False"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"decoder_attention_heads": 8}, "attention_heads is 12 and decoder_attention_heads is 8"),
        ({"resnet_type": "vit"}, "resnet_type is 'vit', known are resnet50"),
        ({"d_model": 770}, "num_heads must be a divisor"),
    ],
)
def test_impossible_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        config_from_huggingface({**RELEASED_BASE, **change})
    missing = {k: v for k, v in RELEASED_BASE.items() if k != "d_model"}
    with pytest.raises(ValueError, match="d_model is missing"):
        config_from_huggingface(missing)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_directory_round_trip(tmp_path, weights, dtype):
    original = random_state_dict(dtype=np.dtype(getattr(ml_dtypes, dtype, dtype)))
    original["encoder.version"] = np.array([3.0], np.float32)
    original["encoder.embed_images.bn1.num_batches_tracked"] = np.array(5)
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text("{}")
    directory = tmp_path / "model"
    write_huggingface_directory(
        directory, original, SMALL, weights=[weights], vocabulary_files=[vocabulary]
    )
    assert {p.name for p in directory.iterdir()} == {"config.json", "vocab.json", weights}
    found = read_huggingface_directory(directory)
    assert found.config == SMALL
    assert [path.name for path in found.vocabulary_files] == ["vocab.json"]
    assert set(found.state_dict) == set(original) - {"encoder.version"}
    for name, value in found.state_dict.items():
        assert value.dtype == original[name].dtype
        assert value.shape == original[name].shape
        np.testing.assert_array_equal(value, original[name], err_msg=name)


def test_bin_shares_the_embedding(tmp_path):
    write_huggingface_directory(tmp_path, random_state_dict(), SMALL, weights=["pytorch_model.bin"])
    tensors = read_torch_checkpoint(tmp_path / "pytorch_model.bin").state_dict.tensors
    first, second, third = (tensors[name] for name in SHARED_EMBEDDING)
    assert first.shares_storage_with(second)
    assert first.shares_storage_with(third)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_sharded_directory(tmp_path, kind):
    original = random_state_dict()
    renamed = {to_huggingface_name(name): value for name, value in original.items()}
    names = sorted(renamed)
    stem, suffix = kind.rsplit(".", 1)
    index = {}
    for shard in range(3):
        part = {name: renamed[name] for name in names[shard::3]}
        file = f"{stem}-{shard + 1:05d}-of-00003.{suffix}"
        if suffix == "safetensors":
            safetensors.numpy.save_file(part, tmp_path / file)
        else:
            write_torch_file(tmp_path / file, part)
        index.update(dict.fromkeys(part, file))
    (tmp_path / f"{kind}.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text(json.dumps(config_to_huggingface(SMALL)))
    found = read_huggingface_directory(tmp_path)
    assert set(found.state_dict) == set(original)
    for name, value in found.state_dict.items():
        np.testing.assert_array_equal(value, original[name], err_msg=name)

    (tmp_path / f"{stem}-00002-of-00003.{suffix}").unlink()
    with pytest.raises(CheckpointFileError, match=r"00002-of-00003.*not there"):
        read_huggingface_directory(tmp_path)
    outside = {"weight_map": {"a": "../x.bin"}}
    (tmp_path / f"{kind}.index.json").write_text(json.dumps(outside))
    with pytest.raises(CheckpointFileError, match="not there"):
        read_huggingface_directory(tmp_path)
    (tmp_path / f"{kind}.index.json").write_text("{}")
    with pytest.raises(CheckpointFileError, match=r"lacks .*'weight_map'"):
        read_huggingface_directory(tmp_path)


def test_directory_without_configuration_is_inferred(tmp_path):
    config = SIZES["tiny"]
    config = dataclasses.replace(config, encoder_layers=1, decoder_layers=1)
    shapes = expected_shapes(config)
    zeros = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    write_huggingface_directory(tmp_path, zeros, config, weights=["model.safetensors"])
    (tmp_path / "config.json").unlink()
    assert read_huggingface_directory(tmp_path).config == config


def test_contradicting_configuration_is_an_error(tmp_path):
    write_huggingface_directory(tmp_path, random_state_dict(), SMALL)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "encoder_layers": 6}))
    with pytest.raises(CheckpointMismatchError, match=r"encoder_layers = 6.* 2"):
        read_huggingface_directory(tmp_path)
    path.write_text("{")
    with pytest.raises(CheckpointFileError, match=r"config\.json: .*JSON"):
        read_huggingface_directory(tmp_path)


def test_damaged_and_missing_weights(tmp_path):
    with pytest.raises(CheckpointFileError, match=r"no weights .*model\.safetensors"):
        read_huggingface_directory(tmp_path)
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(100, np.float32)}, path)
    data = path.read_bytes()
    for length in (0, 4, 20, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointFileError, match="whole safetensors"):
            read_safetensors(path)


def test_vocabulary_files_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vocab\.json"):
        write_huggingface_directory(
            tmp_path / "x", random_state_dict(), SMALL, vocabulary_files=[tmp_path / "vocab.json"]
        )
    with pytest.raises(ValueError, match="weights may name"):
        write_huggingface_directory(tmp_path / "x", random_state_dict(), SMALL, weights=["tf.h5"])


def test_repository_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    for source in ("OFA-Sys/ofa-base", "someone/ofa-v1.5", "someone/model_2.0.1"):
        assert is_repository_id(source), source
    for source in (
        *("runs/base", "/data/model", "a/b/c", "ofa_base.pt", "OFA-Sys", "owner/", "/name"),
        *("runs/quikstart", "ckpt/ofa.pt", "owner/model.safetensors", "./name", "~/name", "../x"),
        *("owner/na me", "gs://bucket", "owner\\name", ""),
    ):
        assert not is_repository_id(source), source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "runs/quikstart",
            "runs/quikstart: no such file or directory; there is runs/quickstart. It ",
        ),
        ("quikstart", "quikstart: no such file or directory; . has notes.txt, runs"),
        ("ruins/quickstart.pt", "ruins/quickstart.pt: no such file or directory; there is runs"),
        (
            "runs/zzz",
            "runs/zzz: no such file or directory; runs has runs/ofa.pt, runs/quickstart. It",
        ),
        ("runs/of.pt", "runs/of.pt: no such file or directory; there is runs/ofa.pt"),
        ("runs/quickstart/checkpoint_7", "runs/quickstart/checkpoint_7: no such file or directory"),
        ("runs/ofa.pt/x", "runs/ofa.pt/x: no such file or directory; there is runs/ofa.pt"),
    ],
)
def test_a_mistyped_path_is_no_repository(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "ofa.pt").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")

    def download(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(FileNotFoundError) as error:
        import_checkpoint(source)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_offline_hub_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointFileError,
        match=r"ofa-tiny: .*cache",
    ):
        fetch_repository("OFA-Sys/ofa-tiny", local_files_only=True)
