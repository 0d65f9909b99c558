"""Repairs of foreign state dicts: what is fixed, what is an error, what the report says."""

import dataclasses

import numpy as np
import pytest

from ofa_jax.checkpoint.layout import SHARED_EMBEDDING, expected_shapes
from ofa_jax.checkpoint.names import to_params
from ofa_jax.checkpoint.repairs import CheckpointMismatchError, repair_state_dict
from tests.checkpoint.official import SMALL, random_state_dict

EMBEDDING = SHARED_EMBEDDING[0]


def test_a_fitting_state_dict_passes_unchanged():
    original = random_state_dict()
    repaired, report = repair_state_dict(original, SMALL)
    assert report.lines() == []
    assert set(repaired) == set(original)
    assert all(repaired.tensors[name] is original[name] for name in original)


def test_constant_buffers_are_dropped_and_counters_noted():
    state_dict = {
        **random_state_dict(),
        "encoder.version": np.array([3.0]),
        "decoder.image_position_idx": np.zeros(5, np.int64),
        "encoder.token_rp_bucket": np.zeros((2, 2), np.int64),
        "encoder.embed_images.bn1.num_batches_tracked": np.array(41),
        "classification_heads.x.dense.weight": np.zeros((2, 2)),
    }
    repaired, report = repair_state_dict(state_dict, SMALL)
    assert set(repaired) == set(expected_shapes(SMALL))
    assert report.batches_tracked == {"encoder.embed_images.bn1.num_batches_tracked": 41}
    assert report.dropped == ["classification_heads.x.dense.weight"]


def test_old_names_are_renamed():
    original = random_state_dict()
    old = {}
    norms = {
        "encoder": ["self_attn_layer_norm", "final_layer_norm"],
        "decoder": ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
    }
    for name, value in original.items():
        for side, kinds in norms.items():
            for index, kind in enumerate(kinds):
                if name.startswith(f"{side}.layers") and f".{kind}." in name:
                    name = name.replace(kind, f"layer_norms.{index}")
        old[name] = value
    assert len(set(old) - set(original)) == 14
    repaired, report = repair_state_dict(old, SMALL)
    assert len(report.renamed) == 14
    for name, value in original.items():
        np.testing.assert_array_equal(repaired[name], value, err_msg=name)


def test_fused_projections_are_split():
    original = random_state_dict()
    fused = dict(original)
    for owner in ("encoder.layers.1.self_attn", "decoder.layers.0.encoder_attn"):
        for part in ("weight", "bias"):
            thirds = [fused.pop(f"{owner}.{p}_proj.{part}") for p in "qkv"]
            fused[f"{owner}.in_proj_{part}"] = np.concatenate(thirds)
    repaired, report = repair_state_dict(fused, SMALL)
    assert len(report.renamed) == 4
    for name, value in original.items():
        np.testing.assert_array_equal(repaired[name], value, err_msg=name)
    fused["encoder.layers.1.self_attn.in_proj_bias"] = np.zeros(47)
    with pytest.raises(CheckpointMismatchError, match=r"in_proj_bias .*47"):
        repair_state_dict(fused, SMALL)


def test_short_vocabulary_is_extended_in_all_copies():
    larger = dataclasses.replace(SMALL, vocab_size=320, padded_vocab_size=None)
    original = random_state_dict(dtype="float16")
    repaired, report = repair_state_dict(original, larger)
    table = repaired[EMBEDDING]
    assert table.shape == (320, 16)
    assert table.dtype == np.float16
    np.testing.assert_array_equal(table[:300], original[EMBEDDING])
    assert 0.7 < table[300:].std() / 16**-0.5 < 1.3
    assert all(repaired.tensors[name] is repaired.tensors[EMBEDDING] for name in SHARED_EMBEDDING)
    assert report.extended == [(EMBEDDING, 300, 320)]
    assert "appended 20 random rows to 300" in report.lines()[0]
    again, _ = repair_state_dict(original, larger)
    np.testing.assert_array_equal(again[EMBEDDING], table)


def test_one_row_too_many_is_cut_only_without_mask_in_the_dictionary():
    smaller = dataclasses.replace(SMALL, vocab_size=299, padded_vocab_size=None)
    original = random_state_dict()
    with pytest.raises(CheckpointMismatchError, match=r"<mask> .*one row"):
        repair_state_dict(original, smaller)
    much_smaller = dataclasses.replace(SMALL, vocab_size=290, padded_vocab_size=None)
    with pytest.raises(CheckpointMismatchError, match="another vocabulary: 300 ids"):
        repair_state_dict(original, much_smaller)
    repaired, report = repair_state_dict(original, smaller, dictionary_has_mask=False)
    np.testing.assert_array_equal(repaired[EMBEDDING], original[EMBEDDING][:299])
    assert report.cropped == [(EMBEDDING, 300, 299)]


