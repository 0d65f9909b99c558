"""Attention: the concatenation identity, the masks, and all implementations against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofa_jax.ops.attention import attention, position_bias

B, T, N, H, K = 2, 5, 7, 3, 4


def random_inputs(position_batch=1, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "query": normal(B, T, H, K),
        "key": normal(B, N, H, K),
        "value": normal(B, N, H, K),
        "query_position": normal(position_batch, T, H, K),
        "key_position": normal(position_batch, N, H, K),
        "bias": normal(1, H, T, N),
        "key_mask": np.arange(N)[None] < np.array([[7], [4]]),
    }


def first_keys(x, n):
    """The same inputs with the first n of N keys only."""
    cut = {name: x[name][:, :n] for name in ("key", "value", "key_position", "key_mask")}
    return {**x, **cut, "bias": x["bias"][..., :n]}


def in_numpy(x, causal=False):
    scale = (2 * K) ** -0.5
    content = np.einsum("bthk,bnhk->bhtn", x["query"], x["key"]) * scale
    absolute = np.einsum("bthk,bnhk->bhtn", x["query_position"], x["key_position"]) * scale
    logits = content + absolute + x["bias"]
    logits = np.where(x["key_mask"][:, None, None], logits, -np.inf)
    if causal:
        t, n = logits.shape[-2:]
        logits = np.where(np.tril(np.ones((t, n), bool), n - t), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhtn,bnhk->bthk", weights, x["value"])


@pytest.mark.parametrize("position_batch", [1, B])
@pytest.mark.parametrize("implementation", ["auto", "xla", "fused"])
def test_equals_numpy(position_batch, implementation):
    x = random_inputs(position_batch)
    found = attention(**x, implementation=implementation)
    np.testing.assert_allclose(found, in_numpy(x), atol=1e-5)


@pytest.mark.parametrize("implementation", ["xla", "fused"])
@pytest.mark.parametrize("prefix", [0, N - T])
def test_causal(implementation, prefix):
    x = first_keys(random_inputs(), T + prefix)
    found = attention(**x, causal=True, implementation=implementation)
    np.testing.assert_allclose(found, in_numpy(x, causal=True), atol=1e-5)


def test_a_causal_query_sees_the_prefix_and_nothing_later():
    x = random_inputs()
    found = attention(**x, causal=True)
    later = {**x, "value": x["value"].copy()}
    later["value"][:, N - T + 1 :] += 1.0
    earlier = {**x, "value": x["value"].copy()}
    earlier["value"][:, : N - T] += 1.0
    np.testing.assert_array_equal(attention(**later, causal=True)[:, 0], found[:, 0])
    assert np.all(np.abs(attention(**earlier, causal=True) - found) > 1e-3)


def test_shared_positions_equal_repeated_ones():
    x = random_inputs()
    repeated = {**x}
    for name in ("query_position", "key_position"):
        repeated[name] = np.repeat(x[name], B, axis=0)
    np.testing.assert_allclose(attention(**x), attention(**repeated), atol=1e-6)


def test_position_bias_is_the_dot_product():
    x = random_inputs(B)
    found = position_bias(x["query_position"], x["key_position"])
    scale = (2 * K) ** -0.5
    expected = np.einsum("bthk,bnhk->bhtn", x["query_position"], x["key_position"]) * scale
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_row_without_keys_stays_finite():
    x = random_inputs()
    x["key_mask"] = np.zeros((B, N), bool)
    value, gradient = jax.value_and_grad(lambda q: attention(**{**x, "query": q}).sum())(
        jnp.asarray(x["query"])
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_masked_keys_get_no_gradient():
    x = random_inputs()

    def loss(key, value):
        return jnp.sum(jnp.sin(attention(**{**x, "key": key, "value": value})))

    gradients = jax.grad(loss, argnums=(0, 1))(jnp.asarray(x["key"]), jnp.asarray(x["value"]))
    for gradient in gradients:
        assert not np.asarray(gradient)[~x["key_mask"]].any()
        assert np.asarray(gradient)[x["key_mask"]].any()


def test_softmax_is_float32_in_bfloat16():
    x = {
        name: jnp.asarray(array, jnp.bfloat16) if array.dtype == np.float32 else array
        for name, array in random_inputs().items()
    }
    found = attention(**x)
    assert found.dtype == jnp.bfloat16
    exact = in_numpy(
        {name: np.asarray(a, np.float32) for name, a in x.items()} | {"key_mask": x["key_mask"]}
    )
    np.testing.assert_allclose(np.asarray(found, np.float32), exact, atol=0.03)


def test_dropout_keeps_the_mean():
    x = random_inputs()
    plain = attention(**x)
    keys = jax.random.split(jax.random.key(0), 100)
    dropped = jax.jit(jax.vmap(lambda key: attention(**x, dropout_rate=0.3, dropout_rng=key)))(keys)
    assert float(jnp.std(dropped, axis=0).min()) > 0
    np.testing.assert_allclose(dropped.mean(axis=0), plain, atol=0.3)


def test_errors_name_what_is_wrong():
    x = random_inputs()
    with pytest.raises(ValueError, match="magic"):
        attention(**x, implementation="magic")
    del x["key_position"]
    with pytest.raises(ValueError, match="together"):
        attention(**x)
