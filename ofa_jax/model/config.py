"""Configuration of the model and the table of sizes.

One frozen dataclass holds every number that the modules read; the official sizes (SPEC 1.1) and
the laptop size `nano` differ only in these numbers. Entry points build a configuration with
`dataclasses.replace(SIZES["base"], dropout=0.1)` and hand it to `ofa_jax.model.ofa.OFA`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, cast

import numpy as np

from ofa_jax import schema
from ofa_jax.schema import Between

__all__ = [
    "HALF",
    "LORA_TARGETS",
    "RESNET50",
    "RESNET101",
    "RESNET152",
    "SIZES",
    "Depth",
    "LayerStack",
    "OFAConfig",
    "Part",
    "ResNetConfig",
    "TuningConfig",
    "Vocabulary",
    "Width",
]

# Far above every model that has been trained, and low enough that shapes can be listed.
Width = Annotated[int, Between(1, 1 << 20)]
Depth = Annotated[int, Between(1, 1024)]
Vocabulary = Annotated[int, Between(1, 1 << 24)]
LayerStack = Literal["loop", "scan"]
Part = Annotated[int, Between(0, 1 << 16)]


def _require(condition: bool, owner: str, field: str, value: object, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{owner}.{field} must be {wanted}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """The truncated ResNet that turns pixels into patch features (SPEC 1.3).

    Attributes:
      stage_blocks: bottleneck blocks per stage.
      stage_widths: channels inside the bottlenecks of each stage; a stage puts out
        `expansion` times as many.
      stage_strides: stride of the first block of each stage.
      expansion: output channels of a bottleneck divided by its inner channels.
      stem_width: channels of the first convolution.
      stem_kernel: side of the first convolution's kernel, pixels.
      stem_stride: stride of the first convolution, pixels.
      stem_pool: whether a 3x3 max pooling of stride 2 follows the first convolution.
    """

    stage_blocks: tuple[Depth, ...] = (3, 4, 6)
    stage_widths: tuple[Width, ...] = (64, 128, 256)
    stage_strides: tuple[Depth, ...] = (1, 2, 2)
    expansion: Depth = 4
    stem_width: Width = 64
    stem_kernel: Depth = 7
    stem_stride: Depth = 2
    stem_pool: bool = True

    def __post_init__(self) -> None:
        schema.check(self, "ResNetConfig")
        for name in ("stage_blocks", "stage_widths", "stage_strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            value = getattr(self, name)
            wanted = f"not empty, and as long as stage_blocks {self.stage_blocks}"
            right = 0 < len(value) == len(self.stage_blocks)
            _require(right, "ResNetConfig", name, value, wanted)
        _require(
            self.stem_kernel >= self.stem_stride,
            "ResNetConfig",
            "stem_kernel",
            self.stem_kernel,
            f"at least stem_stride ({self.stem_stride})",
        )

    @property
    def stride(self) -> int:
        """Side of one patch in pixels (16 for the official sizes)."""
        return self.stem_stride * (2 if self.stem_pool else 1) * int(np.prod(self.stage_strides))

    @property
    def out_channels(self) -> int:
        """Channels of the last stage (1024 for the official sizes)."""
        return self.stage_widths[-1] * self.expansion


RESNET50 = ResNetConfig(stage_blocks=(3, 4, 6))
RESNET101 = ResNetConfig(stage_blocks=(3, 4, 23))
RESNET152 = ResNetConfig(stage_blocks=(3, 8, 36))


# Dense layers of attention and feed-forward that can have a low-rank change.
LORA_TARGETS = ("query", "key", "value", "output", "expand", "contract")


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """Small parts added to a model that is tuned without changing it (SPEC 8.11).

    All off by default; then the model has no parameter more. What stays as it was is said to the
    optimizer: `ofa_jax.model.tuning.frozen_except`.

    Attributes:
      encoder_prefix: learned keys and values in front of every self-attention of the encoder.
      decoder_prefix: the same in the decoder.
      prefix_hidden: width of the network that makes them from an embedding; 0 learns them directly.
      prefix_dropout: rate on them, 0.2 in all official runs.
      adapter_dim: inner width of the adapter behind each feed-forward layer; 0 has none.
      lora_rank: rank of the learned change of dense kernels (Hu et al. 2021); 0 has none.
      lora_alpha: the change is scaled by this over the rank.
      lora_targets: the layers that are changed, among `LORA_TARGETS`.
    """

    encoder_prefix: Part = 0
    decoder_prefix: Part = 0
    prefix_hidden: Part = 0
    prefix_dropout: float = 0.2
    adapter_dim: Part = 0
    lora_rank: Part = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ("query", "value")

    def __post_init__(self) -> None:
        def require(field: str, condition: bool, wanted: str) -> None:
            _require(condition, "TuningConfig", field, getattr(self, field), wanted)

        schema.check(self, "TuningConfig")
        require("prefix_dropout", 0.0 <= self.prefix_dropout < 1.0, "a rate in [0, 1)")
        require("lora_alpha", self.lora_alpha > 0, "positive")
        object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        known = bool(self.lora_targets) and set(self.lora_targets) <= set(LORA_TARGETS)
        require("lora_targets", known, f"some of {LORA_TARGETS}")

    @property
    def is_on(self) -> bool:
        """Whether the model has any part more."""
        parts = (self.encoder_prefix, self.decoder_prefix, self.adapter_dim, self.lora_rank)
        return any(parts)

    def low_rank(self, target: str) -> tuple[int, float] | None:
        """Rank and scale of the change of a layer, or None where it has none."""
        if not self.lora_rank or target not in self.lora_targets:
            return None
        return self.lora_rank, self.lora_alpha / self.lora_rank


# Mean and deviation of pixels that all tasks but ImageNet classification are given (SPEC 4.4).
HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class OFAConfig:
    """Every number of the model (SPEC 1).

    Attributes:
      vocab_size: real ids; logits beyond are masked.
      padded_vocab_size: rows of the embedding; None rounds `vocab_size` up to a multiple of 128.
      num_codes: image codes in the vocabulary (not read by the layers; kept for bookkeeping).
      width: model width d.
      ffn_dim: inner width f of the feed-forward layers.
      decoder_ffn_dim: that of the decoder, where it is another; None = `ffn_dim`.
      num_heads: attention heads h; `width` must divide by it.
      encoder_layers: encoder depth.
      decoder_layers: decoder depth.
      resnet: the image stem.
      token_bucket_size: relative text positions have 2 * this - 1 buckets.
      token_bucket_range: distance at which the logarithmic text buckets end.
      image_bucket_size: side of the largest patch grid that has position ids.
      max_positions: longest text; the position tables have 2 more rows, never used.
      code_image_size: side in pixels of the generated image.
      code_stride: pixels per image code side.
      orig_patch_image_size: side in pixels of the grid that position interpolation starts from.
      interpolate_position: resize the position table for larger grids instead of reading more ids.
      scale_resids: learned elementwise scale on the feed-forward residual (never used officially).
      dropout: rate after embeddings, attention and feed-forward layers.
      attention_dropout: rate on attention probabilities.
      activation_dropout: rate after the gelu.
      encoder_drop_path: rate of the last encoder layer; the rates rise linearly from 0.
      decoder_drop_path: the same for the decoder.
      resnet_drop_path: the same per ResNet stage.
      batch_norm: "batch" (batch statistics while training) or "frozen" (running statistics and
        constant scale and bias). Both use running statistics in evaluation.
      batch_norm_eps: added to the variance.
      batch_norm_momentum: weight of the newest batch in the running statistics.
      layer_stack: "loop" (one parameter subtree per layer) or "scan" (stacked on axis 0).
      remat: what the backward pass recomputes: "none", "full" (everything inside a layer, or
        inside a block of the ResNet) or "dots" (everything inside a layer but matrix products with
        weights).
      dtype: type of the computation; parameters, norms, softmax and logits stay float32.
      attention: implementation in `ofa_jax.ops.attention`.
      conv: implementation in `ofa_jax.ops.conv`.
      sample_patch_num: patches kept per image while training (SPEC 1.4, step 2); 0 keeps all.
      image_mean: subtracted from pixels in 0 .. 1, per channel; 0.5 except for ImageNet (SPEC 8.6).
      image_std: what the difference is divided by.
      tuning: small parts that are trained in place of the model itself.
    """

    vocab_size: Vocabulary = 59457
    padded_vocab_size: Vocabulary | None = None
    num_codes: Annotated[int, Between(0, 1 << 24)] = 8192
    width: Width = 768
    ffn_dim: Width = 3072
    decoder_ffn_dim: Width | None = None
    num_heads: Width = 12
    encoder_layers: Depth = 6
    decoder_layers: Depth = 6
    resnet: ResNetConfig = RESNET101
    token_bucket_size: Width = 256
    token_bucket_range: Width = 1024
    image_bucket_size: Depth = 42
    max_positions: Width = 1024
    code_image_size: Width = 128
    code_stride: Width = 8
    orig_patch_image_size: Width = 256
    interpolate_position: bool = False
    scale_resids: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_drop_path: float = 0.0
    decoder_drop_path: float = 0.0
    resnet_drop_path: float = 0.0
    batch_norm: Literal["batch", "frozen"] = "batch"
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    layer_stack: LayerStack = "loop"
    remat: Literal["none", "full", "dots"] = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "xla", "fused", "cudnn"] = "auto"
    conv: Literal["auto", "matmul", "mixed", "xla"] = "auto"
    sample_patch_num: Annotated[int, Between(0, 1 << 20)] = 0
    image_mean: tuple[float, float, float] = HALF
    image_std: tuple[float, float, float] = HALF
    tuning: TuningConfig = TuningConfig()

    def __post_init__(self) -> None:
        def require(field: str, condition: bool, wanted: str) -> None:
            _require(condition, "OFAConfig", field, getattr(self, field), wanted)

        schema.check(self, "OFAConfig")
        if self.padded_vocab_size is None:
            object.__setattr__(self, "padded_vocab_size", -(-self.vocab_size // 128) * 128)
        if self.decoder_ffn_dim == self.ffn_dim:
            object.__setattr__(self, "decoder_ffn_dim", None)
        require(
            "padded_vocab_size",
            self.embedding_rows >= self.vocab_size,
            f"at least vocab_size ({self.vocab_size})",
        )
        require(
            "num_heads",
            self.width % self.num_heads == 0,
            f"a divisor of width ({self.width})",
        )
        require(
            "token_bucket_range",
            self.token_bucket_range > self.token_bucket_size // 2,
            f"above half of token_bucket_size ({self.token_bucket_size})",
        )
        require(
            "code_image_size",
            self.code_image_size % self.code_stride == 0
            and self.code_image_size // self.code_stride <= self.image_bucket_size,
            f"a multiple of code_stride ({self.code_stride}) of at most image_bucket_size "
            f"({self.image_bucket_size}) codes",
        )
        require(
            "orig_patch_image_size",
            not self.interpolate_position
            or self.orig_patch_image_size // self.resnet.stride <= self.image_bucket_size,
            f"at most {self.image_bucket_size} patches of {self.resnet.stride} pixels",
        )
        for field in (
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "encoder_drop_path",
            "decoder_drop_path",
            "resnet_drop_path",
        ):
            require(field, 0.0 <= getattr(self, field) < 1.0, "a rate in [0, 1)")
        for field in ("image_mean", "image_std"):
            object.__setattr__(self, field, tuple(map(float, getattr(self, field))))
        require("image_std", min(self.image_std) > 0, "positive")
        require("batch_norm_eps", self.batch_norm_eps > 0, "positive")
        require("batch_norm_momentum", 0 < self.batch_norm_momentum <= 1, "in (0, 1]")

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding: `padded_vocab_size`, which is never None once it is set up."""
        return cast(int, self.padded_vocab_size)

    def ffn_width(self, stack: str) -> int:
        """Inner width f of the feed-forward layers of a stack, "encoder" or "decoder"."""
        own = self.decoder_ffn_dim if stack == "decoder" else None
        return self.ffn_dim if own is None else own

    @property
    def head_dim(self) -> int:
        """Width k of one attention head."""
        return self.width // self.num_heads

    @property
    def code_window(self) -> int:
        """Image codes per side of a generated image (16 for 128 pixels, 32 for 256)."""
        return self.code_image_size // self.code_stride

    @property
    def text_relative_buckets(self) -> int:
        """Rows of one relative text table (511)."""
        return 2 * self.token_bucket_size - 1

    @property
    def image_relative_buckets(self) -> int:
        """Rows of one relative image table (6892): all grid offsets, and 3 for position id 0."""
        return (2 * self.image_bucket_size - 1) ** 2 + 3

    @property
    def image_positions(self) -> int:
        """Rows of the absolute image position table (1765): the grid, and the reserved id 0."""
        return self.image_bucket_size**2 + 1

    @property
    def text_positions(self) -> int:
        """Rows of the absolute text position table (1026)."""
        return self.max_positions + 2


