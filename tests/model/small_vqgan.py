"""A VQGAN of few numbers with random weights, for tests."""

import dataclasses
import functools

import numpy as np
from flax import traverse_util

from ofa_jax.checkpoint.vqgan import expected_parameters
from ofa_jax.model.vqgan import VQGANConfig

# Two levels, so that one code stands for 2 x 2 pixels; attention at the lower one.
GUMBEL = VQGANConfig(
    base_channels=32,
    channel_multipliers=(1, 2),
    blocks_per_level=1,
    attention_levels=(1,),
    latent_channels=8,
    embedding_dim=8,
    num_codes=24,
    kl_weight=0.5,
)
NEAREST = dataclasses.replace(GUMBEL, quantizer="nearest", latent_channels=6)


@functools.cache
def params(config: VQGANConfig) -> dict:
    """Random parameters; scores spread far enough that rounding changes no code."""
    rng = np.random.default_rng(0)
    found = {}
    for path, (_, shape) in expected_parameters(config).items():
        if len(shape) == 4:
            shape = (shape[2], shape[3], shape[1], shape[0])
        scale = {"scale": 0.2, "bias": 0.2, "codebook": 1.0}.get(path[-1])
        scale = scale or float(np.prod(shape[:3])) ** -0.5
        values = rng.normal(0, scale, shape) + (path[-1] == "scale")
        found[path] = values.astype(np.float32)
    return traverse_util.unflatten_dict(found)
