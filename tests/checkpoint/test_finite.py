"""Weights that are no numbers are refused on the way in, and those that would become so, out."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from ofa_jax.checkpoint import orbax_weights
from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.finite import check_range
from ofa_jax.checkpoint.huggingface import write_huggingface_directory
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.names import to_params
from ofa_jax.checkpoint.torch_writer import write_fairseq_checkpoint
from ofa_jax.convert import main
from tests.checkpoint.official import SMALL, random_state_dict

SCAN = dataclasses.replace(SMALL, layer_stack="scan", encoder_layers=2, decoder_layers=2)


def damaged(name, value, config=SMALL):
    state_dict = random_state_dict(config)
    array = state_dict[name].copy()
    array.flat[3] = value
    return {**state_dict, name: array}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder.layers.1.fc1.weight", np.nan),
        ("decoder.layers.0.self_attn.q_proj.bias", np.inf),
        ("encoder.embed_images.bn1.running_var", -np.inf),
        ("encoder.token_rel_pos_table_list.1.weight", np.nan),
    ],
)
@pytest.mark.parametrize("kind", ["fairseq", "huggingface", "ours", "scan"])
def test_values_that_are_no_numbers_are_named(tmp_path, kind, name, value):
    config = SCAN if kind == "scan" else SMALL
    state_dict = damaged(name, value, config)
    source = tmp_path / "source.pt"
    if kind == "fairseq":
        write_fairseq_checkpoint(source, state_dict)
    elif kind == "huggingface":
        write_huggingface_directory(source, state_dict, config)
    else:
        record = orbax_weights.SourceRecord("initialized", "x")
        orbax_weights.write_weights(source, to_params(state_dict, config), config, record)
    with pytest.raises(ValueError, match=r"1 tensors .*NaN") as error:
        import_checkpoint(source, config=config)
    assert f"{name} (1 of {state_dict[name].size} values)" in str(error.value)
    assert str(source) in str(error.value)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_numbers_too_large_for_float32_are_named_too(tmp_path):
    name = "encoder.layer_norm.weight"
    state_dict = {**random_state_dict(), name: np.full(16, 1e300)}
    write_fairseq_checkpoint(tmp_path / "double.pt", state_dict)
    with pytest.raises(ValueError, match=r"encoder\.layer_norm\.weight \(16 of 16"):
        import_checkpoint(tmp_path / "double.pt", config=SMALL)


@pytest.mark.parametrize("target_format", ["fairseq", "huggingface"])
def test_overflow_on_export_is_named_before_anything_is_written(tmp_path, target_format, capsys):
    name = "decoder.layers.0.fc2.weight"
    source, target = tmp_path / "source", tmp_path / "target"
    write_huggingface_directory(source, damaged(name, -70000.0), SMALL)
    command = ["--source", source, "--target", target, "--target_format", target_format]
    assert main([*map(str, command), "--dtype", "float16"]) == 2
    error = capsys.readouterr().err
    assert f"{name} has values up to 70000, but float16 ends at 65504" in error
    assert not target.exists()
    for dtype in ("bfloat16", "float32"):
        path = str(target) + dtype
        assert main([*map(str, (*command[:3], path, *command[4:])), "--dtype", dtype]) == 0


def test_the_type_of_the_source_may_have_become_too_small(tmp_path):
    write_fairseq_checkpoint(tmp_path / "half.pt", random_state_dict(dtype="float16"))
    imported = import_checkpoint(tmp_path / "half.pt", config=SMALL)
    imported.variables["params"]["encoder"]["final_norm"]["scale"] *= 1e7
    with pytest.raises(ValueError, match=r"encoder\.layer_norm\.weight .*values up to"):
        export_checkpoint(imported, tmp_path / "out.pt", "fairseq")


@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [
        (65504.0, np.float16, True),
        (65519.0, np.float16, True),  # rounds down to the largest
        (65520.0, np.float16, False),
        (-65520.0, np.float16, False),
        (3.38e38, ml_dtypes.bfloat16, True),
        (3.4e38, ml_dtypes.bfloat16, False),
    ],
)
def test_range(value, dtype, fits):
    array = np.array([0.0, value], np.float32)
    if fits:
        check_range("x", array, np.dtype(dtype))
    else:
        with pytest.raises(ValueError, match=r"^x has values up to"):
            check_range("x", array, np.dtype(dtype))
    check_range("empty", np.zeros((0, 3), np.float32), np.dtype(dtype))
