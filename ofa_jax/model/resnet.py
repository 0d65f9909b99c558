"""The truncated ResNet in front of the encoder (SPEC 1.3).

ResNet v1.5 bottlenecks (stride on the 3x3 convolution), cut after the third stage. Statistics of
batch normalization live in the collection `batch_stats`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from ofa_jax.model.config import OFAConfig
from ofa_jax.model.layers import drop_path, partitioned
from ofa_jax.ops.batch_norm import batch_norm
from ofa_jax.ops.conv import conv2d, max_pool, symmetric_padding

Images = Float[Array, "b y x c"]
_CONV_AXES = ("conv_h", "conv_w", "conv_in", "conv_out")


class Conv(nn.Module):
    """Convolution without bias and with PyTorch's symmetric padding.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel, pixels.
      stride: step, pixels.
      config: implementation and dtype.
    """

    features: int
    kernel_size: int
    stride: int
    config: OFAConfig

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "b _ _ {self.features}"]:
        """Divides both sides by the stride; the result has the dtype of the computation."""
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        k = self.kernel_size
        kernel = self.param(
            "kernel", partitioned(init, _CONV_AXES), (k, k, x.shape[-1], self.features)
        )
        dtype = jnp.dtype(self.config.dtype)
        return conv2d(
            x.astype(dtype),
            kernel.astype(dtype),
            stride=self.stride,
            padding=symmetric_padding(k, self.stride),
            implementation=self.config.conv,
        )


class BatchNorm(nn.Module):
    """Batch normalization over b, y, x (SPEC 1.3).

    OFA-NOTE: SPEC 1.3. In mode "batch" the statistics are those of the global batch: under jit
    the mean runs over the sharded axis, which is synchronized batch norm, with the default eps
    1e-5 (the official unsynchronized one normalizes per device).
    """

    config: OFAConfig

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Images:
        """Normalizes; statistics in float32, result in the dtype of `x`."""
        cfg = self.config
        c = x.shape[-1]
        names = ("conv_out",)
        scale = self.param("scale", partitioned(nn.initializers.ones_init(), names), (c,))
        bias = self.param("bias", partitioned(nn.initializers.zeros_init(), names), (c,))
        running_mean = self.variable(
            "batch_stats", "mean", partitioned(lambda: jnp.zeros((c,), jnp.float32), names)
        )
        running_var = self.variable(
            "batch_stats", "var", partitioned(lambda: jnp.ones((c,), jnp.float32), names)
        )
        if cfg.batch_norm == "frozen":
            scale, bias = lax.stop_gradient((scale, bias))
        if train and cfg.batch_norm == "batch":
            # The convolutions' reference comes with the reference of this.
            implementation = "xla" if cfg.conv == "xla" else "auto"
            y, mean, variance = batch_norm(
                x, scale, bias, eps=cfg.batch_norm_eps, implementation=implementation
            )
            if not self.is_initializing():
                count = np.prod(x.shape[:3])
                unbiased = variance * (count / max(1, count - 1))
                keep = 1.0 - cfg.batch_norm_momentum
                running_mean.value = keep * running_mean.value + cfg.batch_norm_momentum * mean
                running_var.value = keep * running_var.value + cfg.batch_norm_momentum * unbiased
            return y
        mean, variance = running_mean.value, running_var.value
        factor = scale * lax.rsqrt(variance + cfg.batch_norm_eps)
        return (x.astype(jnp.float32) * factor + (bias - mean * factor)).astype(x.dtype)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with batch norm around a residual.

    Attributes:
      width: inner channels.
      stride: stride of the 3x3 convolution.
      drop_rate: drop-path rate of the branch.
      config: the model's configuration.
    """

    width: int
    stride: int
    drop_rate: float
    config: OFAConfig

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Float[Array, "b _ _ _"]:
        """Divides both sides by the stride; gives `expansion * width` channels."""
        cfg = self.config
        out = cfg.resnet.expansion * self.width
        y = Conv(self.width, 1, 1, cfg, name="conv1")(x)
        y = nn.relu(BatchNorm(cfg, name="norm1")(y, train))
        y = Conv(self.width, 3, self.stride, cfg, name="conv2")(y)
        y = nn.relu(BatchNorm(cfg, name="norm2")(y, train))
        y = Conv(out, 1, 1, cfg, name="conv3")(y)
        y = BatchNorm(cfg, name="norm3")(y, train)
        if train and self.drop_rate > 0.0:
            y = drop_path(y, self.drop_rate, self.make_rng("dropout"))
        if self.stride != 1 or x.shape[-1] != out:
            x = Conv(out, 1, self.stride, cfg, name="shortcut")(x)
            x = BatchNorm(cfg, name="shortcut_norm")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Pixels to patch features."""

    config: OFAConfig

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "b _ _ _"]:
        """Computes the feature map of the last stage.

        Args:
          images: normalized to [-1, 1].
          train: whether batch statistics and drop path act.

        Returns:
          One place per patch; sides are divided by the stride of the whole network.
        """
        cfg = self.config
        net = cfg.resnet
        x = Conv(net.stem_width, net.stem_kernel, net.stem_stride, cfg, name="stem")(images)
        x = nn.relu(BatchNorm(cfg, name="stem_norm")(x, train))
        if net.stem_pool:
            x = max_pool(x, implementation=cfg.conv)
        bottleneck = Bottleneck
        if cfg.remat == "full":
            bottleneck = nn.remat(Bottleneck, static_argnums=(2,))
        for stage, blocks in enumerate(net.stage_blocks):
            rates = np.linspace(0.0, cfg.resnet_drop_path, blocks)
            for block in range(blocks):
                x = bottleneck(
                    net.stage_widths[stage],
                    net.stage_strides[stage] if block == 0 else 1,
                    float(rates[block]),
                    cfg,
                    name=f"stage{stage + 1}_block{block}",
                )(x, train)
            x = nn.with_logical_constraint(x, ("batch", None, None, None))
        return x
