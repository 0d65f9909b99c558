"""A model of a few thousand parameters and a batch with every kind of input."""

import dataclasses
import functools

import jax
import numpy as np
from flax import linen as nn

from ofa_jax.model import OFA, OFAConfig, ResNetConfig

CONFIG = OFAConfig(
    vocab_size=70,
    num_codes=16,
    width=24,
    ffn_dim=40,
    num_heads=3,
    encoder_layers=2,
    decoder_layers=2,
    resnet=ResNetConfig(
        stage_blocks=(1, 2),
        stage_widths=(4, 6),
        stage_strides=(1, 2),
        stem_width=5,
        stem_kernel=3,
        stem_stride=2,
        stem_pool=True,
    ),
    token_bucket_size=8,
    token_bucket_range=32,
    image_bucket_size=6,
    max_positions=32,
    code_image_size=16,
    code_stride=4,
    orig_patch_image_size=24,
)
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def make_config(**changes):
    return dataclasses.replace(CONFIG, **changes)


def make_batch(b=4, s=9, t=17, size=(32, 24), seed=0, images=True):
    """Texts of several lengths, one row without image, one hole, one target of codes.

    Without images, nothing of the stem is compiled, which is most of the time of a test.
    """
    rng = np.random.default_rng(seed)
    source = rng.integers(4, 54, (b, s)).astype(np.int32)
    source[:, 0] = 1
    inputs = rng.integers(4, 54, (b, t)).astype(np.int32)
    inputs[:, 0] = 1
    for row in range(b):
        source[row, s - row :] = 0
    codes = np.arange(b) == 1
    inputs[1, 1:] = rng.integers(54, 70, t - 1)
    holes = np.zeros((b, 4), np.int32)
    holes[0] = (3, 5, 12, 20)
    batch = {
        "encoder_input_tokens": source,
        "encoder_images": rng.integers(0, 256, (b, *size, 3)).astype(np.uint8),
        "encoder_image_masks": np.arange(b) != 2,
        "encoder_image_holes": holes,
        "decoder_input_tokens": inputs,
        "decoder_target_tokens": rng.integers(4, 70, (b, t)).astype(np.int32),
        "decoder_loss_weights": np.ones((b, t), np.float32),
        "decoder_code_masks": codes,
    }
    return {name: x for name, x in batch.items() if images or "image" not in name}


@functools.cache
def make_variables(config=CONFIG, seed=0):
    """Unboxed numpy variables in which nothing is at its initial zero or one."""
    abstract = nn.unbox(jax.eval_shape(OFA(config).init, jax.random.key(0), make_batch()))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        noise = rng.normal(size=leaf.shape)
        if name in ("scale", "var", "head_scale", "residual_scale"):
            noise = 1 + 0.2 * np.tanh(noise)
        elif name == "kernel":
            noise *= np.prod(leaf.shape[:-1]) ** -0.5
        else:
            noise *= 0.2
        return noise.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, abstract)


def jitted(function, *, fused=False, **options):
    """`jax.jit` that compiles fast; running time does not matter here.

    `fused` keeps the fusions of a run, where two programs must round alike.
    """
    compiler_options = {**FAST_COMPILE, "xla_cpu_use_fusion_emitters": fused}
    return jax.jit(function, compiler_options=compiler_options, **options)
