"""Every number of a VQGAN, as its weights or its `model.yaml` give them (VQGAN_SPEC 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ofa_jax import schema
from ofa_jax.atomic import JsonObject

__all__ = ["NORM_GROUPS", "QUANTIZERS", "VQGANConfig"]

QUANTIZERS = ("gumbel", "nearest")
# Groups of every official group norm.
NORM_GROUPS = 32

# Last part of `target` in a model.yaml -> our name of its quantizer.
_TARGETS = {"GumbelVQ": "gumbel", "VQModel": "nearest"}


@dataclasses.dataclass(frozen=True)
class VQGANConfig:
    """Sizes of the networks and the kind of the codebook; the defaults are the released f8 model.

    Attributes:
      base_channels: channels at full resolution, before multiplication.
      channel_multipliers: one per level; each level but the last halves both sides.
      blocks_per_level: residual blocks per level of the encoder; the decoder has one more.
      attention_levels: levels whose blocks are followed by self-attention, 0 = full resolution.
        A property of the architecture: the size of an image does not change it.
      latent_channels: channels that the encoder puts out.
      embedding_dim: channels of an entry of the codebook.
      num_codes: entries of the codebook.
      norm_groups: of every norm; all widths are multiples of it. The official 32 take the mean
        out of every channel of a narrow network, and with it the color of a plain image.
      quantizer: "gumbel" (the code of a place is drawn by scores) or "nearest" (plain VQ: the
        entry of least distance).
      kl_weight: of the Gumbel quantizer's training loss.
      commitment_weight: beta of the plain quantizer's training loss.
      legacy_commitment: whether beta weighs the codebook's term instead of the encoder's, as in
        every released plain model.
    """

    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 4)
    blocks_per_level: int = 2
    attention_levels: tuple[int, ...] = (3,)
    latent_channels: int = 256
    embedding_dim: int = 256
    num_codes: int = 8192
    norm_groups: int = NORM_GROUPS
    quantizer: str = "gumbel"
    kl_weight: float = 1e-8
    commitment_weight: float = 0.25
    legacy_commitment: bool = True

    def __post_init__(self) -> None:
        def require(field: str, condition: bool, wanted: str) -> None:
            if not condition:
                value = getattr(self, field)
                raise ValueError(f"VQGANConfig.{field} must be {wanted}, got {value!r}")

        for field in ("channel_multipliers", "attention_levels"):
            if isinstance(getattr(self, field), list):
                object.__setattr__(self, field, tuple(getattr(self, field)))
        schema.check(self, "VQGANConfig")
        for field in (
            "base_channels",
            "blocks_per_level",
            "latent_channels",
            "embedding_dim",
            "num_codes",
            "norm_groups",
        ):
            require(field, getattr(self, field) > 0, "a positive int")
        require("channel_multipliers", bool(self.channel_multipliers), "one number per level")
        require(
            "base_channels",
            all(width % self.norm_groups == 0 and width > 0 for width in self.widths),
            f"such that every level's width is a multiple of {self.norm_groups}",
        )
        require(
            "attention_levels",
            set(self.attention_levels) <= set(range(len(self.channel_multipliers))),
            f"among 0 .. {len(self.channel_multipliers) - 1}",
        )
        require("quantizer", self.quantizer in QUANTIZERS, f"one of {QUANTIZERS}")
        require(
            "embedding_dim",
            self.quantizer != "gumbel" or self.embedding_dim == self.latent_channels,
            f"latent_channels ({self.latent_channels}) with the Gumbel quantizer",
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from full resolution on."""
        return tuple(self.base_channels * factor for factor in self.channel_multipliers)

    @property
    def patch(self) -> int:
        """Side in pixels of the square that one code stands for (8 in the released model)."""
        return 2 ** (len(self.channel_multipliers) - 1)

    def to_model_yaml(self, side: int) -> dict[str, object]:
        """The inverse of `from_model_yaml`.

        Args:
          side: nominal pixels of an image, by which the description names levels with attention.
        """
        params: JsonObject = {
            "embed_dim": self.embedding_dim,
            "n_embed": self.num_codes,
            "ddconfig": {
                "double_z": False,
                "z_channels": self.latent_channels,
                "resolution": side,
                "in_channels": 3,
                "out_ch": 3,
                "ch": self.base_channels,
                "ch_mult": list(self.channel_multipliers),
                "num_res_blocks": self.blocks_per_level,
                "attn_resolutions": [side // 2**level for level in self.attention_levels],
                "dropout": 0.0,
            },
        }
        if self.quantizer == "gumbel":
            params["kl_weight"] = self.kl_weight
        targets = {quantizer: target for target, quantizer in _TARGETS.items()}
        target = f"taming.models.vqgan.{targets[self.quantizer]}"
        return {"model": {"target": target, "params": params}}

    @classmethod
    def from_model_yaml(
        cls, content: Mapping[str, Any], norm_groups: int = NORM_GROUPS
    ) -> VQGANConfig:
        """Reads the description that lies beside released weights (VQGAN_SPEC 1).

        Args:
          content: the parsed `model.yaml`: {"model": {"target", "params"}}, or its params alone
            (`ddconfig`, `n_embed`, `embed_dim`).
          norm_groups: of every norm, which the official description does not tell.

        Returns:
          The configuration. Attention levels follow from the nominal resolution.

        Raises:
          ValueError: something is missing, or describes another kind of autoencoder.
        """
        model = content.get("model", content)
        params = model.get("params", model)
        target = str(model.get("target", "GumbelVQ")).rpartition(".")[2]
        if target not in _TARGETS:
            raise ValueError(
                f"model.yaml: class {target!r} is not known, only {', '.join(_TARGETS)}"
            )
        try:
            sizes = params["ddconfig"]
            multipliers = tuple(sizes["ch_mult"])
            resolution, attended = sizes["resolution"], sizes["attn_resolutions"]
            fields: JsonObject = {
                "norm_groups": norm_groups,
                "base_channels": sizes["ch"],
                "channel_multipliers": multipliers,
                "blocks_per_level": sizes["num_res_blocks"],
                "attention_levels": tuple(
                    level for level in range(len(multipliers)) if resolution // 2**level in attended
                ),
                "latent_channels": sizes["z_channels"],
                "embedding_dim": params["embed_dim"],
                "num_codes": params["n_embed"],
                "quantizer": _TARGETS[target],
            }
        except KeyError as error:
            raise ValueError(f"model.yaml: it has no {error}") from error
        for name, wanted in (("in_channels", 3), ("out_ch", 3), ("double_z", False)):
            if sizes.get(name, wanted) != wanted:
                raise ValueError(f"model.yaml: {name} must be {wanted}, got {sizes[name]!r}")
        if "kl_weight" in params:
            fields["kl_weight"] = float(params["kl_weight"])
        return cls(**fields)
