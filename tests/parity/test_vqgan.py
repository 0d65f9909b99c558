"""The image tokenizer against the official classes: every stage, every size, training too.

Random official weights and their outputs lie in the shared fixtures (fixtures/vqgan). The official
model itself moves by up to 1e-5 between float32 and float64.
"""

import dataclasses
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ofa_jax.checkpoint.vqgan import (
    config_from_shapes,
    expected_parameters,
    official_name,
    to_params,
    to_state_dict,
)
from ofa_jax.model.vqgan import VQGAN, VQGANConfig
from ofa_jax.model.vqgan.autoencoder import to_pixels
from tests.parity.tolerances import (
    VQGAN_DISTANCES,
    VQGAN_GRADIENT,
    VQGAN_IMAGE,
    VQGAN_LATENTS,
    VQGAN_LOGITS,
)
from tests.shared import fixtures_dir, requires_all_fixtures

DIRECTORY = fixtures_dir() / "vqgan"
# A size is a compilation, so the others are left to the slow tests.
CASES = (
    "sq64",
    *(
        pytest.param(case, marks=[pytest.mark.slow, requires_all_fixtures])
        for case in ("small32", "rect96x64")
    ),
)


@functools.cache
def cases():
    return dict(np.load(DIRECTORY / "cases.npz"))


@functools.cache
def facts():
    return json.loads((DIRECTORY / "config.json").read_text())


def official_config(quantizer="gumbel"):
    config = VQGANConfig.from_model_yaml({"model": {"params": facts()}})
    return VQGANConfig(**{**vars(config), "quantizer": quantizer})


@functools.cache
def variables(quantizer="gumbel"):
    weights = dict(np.load(DIRECTORY / "weights.npz"))
    if quantizer == "nearest":
        weights["quantize.embedding.weight"] = weights["vq.quantize.embedding.weight"]
        weights = {n: w for n, w in weights.items() if not re.match(r"quantize\.(proj|embed\.)", n)}
    return {"params": to_params(weights, official_config(quantizer))}


def channels_last(name):
    array = np.asarray(cases()[name], np.float32 if cases()[name].ndim > 3 else None)
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 and ".vq.dist" not in name else array


@functools.cache
def encoded(case):
    """(encoder's output, latents, logits, outputs of every module) of a case's images."""
    model = VQGAN(official_config())

    @jax.jit
    def run(images):
        def stages(module, images):
            encoder_output = module.encoder(images)
            latents = module.quant_conv(encoder_output)
            return encoder_output, latents, module.quantizer.scores(latents)

        return model.apply(
            variables(), images, method=stages, capture_intermediates=True, mutable="intermediates"
        )

    return run(channels_last(f"{case}.in.image"))


@functools.cache
def decoding_program():
    model = VQGAN(official_config())

    @jax.jit
    def run(latents):
        return model.apply(
            variables(),
            latents,
            method=lambda module, z: module.decoder(module.post_quant_conv(z)),
            capture_intermediates=True,
            mutable="intermediates",
        )

    return run


def decoded(latents):
    """(images, outputs of every module); two images at a time, so that a size compiles once."""
    latents = np.asarray(latents, np.float32)
    return decoding_program()(np.concatenate([latents, latents])[:2])


def quantized(quantizer, method, *arguments):
    model = VQGAN(official_config(quantizer))
    return np.asarray(
        model.apply(
            variables(quantizer),
            *arguments,
            method=lambda module, *args: getattr(module.quantizer, method)(*args),
        )
    )


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=tolerance)


def test_configuration_and_names_are_the_official_ones():
    listed = json.loads((DIRECTORY / "state_dict.json").read_text())
    for kind, description, quantizer, total in (
        ("f8_8192_gumbel", facts()["released_f8_8192"], "gumbel", 68_995_971),
        ("mini_gumbel", facts(), "gumbel", 3_041_475),
        ("mini_vq", facts(), "nearest", 3_039_363),
    ):
        official = {name: tuple(entry["shape"]) for name, entry in listed[kind].items()}
        config = config_from_shapes(official)
        described = VQGANConfig.from_model_yaml({"model": {"params": description}})
        assert config == dataclasses.replace(
            described, quantizer=quantizer, kl_weight=config.kl_weight
        )
        assert dict(expected_parameters(config).values()) == official
        assert sum(math.prod(shape) for shape in official.values()) == total
    back = to_state_dict(variables()["params"], official_config())
    weights = np.load(DIRECTORY / "weights.npz")
    for name in back:
        np.testing.assert_array_equal(back[name], weights[name].astype(np.float32))


