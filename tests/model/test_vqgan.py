"""The image tokenizer's networks: shapes, independence, quantizers, configuration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.model.vqgan import VQGAN, VQGANConfig
from ofa_jax.model.vqgan.autoencoder import normalized, to_pixels
from ofa_jax.model.vqgan.networks import _half_size
from ofa_jax.model.vqgan.quantizers import GumbelQuantizer, NearestQuantizer
from tests.model.small_vqgan import GUMBEL, NEAREST, params

RNG = np.random.default_rng(3)
PICTURES = RNG.integers(0, 256, (3, 8, 12, 3)).astype(np.uint8)
LATENTS = RNG.normal(size=(2, 3, 4, 8)).astype(np.float32)
QUANTIZERS = {"gumbel": (GumbelQuantizer, GUMBEL), "nearest": (NearestQuantizer, NEAREST)}


@functools.partial(jax.jit, static_argnames=("config", "method"))
def run(config, method, variables, *arguments):
    return VQGAN(config).apply(variables, *arguments, method=method)


def quantize(kind, *arguments, method=None, **options):
    module, config = QUANTIZERS[kind]
    weights = {"params": params(config)["quantizer"]}
    return module(config).apply(weights, *arguments, method=method, **options)


def test_shapes():
    """What they compute: tests/parity/test_vqgan.py and tests/test_image_codes.py."""
    pictures = jax.ShapeDtypeStruct((3, 8, 12, 3), jnp.float32)
    variables = {"params": params(NEAREST)}
    codes = jax.eval_shape(functools.partial(run, NEAREST, "encode"), variables, pictures)
    assert (codes.shape, codes.dtype) == ((3, 4, 6), jnp.int32)
    decoded = jax.eval_shape(functools.partial(run, NEAREST, "decode"), variables, codes)
    assert decoded.shape == pictures.shape


@pytest.mark.slow  # compiles the networks of the other quantizer
def test_training_pass():
    variables = {"params": params(NEAREST)}
    picture, found = run(NEAREST, None, variables, normalized(PICTURES[:1]))
    assert picture.shape == (1, 8, 12, 3)
    assert found.latents.shape == (1, 4, 6, 8)
    assert float(found.loss) > 0


class Halving(nn.Module):
    @nn.compact
    def __call__(self, x):
        return _half_size(x, "half")


def test_halving_pads_below_and_to_the_right():
    x = jnp.arange(24.0).reshape(1, 4, 6, 1)

    def picked(row, column):
        kernel = np.zeros((3, 3, 1, 1), np.float32)
        kernel[row, column] = 1.0
        weights = {"half": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
        return np.asarray(Halving().apply({"params": weights}, x))[0, :, :, 0]

    np.testing.assert_array_equal(picked(0, 0), x[0, ::2, ::2, 0])
    np.testing.assert_array_equal(picked(2, 2), [[14, 16, 0], [0, 0, 0]])


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_codes_have_the_highest_score(kind):
    scores = np.asarray(quantize(kind, LATENTS, method="scores"))
    found = quantize(kind, LATENTS)
    np.testing.assert_array_equal(found.codes, scores.argmax(-1))
    entries = params(QUANTIZERS[kind][1])["quantizer"]["codebook"]
    np.testing.assert_allclose(found.latents, entries[np.asarray(found.codes)], atol=1e-5)
    if kind == "nearest":
        distances = ((LATENTS[..., None, :] - entries) ** 2).sum(-1)
        np.testing.assert_allclose(-scores, distances, atol=1e-4)


def test_gumbel_quantizer_in_training():
    noise = RNG.gumbel(size=(2, 3, 4, 24)).astype(np.float32)
    logits = np.asarray(quantize("gumbel", LATENTS, method="scores"))
    hard = quantize("gumbel", LATENTS, noise=noise, temperature=0.5)
    np.testing.assert_array_equal(hard.codes, (logits + noise).argmax(-1))
    shares = np.exp((logits + noise) / 0.5)
    shares /= shares.sum(-1, keepdims=True)
    soft = quantize("gumbel", LATENTS, noise=noise, temperature=0.5, hard=False)
    entries = params(GUMBEL)["quantizer"]["codebook"]
    np.testing.assert_allclose(soft.latents, shares @ entries, atol=1e-4)
    q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    divergence = (q * np.log(q * 24 + 1e-10)).sum(-1).mean()
    assert float(hard.loss) == pytest.approx(0.5 * divergence, rel=1e-4)


def test_gradients_of_the_plain_quantizer():
    entries = params(NEAREST)["quantizer"]["codebook"]

    def loss(latents):
        found = quantize("nearest", latents)
        return jnp.sum(found.latents) + found.loss

    nearest = entries[np.asarray(quantize("nearest", LATENTS).codes)]
    expected = 1.0 + 2 * (LATENTS - nearest) / LATENTS.size  # straight through, and commitment
    np.testing.assert_allclose(jax.grad(loss)(LATENTS), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="takes no noise"):
        quantize("nearest", LATENTS, noise=LATENTS)


def test_pixels_are_limited_and_truncated():
    values = np.float32([-3, -1, -0.002, 0, 0.999, 1, 9])
    np.testing.assert_array_equal(to_pixels(values), [0, 0, 127, 127, 254, 255, 255])
    pixels = np.arange(256, dtype=np.uint8)
    assert np.abs(np.asarray(to_pixels(normalized(pixels))).astype(int) - pixels).max() <= 1


YAML = {
    "ddconfig": {
        "ch": 128,
        "ch_mult": [1, 1, 2, 4],
        "num_res_blocks": 2,
        "resolution": 256,
        "attn_resolutions": [32],
        "z_channels": 256,
        "in_channels": 3,
        "out_ch": 3,
        "double_z": False,
    },
    "embed_dim": 256,
    "n_embed": 8192,
    "kl_weight": 1e-8,
}


def test_description_beside_the_weights():
    assert VQGANConfig.from_model_yaml(YAML) == VQGANConfig()
    model = {"model": {"target": "taming.models.vqgan.VQModel", "params": YAML}}
    assert VQGANConfig.from_model_yaml(model) == VQGANConfig(quantizer="nearest")
    sizes = YAML["ddconfig"]
    for changed, message in (
        ({"ddconfig": sizes | {"double_z": True}}, "double_z must be False"),
        ({"ddconfig": sizes | {"in_channels": 1}}, "in_channels must be 3, got 1"),
        ({"ddconfig": {}}, "has no 'ch_mult'"),
        ({"model": {"target": "ldm.models.autoencoder.AutoencoderKL"}}, "'AutoencoderKL' is not"),
    ):
        with pytest.raises(ValueError, match=message):
            VQGANConfig.from_model_yaml(YAML | changed)


def test_impossible_sizes_are_named():
    for changes, message in (
        ({"base_channels": 48}, "base_channels must be such that .* multiple of 32"),
        ({"attention_levels": (4,)}, "attention_levels must be among 0 .. 3"),
        ({"embedding_dim": 64}, r"embedding_dim must be latent_channels \(256\)"),
        ({"quantizer": "ema"}, "quantizer must be one of"),
        ({"num_codes": 0}, "num_codes must be a positive int"),
    ):
        with pytest.raises(ValueError, match=message):
            VQGANConfig(**changes)
    assert VQGANConfig().patch == 8
