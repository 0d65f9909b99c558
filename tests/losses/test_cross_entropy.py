"""Edges of the loss that the official fixtures do not reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.losses.cross_entropy import LossConfig, token_losses
from ofa_jax.losses.encouraging import encouraging_bonus
from ofa_jax.losses.rdrop import repeat_for_rdrop
from ofa_jax.losses.scst import leave_one_out_advantages
from ofa_jax.losses.vocabulary_terms import allowed_mask, vocabulary_terms

B, T, V = 3, 5, 12


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "logits": jnp.asarray(rng.normal(size=(B, T, V)) * 3, jnp.float32),
        "targets": jnp.asarray(rng.integers(4, V, (B, T)), jnp.int32),
        "weights": jnp.asarray(rng.uniform(0.5, 2, (B, T)), jnp.float32),
    }


def loss_and_gradient(batch, config, logits=None, vocab_size=V, **options):
    def loss_fn(logits):
        losses = token_losses(
            logits, batch["targets"], batch["weights"], config, vocab_size=vocab_size, **options
        )
        return losses.loss_sum, losses

    logits = batch["logits"] if logits is None else logits
    (loss, losses), gradient = jax.value_and_grad(loss_fn, has_aux=True)(logits)
    return loss, losses, gradient


def all_configs():
    return [
        LossConfig(),
        LossConfig(label_smoothing=0.1),
        LossConfig(label_smoothing=0.1, encouraging_log_end=0.75),
        LossConfig(encouraging_log_end=0.5, drop_worst_ratio=0.2, drop_worst_after=-1),
    ]


@pytest.mark.parametrize("config", all_configs())
def test_masks_all_false_are_finite_and_not_counted(batch, config):
    masks = np.zeros((B, T, V), bool)
    masks[0] = True
    loss, losses, gradient = loss_and_gradient(batch, config, constraint_masks=jnp.asarray(masks))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert losses.example_tokens[1] == losses.example_tokens[2] == 0
    assert not gradient[1:].any()
    assert gradient[0].any()

    loss, losses, gradient = loss_and_gradient(
        batch, config, constraint_masks=jnp.zeros((B, T, V), bool)
    )
    assert loss == losses.token_count == 0
    assert not gradient.any()


def test_one_allowed_id_costs_nothing(batch):
    masks = jax.nn.one_hot(batch["targets"], V).astype(bool)
    loss, losses, gradient = loss_and_gradient(
        batch, LossConfig(label_smoothing=0.1), constraint_masks=masks
    )
    assert loss == 0
    assert losses.token_count == B * T
    assert not gradient.any()


@pytest.mark.parametrize("config", all_configs())
def test_uncounted_tokens_do_not_matter(batch, config):
    weights = batch["weights"].at[:, 3:].set(0)
    part = {name: array[:, :3] for name, array in batch.items()}
    whole = loss_and_gradient(dict(batch, weights=weights), config)
    cut = loss_and_gradient(part, config)
    np.testing.assert_allclose(whole[0], cut[0], rtol=1e-6)
    np.testing.assert_allclose(whole[2][:, :3], cut[2], atol=1e-6)
    assert not whole[2][:, 3:].any()


def test_hand_written_gradient_equals_autodiff(batch):
    masks = jnp.asarray(np.random.default_rng(1).uniform(size=(B, T, V)) < 0.7)
    coefficients = np.random.default_rng(2).normal(size=(3, B, T)).astype(np.float32)

    def by_hand(logits, allowed):
        terms = vocabulary_terms(logits, batch["targets"], allowed)
        values = (terms.log_normalizer, terms.target_logit, terms.logit_sum)
        return sum(jnp.sum(c * v) for c, v in zip(coefficients, values, strict=True))

    def by_library(logits, allowed):
        masked = jnp.where(allowed, logits, -1e9)
        values = (
            jax.nn.logsumexp(masked, axis=-1),
            jnp.take_along_axis(masked, batch["targets"][..., None], -1)[..., 0],
            jnp.sum(jnp.where(allowed, logits, 0), axis=-1),
        )
        return sum(jnp.sum(c * v) for c, v in zip(coefficients, values, strict=True))

    for allowed in (masks, masks[0, 0]):
        expected = jax.value_and_grad(by_library)(batch["logits"], allowed)
        actual = jax.value_and_grad(by_hand)(batch["logits"], allowed)
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
        np.testing.assert_allclose(actual[1], expected[1], atol=1e-5)


def test_bfloat16_logits_are_reduced_in_float32(batch):
    low = batch["logits"].astype(jnp.bfloat16)
    loss, losses, gradient = loss_and_gradient(batch, LossConfig(), logits=low)
    expected = loss_and_gradient(batch, LossConfig(), logits=low.astype(jnp.float32))
    assert losses.loss.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)


def test_keeps_no_table_of_the_vocabulary():
    """Without smoothing, forward and backward hold the logits and their gradient, no third copy."""
    shape = (4, 32, 4096)
    logits = jax.ShapeDtypeStruct(shape, jnp.float32)
    small = jax.ShapeDtypeStruct(shape[:2], jnp.int32)

    def loss_fn(logits, targets):
        return token_losses(
            logits, targets, jnp.ones(shape[:2]), LossConfig(), vocab_size=shape[-1]
        ).loss_sum

    compiled = jax.jit(jax.grad(loss_fn)).lower(logits, small).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * np.prod(shape) / 4


def test_encouraging_bonus_continues_by_its_tangent():
    p = jnp.asarray([0.0, 0.5, 0.75, 0.9, 1.0])
    expected = [0, np.log(0.5), np.log(0.25), np.log(0.25) - 0.6, np.log(0.25) - 1.0]
    np.testing.assert_allclose(encouraging_bonus(p, 0.75), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(encouraging_bonus(p, 1.0)[-1], np.log(1e-5), rtol=1e-5)


def test_encouraging_loss_by_formula(batch):
    eps, log_end = 0.1, 0.75
    config = LossConfig(label_smoothing=eps, encouraging_log_end=log_end)
    loss, _, _ = loss_and_gradient(batch, config)
    plain, _, _ = loss_and_gradient(batch, LossConfig(label_smoothing=eps))
    scaled = batch["weights"][..., None] * jax.nn.log_softmax(batch["logits"])
    bonus = encouraging_bonus(jnp.exp(scaled), log_end)
    target_bonus = jnp.take_along_axis(bonus, batch["targets"][..., None], -1)
    np.testing.assert_allclose(
        loss - plain, (1 - eps) * target_bonus.sum() + eps / V * bonus.sum(), rtol=1e-4
    )


def test_drop_best_keeps_the_hardest(batch):
    config = LossConfig(drop_best_ratio=0.5, drop_best_after=0)
    _, before, _ = loss_and_gradient(batch, config, step=0)
    _, after, _ = loss_and_gradient(batch, config, step=1)
    assert before.token_count == B * T
    assert after.token_count == int(B * T * 0.5)
    kept = np.asarray(after.counted, bool)
    assert np.asarray(before.loss)[kept].min() >= np.asarray(before.loss)[~kept].max()


def test_correct_counts_the_argmax(batch):
    targets = jnp.argmax(batch["logits"], -1).at[0, 0].add(1) % V
    losses = token_losses(batch["logits"], targets, batch["weights"], LossConfig(), vocab_size=V)
    assert losses.correct.sum() == B * T - 1


def test_repeat_for_rdrop_puts_the_second_pass_behind():
    repeated = repeat_for_rdrop({"x": jnp.arange(3)})
    np.testing.assert_array_equal(repeated["x"], [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"drop_worst_ratio": -0.1}, "drop_worst_ratio"),
        ({"rdrop_alpha": -1.0}, "rdrop_alpha"),
        ({"encouraging_log_end": 0.0}, "encouraging_log_end"),
        ({"normalization": "mean"}, "normalization.*'mean'"),
        ({"normalization": "group", "drop_worst_ratio": 0.1}, "exclude each other"),
    ],
)
def test_config_errors_name_the_setting(settings, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)


def test_call_errors(batch):
    with pytest.raises(ValueError, match="twice, got 3 rows"):
        loss_and_gradient(batch, LossConfig(rdrop_alpha=1.0))
    with pytest.raises(ValueError, match="constraint range 2,5"):
        loss_and_gradient(batch, LossConfig(constraint_range=(2, 5)))
    with pytest.raises(ValueError, match="3 wide, expected 12"):
        allowed_mask(V, V, None, jnp.ones((B, T, 3), bool))
    with pytest.raises(ValueError, match="exceeds the width"):
        allowed_mask(V, V + 1)
    with pytest.raises(ValueError, match="at least 2 samples"):
        leave_one_out_advantages(jnp.ones((3, 1)))