@pytest.mark.parametrize("case", CASES)
def test_latents_and_codes(case):
    (encoder_output, latents, logits), _ = encoded(case)
    assert_close(encoder_output, channels_last(f"{case}.enc.encoder_out"), VQGAN_LATENTS)
    assert_close(latents, channels_last(f"{case}.enc.prequant"), VQGAN_LATENTS)
    assert_close(logits, channels_last(f"{case}.gumbel.logits"), VQGAN_LOGITS)
    codes = cases()[f"{case}.gumbel.argmax"]
    np.testing.assert_array_equal(np.argmax(logits, -1), codes)
    noise = -np.log(channels_last(f"{case}.gumbel.exp_noise"))
    drawn = cases()[f"{case}.gumbel.sampled"]
    np.testing.assert_array_equal(np.argmax(logits + noise, -1), drawn)
    for grid, name in ((codes, "zq_argmax"), (drawn, "zq_sampled")):
        entries = quantized("gumbel", "lookup", grid)
        np.testing.assert_array_equal(entries, channels_last(f"{case}.gumbel.{name}"))
    distances = -quantized("nearest", "scores", latents)
    assert_close(distances, cases()[f"{case}.vq.dist"], VQGAN_DISTANCES)
    nearest = cases()[f"{case}.vq.argmin"]
    np.testing.assert_array_equal(np.argmin(distances, -1), nearest)
    entries = quantized("nearest", "lookup", nearest)
    assert_close(entries, channels_last(f"{case}.vq.zq"), 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_images(case):
    for latents, picture in ((".gumbel.zq_argmax", ".gumbel.rec_argmax"), (".vq.zq", ".vq.rec")):
        if case + picture in cases():
            expected = channels_last(case + picture)
            found, _ = decoded(channels_last(case + latents))
            assert_close(found[: len(expected)], expected, VQGAN_IMAGE)


def test_images_of_given_codes():
    codes = cases()["given.codes"]
    picture, _ = decoded(quantized("gumbel", "lookup", codes))
    assert_close(picture[:1], channels_last("given.rec"), VQGAN_IMAGE)
    pixels = np.asarray(to_pixels(picture[0])).astype(int)
    assert np.abs(pixels - cases()["given.uint8_hwc"]).max() <= 1
    assert (pixels == cases()["given.uint8_hwc"]).mean() > 0.999
    picture, _ = decoded(quantized("nearest", "lookup", codes))
    assert_close(picture[:1], channels_last("given.rec_vq"), VQGAN_IMAGE)


def test_every_module_in_between():
    _, of_encoder = encoded("sq64")
    _, of_decoder = decoded(channels_last("sq64.gumbel.zq_argmax"))
    found = {}
    for collected in (of_encoder, of_decoder):
        for path, (value, *_) in traverse_util.flatten_dict(
            collected["intermediates"], is_leaf=lambda _, value: isinstance(value, tuple)
        ).items():
            name = official_name(path[:-1], "gumbel").removesuffix(".conv")
            found[name] = np.asarray(value)
    names = [name for name in cases() if name.startswith("mid.")]
    assert len(names) == 32
    for name in names:
        output = found[name.removeprefix("mid.")][0].transpose(2, 0, 1)
        step = max(1, output.shape[-1] // 4)
        assert_close(output[:, ::step, ::step], cases()[name], VQGAN_IMAGE)


@requires_all_fixtures
@pytest.mark.slow  # compiles the backward pass of the whole autoencoder four times
@pytest.mark.parametrize(
    "tag", ["vq_legacy", "vq_fixed", "gumbel_hard_tau0.7", "gumbel_soft_tau0.7"]
)
def test_training_step(tag):
    expected = facts()["grads"][tag]
    quantizer = "gumbel" if tag.startswith("gumbel") else "nearest"
    config = VQGANConfig(
        **{
            **vars(official_config(quantizer)),
            "kl_weight": facts()["kl_weight"],
            "legacy_commitment": tag == "vq_legacy",
        }
    )
    options = {}
    if quantizer == "gumbel":
        noise = -np.log(channels_last("sq64.gumbel.exp_noise"))
        options = {"noise": noise, "temperature": 0.7, "hard": "hard" in tag}
    images = channels_last("sq64.in.image")

    def loss(params):
        picture, found = VQGAN(config).apply({"params": params}, images, **options)
        error = jnp.mean(jnp.abs(images - picture))
        return error + found.loss, (error, found)

    params = variables(quantizer)["params"]
    (total, (error, found)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert total == pytest.approx(expected["loss"], abs=1e-5)
    assert error == pytest.approx(expected["nll"], abs=1e-5)
    if quantizer == "gumbel":
        assert found.loss == pytest.approx(expected["diff"], rel=1e-4)
        np.testing.assert_array_equal(found.codes, cases()[f"train.{tag}.ind"])
        assert_close(found.latents, channels_last(f"train.{tag}.zq"), 1e-5)
    else:
        assert found.loss == pytest.approx(expected["codebook_loss"], rel=1e-4)
    official = to_state_dict(gradients, config)
    assert set(expected["grads"]) == set(official)
    for name, numbers in expected["grads"].items():
        assert np.linalg.norm(official[name]) == pytest.approx(
            numbers["norm"], rel=VQGAN_GRADIENT, abs=1e-7
        )
    for name in (n for n in cases() if n.startswith(f"grad.{tag}.")):
        whole = np.asarray(cases()[name], np.float32)
        difference = np.linalg.norm(official[name.removeprefix(f"grad.{tag}.")] - whole)
        assert difference <= VQGAN_GRADIENT * np.linalg.norm(whole)
