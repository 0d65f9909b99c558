"""Counts of parameters, operations and bytes, without running the model.

Used for the table of sizes (`python -m ofa_jax.sizes`) and for model-FLOPs utilization. Operations
are those of matrix products and convolutions, 2 per multiply-add, of the mathematical model: no
recomputation, no padding of the vocabulary, causal attention counted in full, norms and
softmax left out. Position logits are shared by the batch and are not counted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import PyTree

from ofa_jax.model.config import OFAConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.ops.conv import symmetric_padding


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """Trainable parameters (SPEC 1.1): no padded vocabulary rows, no batch-norm statistics.

    Attributes:
      embedding: shared token embedding, v * d.
      resnet: the image stem.
      encoder: the encoder with the stem, without the embedding.
      decoder: the decoder without the embedding.
    """

    embedding: int
    resnet: int
    encoder: int
    decoder: int

    @property
    def total(self) -> int:
        """All parameters, the embedding once."""
        return self.embedding + self.encoder + self.decoder


@functools.lru_cache(maxsize=16)
def abstract_variables(config: OFAConfig) -> Mapping[str, PyTree]:
    """Shapes of all variables, boxed with their logical axis names; nothing is allocated.

    Remembered, since tracing the largest stems takes seconds: not to be changed.

    Args:
      config: the model's configuration.

    Returns:
      {"params", "batch_stats"} of boxes around `jax.ShapeDtypeStruct`.
    """
    # One traced layer stands for all of them.
    config = dataclasses.replace(config, layer_stack="scan", remat="none")
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    batch = {"encoder_input_tokens": tokens, "decoder_input_tokens": tokens}
    return jax.eval_shape(OFA(config).init, jax.random.key(0), batch)


def count_parameters(config: OFAConfig) -> ParameterCount:
    """Counts the parameters of a configuration."""
    params = nn.unbox(abstract_variables(config))["params"]

    def size(tree: PyTree) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    return ParameterCount(
        embedding=config.vocab_size * config.width,
        resnet=size(params["encoder"]["resnet"]),
        encoder=size(params["encoder"]),
        decoder=size(params["decoder"]),
    )


def convolved(size: int, kernel: int, stride: int) -> int:
    """Side of the result of a convolution with our padding."""
    return (size + 2 * symmetric_padding(kernel, stride) - kernel) // stride + 1


def patch_grid(config: OFAConfig, height: int, width: int) -> tuple[int, int]:
    """Patches per column and row of an image of `height` x `width` pixels."""

    def patches(size: int) -> int:
        net = config.resnet
        size = convolved(size, net.stem_kernel, net.stem_stride)
        if net.stem_pool:
            size = (size + 1) // 2
        for stride in net.stage_strides:
            size = convolved(size, 3, stride)
        return size

    return patches(height), patches(width)


def resnet_flops(config: OFAConfig, height: int, width: int) -> int:
    """Forward operations of the stem on one image of `height` x `width` pixels."""
    net = config.resnet

    def conv(y: int, x: int, kernel: int, channels: int, features: int) -> int:
        return 2 * y * x * kernel * kernel * channels * features

    y = convolved(height, net.stem_kernel, net.stem_stride)
    x = convolved(width, net.stem_kernel, net.stem_stride)
    total = conv(y, x, net.stem_kernel, 3, net.stem_width)
    if net.stem_pool:
        y, x = (y + 1) // 2, (x + 1) // 2
    channels = net.stem_width
    for blocks, inner, first_stride in zip(
        net.stage_blocks, net.stage_widths, net.stage_strides, strict=True
    ):
        out = net.expansion * inner
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            total += conv(y, x, 1, channels, inner)
            y, x = convolved(y, 3, stride), convolved(x, 3, stride)
            total += conv(y, x, 3, inner, inner) + conv(y, x, 1, inner, out)
            if stride != 1 or channels != out:
                total += conv(y, x, 1, channels, out)
            channels = out
    return total


def forward_flops(
    config: OFAConfig,
    *,
    source_length: int,
    target_length: int,
    image_size: tuple[int, int] | None = None,
    patches: int | None = None,
) -> int:
    """Forward operations of one example.

    Args:
      config: the model's configuration.
      source_length: text tokens s of the encoder.
      target_length: decoder tokens t.
      image_size: height and width in pixels, or None without an image.
      patches: patches that enter the encoder where some are sampled; None = the full grid.

    Returns:
      Floating-point operations.
    """
    d, t = config.width, target_length
    total, p = 0, 0
    if image_size is not None:
        y, x = patch_grid(config, *image_size)
        p = y * x if patches is None else min(patches, y * x)
        total += resnet_flops(config, *image_size)
        total += 2 * p * config.resnet.out_channels * d
    n = p + source_length
    encoder_layer = n * (8 * d * d + 4 * d * config.ffn_width("encoder")) + 4 * n * n * d
    decoder_layer = t * (12 * d * d + 4 * d * config.ffn_width("decoder"))
    decoder_layer += 4 * t * t * d + 4 * n * d * d + 4 * t * n * d
    total += config.encoder_layers * encoder_layer + config.decoder_layers * decoder_layer
    return total + 2 * t * d * config.vocab_size


def training_flops(config: OFAConfig, **example: Any) -> int:
    """Operations of one training example: forward, and twice as many backward.

    Args:
      config: the model's configuration.
      **example: as in `forward_flops`.
    """
    return 3 * forward_flops(config, **example)