def _official(
    width: int, heads: int, encoder_layers: int, decoder_layers: int, resnet: ResNetConfig
) -> OFAConfig:
    return OFAConfig(
        width=width,
        ffn_dim=4 * width,
        num_heads=heads,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        resnet=resnet,
    )


# nano is the laptop size: the same code at 32x32 pixels and 16 patches. Its stem comes down to
# 8x8 before the first stage: channels there tell shapes apart better, and cost a CPU less, than
# layers at a high resolution.
SIZES: Mapping[str, OFAConfig] = MappingProxyType(
    {
        "nano": OFAConfig(
            vocab_size=600,
            num_codes=64,
            width=96,
            ffn_dim=384,
            num_heads=4,
            encoder_layers=2,
            decoder_layers=2,
            resnet=ResNetConfig(
                stage_blocks=(1, 1, 1),
                stage_widths=(16, 32, 48),
                stage_strides=(1, 2, 1),
                stem_width=24,
                stem_kernel=5,
                stem_stride=2,
                stem_pool=True,
            ),
            token_bucket_size=64,
            token_bucket_range=128,
            image_bucket_size=8,
            max_positions=128,
            code_image_size=16,
            code_stride=4,
            orig_patch_image_size=32,
        ),
        "tiny": _official(256, 4, 4, 4, RESNET50),
        "medium": _official(512, 8, 4, 4, RESNET101),
        "base": _official(768, 12, 6, 6, RESNET101),
        "large": _official(1024, 16, 12, 12, RESNET152),
        "huge": _official(1280, 16, 24, 12, RESNET152),
    }
)
