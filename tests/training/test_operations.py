"""Operations counted in a jaxpr."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ofa_jax.model import flops
from ofa_jax.model.config import SIZES
from ofa_jax.model.ofa import OFA
from ofa_jax.training.operations import count_operations


def operations(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_operations(jax.make_jaxpr(function)(*arguments))


def test_products_loops_and_branches():
    assert operations(lambda x, w: x @ w, (4, 8), (8, 16)) == 2 * 4 * 8 * 16
    batched = lambda x, w: jnp.einsum("bij,bjk->bik", x, w)  # noqa: E731
    assert operations(batched, (3, 4, 8), (3, 8, 2)) == 2 * 3 * 4 * 8 * 2

    def loop(x, w):
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ w), None), x, length=5)[0]

    one = 2 * 4 * 8 * 8
    assert operations(loop, (4, 8), (8, 8)) == 5 * one
    total = lambda x, w: loop(x, w).sum()  # noqa: E731
    assert operations(jax.grad(total, argnums=(0, 1)), (4, 8), (8, 8)) == 3 * 5 * one
    again = lambda x, w: jnp.tanh(jax.checkpoint(loop)(x, w)).sum()  # noqa: E731
    assert operations(jax.grad(again, argnums=(0, 1)), (4, 8), (8, 8)) == 4 * 5 * one
    either = lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)  # noqa: E731
    assert operations(jax.jit(either), (4, 8), (8, 8)) == one


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_and_their_gradients(stride):
    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, w = (2, 8, 8, 3), (3, 3, 3, 5)
    out = 2 * (8 // stride) ** 2 * 5
    forward = 2 * out * 3 * 3 * 3
    assert operations(convolve, x, w) == forward
    gradient = jax.grad(lambda x, w: convolve(x, w).sum(), argnums=(0, 1))
    assert operations(gradient, x, w) == pytest.approx(3 * forward, rel=0.01)


def test_the_model_runs_what_the_formula_says():
    config = dataclasses.replace(SIZES["nano"], layer_stack="scan", conv="xla", attention="xla")
    model = OFA(config)
    batch = {
        "encoder_images": jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8),
        "encoder_input_tokens": jax.ShapeDtypeStruct((2, 12), jnp.int32),
        "decoder_input_tokens": jax.ShapeDtypeStruct((2, 10), jnp.int32),
    }
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    counted = count_operations(jax.make_jaxpr(model.apply)(variables, batch))
    formula = 2 * flops.forward_flops(
        config, source_length=12, target_length=10, image_size=(32, 32)
    )
    # Besides: position logits, rows of the padded vocabulary.
    assert formula < counted < 1.25 * formula
