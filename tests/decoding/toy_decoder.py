"""A small random decoder with state: enough to notice any beam that carries the wrong cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ofa_jax.decoding.rules import Cache


class ToyDecoder:
    """state' = tanh(state A + E[token] + P[position]); logits = state' O + bias[sentence].

    The state lives in cache["self"] and thus has to be moved with the beams; the bias lives in
    cache["cross"] and must not be.
    """

    def __init__(self, seed: int, *, batch: int, vocab: int, places: int, sharpness: float = 2.5):
        rng = np.random.default_rng(seed)
        width = 8
        self.mix = rng.normal(size=(width, width)).astype(np.float32)
        self.embedding = rng.normal(size=(vocab, width)).astype(np.float32)
        self.position = rng.normal(size=(places, width)).astype(np.float32)
        self.output = (rng.normal(size=(width, vocab)) * sharpness / 2.8).astype(np.float32)
        self.bias = rng.normal(size=(batch, vocab)).astype(np.float32)
        self.bias[:, 2] += rng.uniform(-1, 2.5)
        self.batch, self.width = batch, width

    def init_cache(self, beams: int) -> Cache:
        """The cache before position 0. The weights travel in it, so that one jit serves all."""
        weights = (self.mix, self.embedding, self.position, self.output)
        return {
            "self": {"layers": [jnp.zeros((self.batch, beams, self.width))]},
            "cross": jnp.asarray(self.bias),
            "weights": [jnp.asarray(weight) for weight in weights],
        }

    def next_logits(self, sentence: int, tokens: list[int]) -> np.ndarray:
        """float64[v] after BOS and `tokens`, recomputed from the start."""
        state = np.zeros(self.width)
        for position, token in enumerate([1, *tokens]):
            state = np.tanh(
                state @ self.mix.astype(np.float64)
                + self.embedding[token]
                + self.position[position]
            )
        return state @ self.output.astype(np.float64) + self.bias[sentence]


def step(cache: Cache, tokens: jax.Array, position: jax.Array) -> tuple[jax.Array, Cache]:
    """One position of all beams; see `ofa_jax.decoding.rules`."""
    mix, embedding, positions, output = cache["weights"]
    state = jnp.tanh(
        jnp.dot(cache["self"]["layers"][0], mix, precision="highest")
        + embedding[tokens]
        + positions[position]
    )
    logits = jnp.dot(state, output, precision="highest") + cache["cross"][:, None]
    return logits, {**cache, "self": {"layers": [state]}}
