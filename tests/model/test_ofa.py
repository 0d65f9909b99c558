"""The whole model: inputs it may lack, masks, randomness, initialization, gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.model import OFA, SIZES
from ofa_jax.model.ofa import normalize_images
from tests.model.small import CONFIG, jitted, make_batch, make_config, make_variables


@functools.cache
def forward_of(config):
    return jitted(OFA(config).apply, fused=True)


def logits_of(config, batch):
    return np.asarray(forward_of(config)(make_variables(config), batch))


def without(batch, *names):
    return {name: value for name, value in batch.items() if name not in names}


def test_shapes_and_masked_tail():
    logits = logits_of(CONFIG, make_batch())
    assert logits.shape == (4, 17, 128)
    assert logits.dtype == np.float32
    assert (logits[..., 70:] < -1e8).all()
    assert np.abs(logits[..., :70]).max() < 100


def test_normalization_of_pixels():
    images = np.full((2, 4, 5, 3), 255, np.uint8)
    images[:, 0] = 0
    holes = np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.int32)
    found = np.asarray(normalize_images(images, np.array([True, False]), holes))
    assert (found[0, 0] == -1).all()
    assert (found[0, 2:4, 1:3] == 0).all()
    assert (found[0, 1] == 1).all()
    assert found[0].sum() == 3 * (5 * -1 + 15 - 4)
    assert not found[1].any()
    floats = np.asarray(normalize_images(np.full((1, 2, 2, 3), 0.5), np.array([True]), None))
    assert (floats == 0.5).all()


def test_a_row_without_image_ignores_its_pixels_and_its_padding():
    batch = make_batch()
    first = logits_of(CONFIG, batch)
    changed = {name: value.copy() for name, value in batch.items()}
    changed["encoder_images"][2] = 7
    changed["encoder_image_holes"][2] = (0, 0, 9, 9)
    second = logits_of(CONFIG, changed)
    np.testing.assert_allclose(first, second, atol=1e-5)
    changed["encoder_images"][0] = 7
    assert not np.allclose(first[0], logits_of(CONFIG, changed)[0], atol=1e-3)


def test_longer_padding_changes_nothing():
    batch = make_batch(images=False)
    longer = {
        **batch,
        "encoder_input_tokens": np.pad(batch["encoder_input_tokens"], ((0, 0), (0, 4))),
    }
    np.testing.assert_allclose(logits_of(CONFIG, batch), logits_of(CONFIG, longer), atol=1e-5)


def test_optional_inputs_have_neutral_defaults():
    batch = make_batch()
    neutral = {
        **batch,
        "encoder_image_masks": np.ones(4, bool),
        "encoder_image_holes": np.zeros((4, 4), np.int32),
    }
    np.testing.assert_allclose(
        logits_of(CONFIG, neutral),
        logits_of(CONFIG, without(batch, "encoder_image_masks", "encoder_image_holes")),
        atol=1e-6,
    )


def test_text_only_equals_masked_images():
    batch = make_batch()
    masked = {**batch, "encoder_image_masks": np.zeros(4, bool)}
    np.testing.assert_allclose(
        logits_of(CONFIG, masked), logits_of(CONFIG, without(batch, "encoder_images")), atol=1e-5
    )


def test_decoder_is_causal():
    batch = make_batch(images=False)
    first = logits_of(CONFIG, batch)
    changed = {**batch, "decoder_input_tokens": batch["decoder_input_tokens"].copy()}
    changed["decoder_input_tokens"][:, 9] = 6
    second = logits_of(CONFIG, changed)
    np.testing.assert_allclose(first[:, :9], second[:, :9], atol=1e-6)
    assert not np.allclose(first[:, 9:], second[:, 9:], atol=1e-3)


def test_too_long_a_text_is_named():
    batch = make_batch(s=40)
    with pytest.raises(ValueError, match=r"encoder_input_tokens .*40"):
        jax.eval_shape(OFA(CONFIG).apply, make_variables(), batch)


def test_too_large_an_image_is_named():
    batch = make_batch(size=(64, 32))
    with pytest.raises(ValueError, match="8x4 patches"):
        jax.eval_shape(OFA(CONFIG).apply, make_variables(), batch)


def test_patches_are_sampled_only_in_training():
    config = make_config(sample_patch_num=5)
    batch, variables = make_batch(), make_variables()

    def encode(train, key):
        return OFA(config).apply(
            variables,
            batch,
            train=train,
            method="encode",
            mutable=["batch_stats"],
            rngs={"patches": key},
        )[0]

    forward = jitted(encode, static_argnums=0)
    first, second = (forward(True, jax.random.key(i)) for i in range(2))
    assert first.states.shape == (4, 5 + 9, 24)
    assert first.positions.shape[0] == 4
    assert not np.allclose(first.positions, second.positions)
    # Each row keeps its own patches.
    assert not np.allclose(first.positions[0], first.positions[1])
    assert forward(False, jax.random.key(0)).states.shape == (4, 12 + 9, 24)


DROPOUTS = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "encoder_drop_path",
    "decoder_drop_path",
)


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        ("dropout", "loop"),
        ("encoder_drop_path", "scan"),
        *(pytest.param(name, "loop", marks=pytest.mark.slow) for name in DROPOUTS[1:]),
    ],
)
def test_every_dropout_acts_in_training_only(name, stack):
    config = make_config(**{name: 0.4}, layer_stack=stack, batch_norm="frozen")
    batch, variables = make_batch(b=2, t=4, images=False), make_variables(config)
    model = OFA(config)
    forward = jitted(lambda key: model.apply(variables, batch, train=True, rngs={"dropout": key}))
    first, again, second = (forward(jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, second, atol=1e-4)


def test_bfloat16_stays_close():
    batch = make_batch()
    exact = logits_of(CONFIG, batch)
    found = logits_of(make_config(dtype="bfloat16"), batch)
    assert found.dtype == np.float32
    scale = exact[..., :70].std()
    assert np.abs(found - exact)[..., :70].mean() < 0.05 * scale


def gradients_of(config, batch):
    variables = make_variables(config)
    targets = jnp.asarray(batch["decoder_target_tokens"])

    def loss(params):
        logits = OFA(config).apply({**variables, "params": params}, batch)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
        return -picked.mean()

    return jitted(jax.grad(loss))(variables["params"])


@pytest.mark.parametrize("stack", [pytest.param("loop", marks=pytest.mark.slow), "scan"])
def test_every_parameter_gets_a_gradient(stack):
    config = make_config(layer_stack=stack, scale_resids=True)
    gradients = gradients_of(config, make_batch())
    total = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradients)))
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    assert len(leaves) > 100
    for path, gradient in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(gradient).all(), name
        norm = float(jnp.linalg.norm(gradient.reshape(-1)))
        # Softmax does not see what all keys share: the biases of keys have gradient zero.
        if name.endswith("key/bias"):
            assert norm < 1e-5 * total, name
        else:
            assert norm > 1e-6 * total, name


def test_padded_vocabulary_rows_get_no_gradient():
    gradient = gradients_of(CONFIG, make_batch(images=False))["token_embedding"]["embedding"]
    assert not np.any(gradient[70:])
    assert np.any(gradient[69])


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "medium"])
def test_initial_loss_is_that_of_guessing(size):
    """Within 10 percent of ln(vocabulary), SPEC 1.10; nano's is in tests/training."""
    config = dataclasses.replace(
        SIZES[size], vocab_size=600, padded_vocab_size=640, resnet=SIZES["nano"].resnet
    )
    rng = np.random.default_rng(0)
    side = 4 * config.resnet.stride
    batch = {
        "encoder_input_tokens": rng.integers(4, 600, (4, 12)).astype(np.int32),
        "encoder_images": rng.integers(0, 256, (4, side, side, 3)).astype(np.uint8),
        "decoder_input_tokens": rng.integers(4, 600, (4, 17)).astype(np.int32),
        "decoder_code_masks": np.arange(4) == 0,
    }
    targets = rng.integers(4, 600, (4, 17))

    def initial_loss(key):
        model = OFA(config)
        variables = nn.unbox(model.init(key, batch))
        logits = model.apply(variables, batch, train=True, mutable=["batch_stats"])[0]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1).mean()

    loss = float(jitted(initial_loss)(jax.random.key(0)))
    assert loss == pytest.approx(np.log(600), rel=0.1)


@pytest.mark.slow
def test_initial_scales_of_an_official_size():
    """SPEC 1.10: every embedding and linear weight N(0, 0.02), norms (1, 0), head scales 1."""
    one_block = dataclasses.replace(SIZES["tiny"].resnet, stage_blocks=(1, 1, 1))
    config = dataclasses.replace(
        SIZES["tiny"], vocab_size=900, encoder_layers=1, decoder_layers=1, resnet=one_block
    )
    batch = {name: value[:1, :2] for name, value in make_batch().items() if "tokens" in name}
    params = nn.unbox(jitted(OFA(config).init)(jax.random.key(0), batch))["params"]
    checked = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "resnet" in name and name.endswith("kernel"):
            fan_out = leaf.shape[0] * leaf.shape[1] * leaf.shape[3]
            assert np.std(leaf) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
        elif name.endswith(("kernel", "embedding")):
            assert np.std(leaf) == pytest.approx(0.02, rel=0.1), name
            checked += 1
        else:
            expected = 0.0 if name.endswith("bias") else 1.0
            assert (np.asarray(leaf) == expected).all(), name
    assert checked > 30
