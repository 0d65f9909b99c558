"""The optimizer follows SPEC 6.1."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ofa_jax.training.optimizer import (
    MUON_RMS,
    OptimizerConfig,
    build_optimizer,
    check_patterns,
    clip_by_global_norm,
    matching_paths,
)
from ofa_jax.training.schedule import ScheduleConfig

CONSTANT = ScheduleConfig(peak=0.1, shape="constant")


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "decoder": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)},
        "norm": {"scale": jnp.asarray(rng.normal(size=4), jnp.float32)},
    }


def apply(config, params, gradients):
    tx, _ = build_optimizer(config)
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def fairseq_adam(params, gradients, lrs, betas, eps, decay, clip):
    """Plain numpy in double precision, one loop per formula of SPEC 6.1."""
    params = {k: np.asarray(v, np.float64) for k, v in params.items()}
    m = {k: np.zeros_like(v) for k, v in params.items()}
    v = {k: np.zeros_like(x) for k, x in params.items()}
    for t, (gradient, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradient.values()))
        factor = clip / (norm + 1e-6) if clip and norm > clip else 1.0
        for k in params:
            g = np.asarray(gradient[k], np.float64) * factor
            m[k] = betas[0] * m[k] + (1 - betas[0]) * g
            v[k] = betas[1] * v[k] + (1 - betas[1]) * g * g
            step = lr * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
            params[k] = params[k] - lr * decay * params[k]
            params[k] = params[k] - step * m[k] / (np.sqrt(v[k]) + eps)
    return params


@pytest.mark.parametrize("clip", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_equals_the_formulas(clip, eps):
    schedule = ScheduleConfig(peak=0.05, total_steps=20, warmup_steps=3)
    config = OptimizerConfig(schedule, clip_norm=clip, eps=eps, weight_decay=0.1)
    rng = np.random.default_rng(1)
    params = {"a": rng.normal(size=(3, 4)).astype(np.float32), "b": rng.normal(size=5)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    gradients = [
        jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
        for _ in range(8)
    ]
    _, schedule_fn = build_optimizer(config)
    lrs = [float(schedule_fn(n)) for n in range(8)]
    actual, _ = apply(config, params, gradients)
    expected = fairseq_adam(params, gradients, lrs, (0.9, 0.999), eps, 0.1, clip)
    for name in params:
        np.testing.assert_allclose(actual[name], expected[name], rtol=2e-5, atol=1e-6)


def test_moments_advance_while_the_first_rate_is_zero():
    config = OptimizerConfig(ScheduleConfig(peak=1.0, total_steps=9, warmup_steps=3))
    params = make_params()
    after, state = apply(config, params, [jax.tree.map(jnp.ones_like, params)])
    jax.tree.map(np.testing.assert_array_equal, after, params)
    adam = next(s for s in state if isinstance(s, optax.ScaleByAdamState))
    assert adam.count == 1
    assert all(np.all(m > 0) for m in jax.tree.leaves(adam.mu))


def test_clipping_is_by_the_norm_of_everything():
    tx = clip_by_global_norm(1.0)
    gradient = {"a": jnp.asarray([3.0]), "b": jnp.asarray([4.0])}
    clipped, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(clipped["a"], 0.6, rtol=1e-5)
    small = {"a": jnp.asarray([0.3]), "b": jnp.asarray([0.4])}
    np.testing.assert_allclose(tx.update(small, tx.init(small))[0]["a"], 0.3, rtol=1e-6)


def test_decay_reaches_all_parameters_unless_excluded():
    params = make_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    after, _ = apply(OptimizerConfig(CONSTANT, weight_decay=0.5), params, [zeros])
    jax.tree.map(lambda a, p: np.testing.assert_allclose(a, p * 0.95, rtol=1e-5), after, params)
    config = OptimizerConfig(CONSTANT, weight_decay=0.5, no_decay=("scale$",))
    after, _ = apply(config, params, [zeros])
    np.testing.assert_array_equal(after["norm"]["scale"], params["norm"]["scale"])
    assert not np.allclose(after["decoder"]["kernel"], params["decoder"]["kernel"])


def test_frozen_parameters_stay_and_have_no_moments():
    params = make_params()
    gradient = jax.tree.map(jnp.ones_like, params)
    after, state = apply(OptimizerConfig(CONSTANT, frozen=("^norm/",)), params, [gradient] * 2)
    np.testing.assert_array_equal(after["norm"]["scale"], params["norm"]["scale"])
    assert not np.allclose(after["decoder"]["kernel"], params["decoder"]["kernel"])
    assert not any(leaf.shape == (4,) for leaf in jax.tree.leaves(state))


def test_learning_rate_factors():
    params = make_params()
    gradient = jax.tree.map(jnp.ones_like, params)
    plain, _ = apply(OptimizerConfig(CONSTANT, weight_decay=0.0), params, [gradient])
    config = OptimizerConfig(
        CONSTANT, weight_decay=0.0, learning_rate_factors=(("decoder", 0.1), (".*", 2.0))
    )
    scaled, _ = apply(config, params, [gradient])
    for group, name, factor in (("decoder", "kernel", 0.1), ("norm", "scale", 2.0)):
        before = params[group][name]
        np.testing.assert_allclose(
            scaled[group][name] - before, factor * (plain[group][name] - before), rtol=1e-4
        )


def test_paths_keep_containers_and_look_into_boxes():
    params = make_params()
    boxed = jax.tree.map(lambda x: nn.LogicallyPartitioned(x, ("embed",) * x.ndim), params)
    for tree in (params, flax.core.freeze(params), boxed):
        labels = matching_paths(tree, ("^norm/scale$",))
        assert jax.tree.structure(labels) == jax.tree.structure(tree)
        assert jax.tree.leaves(labels) == [False, True]
    config = OptimizerConfig(CONSTANT, frozen=("norm",), no_decay=("kernel",))
    tx, _ = build_optimizer(config)
    jax.eval_shape(tx.init, flax.core.freeze(params))
    assert nn.get_partition_spec(jax.eval_shape(tx.init, boxed)) is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta2": 1.0}, "beta2"),
        ({"eps": 0.0}, "eps"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"frozen": "norm"}, "frozen must be a list, each a text"),
        ({"no_decay": ("(",)}, "regular expression"),
    ],
)
def test_config_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(CONSTANT, **settings)


def test_expression_without_a_match_is_an_error():
    config = OptimizerConfig(CONSTANT, frozen=("resnet",))
    with pytest.raises(ValueError, match=r"'resnet' .*decoder/kernel"):
        check_patterns(make_params(), config)
    check_patterns(make_params(), OptimizerConfig(CONSTANT, frozen=("norm",)))


def test_muon_moves_a_matrix_by_orthogonal_steps_and_leaves_the_rest_to_adam():
    params = make_params()
    rng = np.random.default_rng(1)
    gradients = [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        for _ in range(3)
    ]
    adam = OptimizerConfig(CONSTANT, weight_decay=0.0, clip_norm=0.0)
    muon = dataclasses.replace(adam, muon=("kernel$",))
    by_adam, _ = apply(adam, params, gradients[:1])
    by_muon, state = apply(muon, params, gradients[:1])
    np.testing.assert_array_equal(by_muon["norm"]["scale"], by_adam["norm"]["scale"])
    step = np.asarray(params["decoder"]["kernel"] - by_muon["decoder"]["kernel"])
    # Nesterov's first momentum is a multiple of the gradient: the step has its singular vectors,
    # and singular values that Newton-Schulz brings near one (0.7 to 1.2).
    left, _, right = np.linalg.svd(
        np.asarray(gradients[0]["decoder"]["kernel"]), full_matrices=False
    )
    inner = left.T @ step @ right.T / (0.1 * MUON_RMS * 3**0.5)
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-4)
    assert (np.abs(np.diag(inner) - 0.95) < 0.3).all()
    again, _ = apply(muon, params, gradients)
    assert not np.array_equal(again["decoder"]["kernel"], by_muon["decoder"]["kernel"])
    moments = [leaf.shape for leaf in jax.tree.leaves(state) if np.ndim(leaf) == 2]
    assert moments == [(3, 2)], "Muon keeps one moment of a matrix"


def test_muon_of_stacked_layers_is_muon_of_each():
    rng = np.random.default_rng(2)
    kernels = jnp.asarray(rng.normal(size=(2, 4, 6)), jnp.float32)
    gradient = jnp.asarray(rng.normal(size=(2, 4, 6)), jnp.float32)
    config = OptimizerConfig(CONSTANT, clip_norm=0.0, muon=("kernel",))
    stacked, _ = apply(config, {"kernel": kernels}, [{"kernel": gradient}])
    for i in range(2):
        alone, _ = apply(config, {"kernel": kernels[i]}, [{"kernel": gradient[i]}])
        np.testing.assert_allclose(stacked["kernel"][i], alone["kernel"], rtol=1e-5, atol=1e-6)


def test_muon_wants_matrices():
    with pytest.raises(ValueError, match=r"norm/scale.*not a matrix"):
        check_patterns(make_params(), OptimizerConfig(CONSTANT, muon=("kernel", "scale")))
    with pytest.raises(ValueError, match="matches no parameter"):
        check_patterns(make_params(), OptimizerConfig(CONSTANT, muon=("nothing",)))
