"""Steps of the decoder with and without its cache."""

import jax
import jax.numpy as jnp

from ofa_jax.model import OFA
from tests.model.small import jitted

BEAMS = 3


def run_steps(config, batch, variables, order=None, patch_orders=None):
    """Logits of every step, float[b, g, t, v], with beams reordered before each step."""
    model = OFA(config)
    t = batch["decoder_input_tokens"].shape[1]
    tokens = jnp.repeat(jnp.asarray(batch["decoder_input_tokens"])[:, None], BEAMS, axis=1)
    # The last beam sees other tokens, so that mixing beams up would show.
    tokens = tokens.at[:, -1, 1:].set(5)

    def decode(variables, batch):
        encoded = model.apply(variables, batch, patch_orders=patch_orders, method="encode")
        cache = model.apply(
            variables,
            encoded,
            batch["decoder_code_masks"],
            beams=BEAMS,
            max_length=t,
            method="init_cache",
        )

        def step(cache, position):
            if order is not None:
                cache = {**cache, "self": jax.tree.map(lambda x: x[:, order], cache["self"])}
            inputs = jax.lax.dynamic_index_in_dim(tokens, position, 2, keepdims=False)
            logits, cache = model.apply(variables, cache, inputs, position, method="decode_step")
            return cache, logits

        return jnp.moveaxis(jax.lax.scan(step, cache, jnp.arange(t))[1], 0, 2)

    return jitted(decode)(variables, batch)


def teacher_forced(config, batch, variables, patch_orders=None):
    model = OFA(config)
    return jitted(lambda v, b: model.apply(v, b, patch_orders=patch_orders))(variables, batch)
