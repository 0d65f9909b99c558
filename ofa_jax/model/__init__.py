"""The model: configuration, ResNet, positions, attention, encoder, decoder."""

from ofa_jax.model.config import SIZES, OFAConfig, ResNetConfig
from ofa_jax.model.encoder import EncoderOutput
from ofa_jax.model.ofa import OFA

__all__ = ["OFA", "SIZES", "EncoderOutput", "OFAConfig", "ResNetConfig"]
