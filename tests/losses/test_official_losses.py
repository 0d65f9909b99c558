"""Losses and their gradients equal the official criterion's (loss_cases, cider_cases)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.losses.cross_entropy import LossConfig, token_losses
from ofa_jax.losses.scst import leave_one_out_advantages, scst_token_losses
from ofa_jax.vocab import swap_official_ids
from tests.shared import fixtures_dir

FIXTURES = fixtures_dir()
SKIPPED = {
    "ls_accuracy": "the official code raises",
    "rdrop_masks": "NaN in the official code; test_rdrop_masks_finite",
}


def read_cases() -> dict:
    path = FIXTURES / "loss_cases.json"
    return json.loads(path.read_text()) if path.exists() else {}


def swap_columns(array: np.ndarray) -> np.ndarray:
    """Exchanges official bos and pad along the vocabulary axis."""
    return array[..., swap_official_ids(np.arange(array.shape[-1]))]


def config_of(criterion: dict) -> LossConfig:
    settings = {
        name: criterion[name]
        for name in ("label_smoothing", "drop_worst_ratio", "drop_worst_after", "ignore_eos")
        if name in criterion
    }
    if "constraint_range" in criterion:
        start, stop = criterion["constraint_range"].split(",")
        settings["constraint_range"] = (int(start), int(stop))
    if criterion.get("use_rdrop"):
        settings["rdrop_alpha"] = criterion["reg_alpha"]
    settings["ignore_prefix_size"] = criterion.get("ignore_prefix_size", 0)
    if criterion.get("sentence_avg"):
        settings["normalization"] = "examples"
    return LossConfig(**settings)


def inputs_of(name: str, case: dict) -> dict:
    arrays = np.load(FIXTURES / "loss_cases.npz")
    target = swap_official_ids(arrays[f"{name}.target"])
    weights = (target != 0).astype(np.float32)
    if f"{name}.conf" in arrays:
        weights *= arrays[f"{name}.conf"][:, None]
    masks = arrays.get(f"{name}.constraint_masks")
    masks = None if masks is None else swap_columns(masks)
    if case["rdrop"]:
        target, weights = np.concatenate([target] * 2), np.concatenate([weights] * 2)
        masks = None if masks is None else np.concatenate([masks] * 2)
    return {
        "logits": swap_columns(arrays[f"{name}.logits"]),
        "targets": target,
        "weights": weights,
        "constraint_masks": masks,
        "gradient": swap_columns(arrays[f"{name}.grad_logits"]),
    }


@pytest.mark.parametrize("tail", [0, 7])
@pytest.mark.parametrize("name", [name for name in read_cases() if name not in SKIPPED])
def test_case(name, tail):
    case = read_cases()[name]
    config = config_of(case["criterion"])
    inputs = inputs_of(name, case)
    vocab_size = inputs["logits"].shape[-1]
    logits = np.pad(inputs["logits"], [(0, 0), (0, 0), (0, tail)], constant_values=-1e9)

    @jax.jit
    def loss_fn(logits):
        losses = token_losses(
            logits,
            inputs["targets"],
            inputs["weights"],
            config,
            vocab_size=vocab_size,
            constraint_masks=inputs["constraint_masks"],
            step=case["update_num"],
        )
        return losses.loss_sum, losses

    (loss, losses), gradient = jax.value_and_grad(loss_fn, has_aux=True)(jnp.asarray(logits))
    np.testing.assert_allclose(loss, case["loss"], rtol=1e-5)
    np.testing.assert_allclose(losses.nll_sum, case["nll_loss"], rtol=1e-5)
    np.testing.assert_allclose(losses.example_loss.sum(), case["loss"], rtol=1e-5)
    if config.normalization == "examples":
        assert len(losses.loss) == case["sample_size"]
    else:
        assert losses.token_count == case["sample_size"]
        assert losses.example_tokens.sum() == case["sample_size"]
    np.testing.assert_allclose(gradient[..., :vocab_size], inputs["gradient"], atol=2e-6)
    assert not np.any(gradient[..., vocab_size:])


def test_rdrop_masks_finite():
    case = read_cases()["rdrop_masks"]
    inputs = inputs_of("rdrop_masks", case)
    config = config_of(case["criterion"])

    def loss_fn(logits):
        losses = token_losses(
            logits,
            inputs["targets"],
            inputs["weights"],
            config,
            vocab_size=logits.shape[-1],
            constraint_masks=inputs["constraint_masks"],
        )
        return losses.loss_sum, losses.nll_sum

    (loss, nll), gradient = jax.value_and_grad(loss_fn, has_aux=True)(inputs["logits"])
    np.testing.assert_allclose(nll, case["nll_loss"], rtol=1e-5)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert not gradient[~inputs["constraint_masks"]].any()


def test_scst_loss_and_baseline():
    cases = json.loads((FIXTURES / "cider_cases.json").read_text())
    case = cases["scst"]
    log_probabilities = swap_columns(np.asarray(case["lprobs"], np.float32))
    target = swap_official_ids(np.asarray(case["target"], np.int32))
    reward = np.asarray(case["reward"], np.float32).reshape(-1)
    losses = scst_token_losses(
        log_probabilities,
        target,
        target != 0,
        reward,
        vocab_size=log_probabilities.shape[-1],
    )
    np.testing.assert_allclose(losses.loss_sum, case["loss"], rtol=1e-5)
    assert losses.token_count == case["ntokens"]

    baseline = cases["scst_baseline"]
    advantages = leave_one_out_advantages(jnp.asarray(baseline["scores"]))
    np.testing.assert_allclose(advantages, baseline["reward"], atol=1e-6)
