"""The image tokenizer of the official model: images to grids of codes and back."""

from ofa_jax.model.vqgan.autoencoder import VQGAN
from ofa_jax.model.vqgan.config import VQGANConfig

__all__ = ["VQGAN", "VQGANConfig"]