def test_short_image_positions_are_extended():
    original = random_state_dict()
    short = dict(original)
    for side in ("encoder", "decoder"):
        name = f"{side}.embed_image_positions.weight"
        short[name] = original[name][:30]
    repaired, report = repair_state_dict(short, SMALL)
    assert len(report.extended) == 2
    for side in ("encoder", "decoder"):
        name = f"{side}.embed_image_positions.weight"
        np.testing.assert_array_equal(repaired[name][:30], original[name][:30])
        assert repaired[name].shape == original[name].shape


def test_missing_copies_of_the_embedding_are_tied():
    original = random_state_dict()
    for kept in SHARED_EMBEDDING:
        state_dict = {n: v for n, v in original.items() if n == kept or n not in SHARED_EMBEDDING}
        repaired, _ = repair_state_dict(state_dict, SMALL)
        assert all(repaired.tensors[name] is original[kept] for name in SHARED_EMBEDDING)


def test_untied_embeddings_are_refused():
    state_dict = random_state_dict()
    state_dict[SHARED_EMBEDDING[2]] = state_dict[EMBEDDING] + 1
    with pytest.raises(CheckpointMismatchError, match="share_all_embeddings"):
        repair_state_dict(state_dict, SMALL)


@pytest.mark.parametrize(
    ("name", "shape", "cause"),
    [
        ("encoder.layers.0.fc1.weight", (24, 32), "another model size"),
        ("encoder.layers.0.self_attn.c_attn", (4,), "number of attention heads"),
        ("decoder.token_rel_pos_table_list.0.weight", (511, 2), "another bucket size"),
        ("decoder.token_rel_pos_table_list.0.weight", (15, 3), "number of attention heads"),
        ("encoder.embed_images.layer2.0.conv1.weight", (9, 16, 1, 1), "another ResNet"),
        ("encoder.embed_positions.weight", (1026, 16), "number of positions"),
    ],
)
def test_wrong_shapes_name_tensor_shapes_and_cause(name, shape, cause):
    state_dict = random_state_dict()
    wanted = state_dict[name].shape
    state_dict[name] = np.zeros(shape, np.float32)
    with pytest.raises(CheckpointMismatchError) as error:
        repair_state_dict(state_dict, SMALL)
    for part in (name, str(shape), str(wanted), cause, "--tolerant"):
        assert part in str(error.value)
    initial = random_state_dict()
    repaired, report = repair_state_dict(state_dict, SMALL, initial=lambda: initial, tolerant=True)
    assert report.kept_at_initialization == [name]
    assert repaired.tensors[name] is initial[name]


def test_missing_and_unknown_names():
    state_dict = random_state_dict()
    missing = "decoder.layers.0.cross_attn_ln.weight"
    del state_dict[missing]
    state_dict["encoder.layers.0.adapter.down_proj.weight"] = np.zeros((2, 16))
    state_dict["encoder.layers.7.fc1.weight"] = np.zeros((24, 16))
    with pytest.raises(CheckpointMismatchError) as error:
        repair_state_dict(state_dict, SMALL)
    for part in (missing, "is missing", "adapters", "layers.7", "in 3 of"):
        assert part in str(error.value)
    with pytest.raises(CheckpointMismatchError, match="no initial values"):
        repair_state_dict(state_dict, SMALL, tolerant=True)
    initial = random_state_dict()
    repaired, report = repair_state_dict(state_dict, SMALL, initial=lambda: initial, tolerant=True)
    assert report.kept_at_initialization == [missing]
    assert len(report.dropped) == 2
    assert repaired.tensors[missing] is initial[missing]
    assert report.lines() == [
        f"kept at initialization: {missing} (is missing in the file, the model needs (16,))",
        "dropped: encoder.layers.0.adapter.down_proj.weight (adapters (parameter-efficient "
        "tuning), which this configuration does not have)",
        "dropped: encoder.layers.7.fc1.weight (a layer that the configuration does not have, or a "
        "part of another OFA version)",
    ]
    assert to_params(repaired, SMALL)["params"]["decoder"]


def test_the_list_of_what_was_kept_is_complete():
    state_dict = random_state_dict()
    lost = [name for name in state_dict if name.startswith("decoder.layers.0.")]
    for name in lost:
        del state_dict[name]
    _, report = repair_state_dict(state_dict, SMALL, initial=random_state_dict, tolerant=True)
    assert len(lost) > 20
    kept = [line.split()[3] for line in report.lines() if line.startswith("kept at init")]
    assert kept == lost


def test_nothing_in_common_is_an_error_even_when_tolerant():
    with pytest.raises(CheckpointMismatchError, match="not one tensor"):
        repair_state_dict({"bert.weight": np.zeros(3)}, SMALL, initial=dict, tolerant=True)
