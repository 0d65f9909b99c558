"""The parity check on a directory it has never seen: odd sizes, and numbers of a numpy model."""

import json

import numpy as np
import pytest

from tests.parity import check
from tests.parity.fixture import Fixture, config_from_fixture
from tests.parity.reference import Reference
from tests.parity.run import Run
from tests.parity.synthetic import (
    Recipe,
    config_json,
    gradient_statistics,
    run_reference,
    write_fixture,
)

# Nothing here is as in `mini`, nor as in the official sizes.
ODD = {
    "text": 77,
    "codes": 9,
    "bins": 7,
    "resnet_layers": [1, 2, 1],
    "embed_dim": 48,
    "attention_heads": 3,
    "ffn_embed_dim": 80,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "token_bucket_size": 8,
    "image_bucket_size": 40,
    "max_source_positions": 300,
    "max_target_positions": 300,
    "code_image_size": 24,
    "orig_patch_image_size": 48,
    "sync_bn": True,
}
TEXT = (
    Recipe(
        "words",
        source_lengths=(15, 9, 4),
        target_lengths=(3, 14, 6),
        greedy=True,
        searches={"beam3_len6_ngram2_temp0.7": None},
    ),
    Recipe(
        "pictures",
        source_lengths=(5, 7),
        target_lengths=(10, 6),
        is_code=(True, False),
        searches={"gen_code_beam2_len5": "codes"},
    ),
)
IMAGES = (
    Recipe(
        "seen",
        source_lengths=(9, 5),
        target_lengths=(4, 6),
        image_size=(50, 37),
        has_image=(True, False),
        greedy=True,
        searches={
            "box_beam3": "bins",
            "trie_beam2": [[10, 11], [10, 12, 13], [14]],
            "beam2_unnorm": None,
            "beam3_len5_lenpen0.5_min3": None,
        },
    ),
    Recipe(
        "seen_interp",
        source_lengths=(4, 4),
        target_lengths=(3, 5),
        images_of="seen",
        options={"interpolate_position": True},
    ),
    Recipe("seen_scale_resids", resids=True),
    Recipe(
        "sampled",
        source_lengths=(6, 8),
        target_lengths=(5, 2),
        image_size=(64, 33),
        patches=5,
        options={"sample_patch_num": 5},
    ),
)


def add_gradients(directory, names):
    """Stores gradients of ours, which are checked against finite differences of the reference."""
    fixture = Fixture(directory)
    entries = {}
    for name in names:
        run = Run(fixture.case(name), gradients=True)
        loss, gradients = run.official_gradients()
        check_direction(fixture, name, gradients)
        entries[name] = gradient_statistics(loss, gradients, int(run.target_mask.sum()))
    (directory / "grad_stats.json").write_text(json.dumps(entries))


def check_direction(fixture, name, gradients):
    """Slope of the reference's loss in a random direction against the gradient."""
    case = fixture.case(name)
    weights = {k: v.astype(np.float64) for k, v in fixture.state_dict().items()}
    rng = np.random.default_rng(1)
    # Each tensor moves in proportion to its gradient's size, so that none is lost in the sum.
    direction = {
        k: rng.normal(size=v.shape) / (np.linalg.norm(gradients[k]) + 1e-3)
        for k, v in weights.items()
        if k in gradients
    }

    def loss(step):
        moved = {k: v + step * direction.get(k, 0.0) for k, v in weights.items()}
        reference = Reference(moved, fixture.config, **case.options())
        outputs = run_reference(reference, case.arrays)[0]
        return -outputs["target_logprob"][case.arrays["in.target"] != 1].sum()

    step = 1e-7
    slope = (loss(step) - loss(-step)) / (2 * step)
    expected = sum(np.vdot(gradients[k].astype(np.float64), d) for k, d in direction.items())
    assert slope == pytest.approx(expected, rel=1e-3)


def check_directory(directory, capsys, *arguments):
    """Exit status and printed lines of the check."""
    status = check.main([str(directory), *arguments])
    return status, capsys.readouterr().out.splitlines()


def perturb(directory, name, factor):
    with np.load(directory / "weights.npz") as stored:
        weights = dict(stored)
    weights[name] = (weights[name] * factor).astype(np.float16)
    np.savez(directory / "weights.npz", **weights)


@pytest.mark.slow
def test_odd_sizes_pass_and_a_wrong_weight_fails(tmp_path, capsys):
    write_fixture(tmp_path, config_json(**ODD), TEXT)
    add_gradients(tmp_path, ["words"])
    status, lines = check_directory(tmp_path, capsys)
    assert lines[-1] == "parity: OK", lines
    assert status == 0
    words = lines[1].split()
    assert (words[0], words[6:9]) == ("words", ["equal", "equal", "(1)"])

    perturb(tmp_path, "decoder.layers.0.encoder_attn.c_attn", 1.01)
    status, lines = check_directory(
        tmp_path, capsys, "--cases", "words", "--skip", "greedy", "beams"
    )
    assert status == 1
    assert lines[-1].startswith("parity: FAIL (")
    assert any(line.startswith("words: logits differs by") for line in lines)
    assert not any("encoder differs" in line for line in lines)


@pytest.mark.slow
def test_odd_sizes_with_images(tmp_path, capsys):
    config = config_json(**ODD)
    write_fixture(tmp_path, config, IMAGES)
    add_gradients(tmp_path, ["seen", "sampled"])
    status, lines = check_directory(tmp_path, capsys)
    assert lines[-1] == "parity: OK", lines
    assert status == 0
    assert len(lines) == 2 + len(IMAGES)

    perturb(tmp_path, "encoder.embed_images.layer3.0.conv2.weight", 1.01)
    status, lines = check_directory(tmp_path, capsys, "--skip", "gradients", "greedy", "beams")
    assert status == 1
    assert all(any(line.startswith(f"{r.name}: encoder differs") for line in lines) for r in IMAGES)


def test_configuration_of_odd_sizes():
    config = config_from_fixture(config_json(**ODD))
    assert (config.vocab_size, config.num_codes, config.head_dim) == (98, 9, 16)
    assert (config.encoder_layers, config.decoder_layers) == (3, 1)
    assert config.resnet.stage_blocks == (1, 2, 1)
    assert config.code_window == 3
    assert config.batch_norm_eps == 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale_heads": False}, "scale_heads = False"),
        ({"activation_fn": "relu"}, "activation_fn = 'relu'"),
        ({"decoder_ffn_embed_dim": 96}, "encoder_ffn_embed_dim 80 and decoder_ffn_embed_dim 96"),
        ({"max_target_positions": 64}, r"\(300, 64\)"),
    ],
)
def test_another_architecture_is_named(change, message):
    config = config_json(**ODD)
    config["args"].update(change)
    with pytest.raises(ValueError, match=message):
        config_from_fixture(config)


def test_resnet_is_read_from_its_type_where_blocks_are_not_listed():
    config = config_json(**ODD)
    del config["resnet_layers"]
    config["args"]["resnet_type"] = "resnet101"
    assert config_from_fixture(config).resnet.stage_blocks == (3, 4, 23)


def test_missing_inputs_are_named(tmp_path, capsys):
    write_fixture(tmp_path, config_json(**ODD), TEXT[:1])
    np.savez(tmp_path / "case_alone.npz", **{"out.logits": np.zeros(3)})
    status, lines = check_directory(tmp_path, capsys, "--cases", "alone")
    assert status == 1
    assert any("case alone has no inputs" in line for line in lines)
