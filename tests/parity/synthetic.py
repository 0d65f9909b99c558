"""Writes a fixture directory of any configuration, with numbers of the numpy `Reference`.

There are official numbers of few configurations only. These directories have the same format and
float64 truth, so `check.py` can be tried on sizes it has never seen. Gradients, which numpy does
not give, are left to the caller (`gradient_statistics`).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ofa_jax.checkpoint.layout import SHARED_EMBEDDING, expected_shapes
from ofa_jax.vocab import swap_official_ids
from tests.decoding.numpy_reference import search, trie_children
from tests.parity.fixture import config_from_fixture
from tests.parity.generation import config_of
from tests.parity.reference import PAD, Encoded, Reference

BOS, EOS = 0, 2
GREEDY_STEPS = 16


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a case is made of.

    Attributes:
      name: of the case.
      source_lengths: text tokens per sample, bos and eos included.
      target_lengths: decoder input tokens per sample.
      image_size: (height, width) in pixels, or None for a case without images.
      has_image: per sample; None = all.
      is_code: per sample whether the target is image codes; None = the case has no code masks.
      patches: patches kept per image, in random order; None = all.
      options: arguments that the case changes; they go into its `opts`.
      images_of: case whose images are taken instead of storing own ones.
      resids: whether the case has residual scales (`w.*`) and borrows all inputs by its name.
      greedy: whether greedy decoding is stored.
      searches: settings of `generation.json` to what they allow: None, "bins", "codes" or a list
        of answers.
    """

    name: str
    source_lengths: Sequence[int] = ()
    target_lengths: Sequence[int] = ()
    image_size: tuple[int, int] | None = None
    has_image: Sequence[bool] | None = None
    is_code: Sequence[bool] | None = None
    patches: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images_of: str | None = None
    resids: bool = False
    greedy: bool = False
    searches: Mapping[str, str | list[list[int]] | None] = dataclasses.field(default_factory=dict)


def config_json(
    *, text: int, codes: int, bins: int, resnet_layers: Sequence[int], **args: Any
) -> dict[str, Any]:
    """The `config.json` of a model.

    Args:
      text: text tokens of the vocabulary.
      codes: image codes.
      bins: box bins.
      resnet_layers: blocks per stage.
      **args: official arguments; `embed_dim`, `ffn_embed_dim` and `attention_heads` stand for
        those of both stacks.
    """
    for shared in ("embed_dim", "ffn_embed_dim", "attention_heads"):
        value = args.pop(shared)
        args |= {f"encoder_{shared}": value, f"decoder_{shared}": value}
    code_start = 4 + text + 1
    return {
        "kind": "synthetic",
        "args": {
            "code_dict_size": codes,
            "num_bins": bins,
            "token_bucket_size": 256,
            "image_bucket_size": 42,
            "max_source_positions": 1024,
            "max_target_positions": 1024,
            "orig_patch_image_size": 256,
            "code_image_size": 128,
            "scale_resids": False,
            **args,
        },
        "mask": code_start - 1,
        "code_start": code_start,
        "bin_start": code_start + codes,
        "vocab_size": code_start + codes + bins,
        "resnet_layers": list(resnet_layers),
        "cases": {},
    }


def random_weights(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights in which nothing is at its initial value, ties once, float16.

    Args:
      config: the fixture's configuration.
      rng: random numbers.
    """
    weights = {}
    for name, shape in expected_shapes(config_from_fixture(config)).items():
        if name in SHARED_EMBEDDING[1:]:
            continue
        noise = rng.normal(size=shape)
        if len(shape) == 1 and name.endswith((".weight", ".running_var", ".c_attn")):
            noise = 1 + 0.2 * np.tanh(noise)
        elif "embed_tokens" in name or "positions" in name or "type_embedding" in name:
            noise *= 0.7
        elif "rel_pos_table" in name:
            noise *= 0.5
        elif len(shape) > 1:
            noise *= (2.0 if "embed_images" in name else 1.0) * np.prod(shape[1:]) ** -0.5
        else:
            noise *= 0.1
        weights[name] = noise.astype(np.float16)
    return weights


class _Writer:
    """One directory in the making."""

    def __init__(self, directory: pathlib.Path, config: dict[str, Any], seed: int) -> None:
        self.directory, self.config = directory, config
        self.rng = np.random.default_rng(seed)
        self.weights = random_weights(config, self.rng)
        self.inputs: dict[str, dict[str, np.ndarray]] = {}
        self.generation: dict[str, Any] = {}

    def _rows(self, lengths: Sequence[int], low: int, high: int) -> np.ndarray:
        tokens = np.full((len(lengths), max(lengths)), PAD, np.int32)
        for row, length in zip(tokens, lengths):
            row[:length] = self.rng.integers(low, high, length)
        return tokens

    def _new_inputs(self, recipe: Recipe) -> dict[str, np.ndarray]:
        config, rng = self.config, self.rng
        source = self._rows(recipe.source_lengths, 4, config["mask"])
        target = self._rows(recipe.target_lengths, 4, config["mask"])
        for row, length in zip(source, recipe.source_lengths):
            row[0], row[length - 1] = BOS, EOS
        if recipe.is_code is not None:
            codes = rng.integers(config["code_start"], config["bin_start"], target.shape)
            picked = np.asarray(recipe.is_code)[:, None] & (target != PAD)
            target = np.where(picked, codes, target).astype(np.int32)
        previous = np.full_like(target, PAD)
        for row, wanted, length in zip(previous, target, recipe.target_lengths):
            wanted[length - 1] = EOS
            row[0], row[1:length] = BOS, wanted[: length - 1]
        arrays = {
            "in.src_tokens": source,
            "in.src_lengths": np.asarray(recipe.source_lengths, np.int64),
            "in.prev_output_tokens": previous,
            "in.target": target,
        }
        b = len(source)
        if recipe.is_code is not None:
            arrays["in.code_masks"] = np.asarray(recipe.is_code)
        if recipe.image_size is not None:
            pixels = rng.integers(-32, 33, (b, 3, *recipe.image_size)) / 32
            arrays["in.patch_images"] = pixels.astype(np.float16)
            arrays["in.patch_masks"] = np.asarray(recipe.has_image or [True] * b)
            if recipe.patches is not None:
                all_patches = int(np.prod([-(-side // 16) for side in recipe.image_size]))
                orders = [rng.permutation(all_patches)[: recipe.patches] for _ in range(b)]
                arrays["in.patch_orders"] = np.stack(orders).astype(np.int32)
        return arrays

    def write_case(self, recipe: Recipe) -> None:
        """Writes inputs and outputs of one case."""
        stored: dict[str, np.ndarray] = {}
        if recipe.resids:
            owner = max((n for n in self.inputs if recipe.name.startswith(n + "_")), key=len)
            inputs = self.inputs[owner]
            for stack in ("encoder", "decoder"):
                for layer in range(self.config["args"][f"{stack}_layers"]):
                    scale = 1 + 0.2 * np.tanh(
                        self.rng.normal(size=self.config["args"]["encoder_embed_dim"])
                    )
                    key = f"w.{stack}.layers.{layer}.w_resid"
                    stored[key] = scale.astype(np.float16)
        else:
            stored = self._new_inputs(recipe)
            inputs = dict(stored)
            if recipe.images_of is not None:
                lent = self.inputs[recipe.images_of]
                inputs["in.patch_images"] = lent["in.patch_images"]
                inputs["in.patch_masks"] = stored["in.patch_masks"] = lent["in.patch_masks"]
        self.inputs[recipe.name] = inputs
        scales = {k.removeprefix("w."): v for k, v in stored.items() if k.startswith("w.")}
        options = {**recipe.options, **({"scale_resids": True} if recipe.resids else {})}
        reference = Reference({**self.weights, **scales}, self.config, **options)
        outputs, samples = run_reference(reference, inputs)
        if recipe.greedy:
            outputs |= _greedy(reference, samples)
        if recipe.searches:
            self.generation[recipe.name] = {
                setting: self._searched(reference, samples, setting, allowed)
                for setting, allowed in recipe.searches.items()
            }
        arrays = {**stored, **{f"out.{name}": array for name, array in outputs.items()}}
        np.savez(self.directory / f"case_{recipe.name}.npz", **arrays)
        facts: dict[str, Any] = {"note": "synthetic"}
        if recipe.options:
            facts["opts"] = dict(recipe.options)
        self.config["cases"][recipe.name] = facts

    def _searched(
        self,
        reference: Reference,
        samples: list[tuple[Encoded, bool]],
        setting: str,
        allowed: str | list[list[int]] | None,
    ) -> Any:
        config = config_of(setting)
        ranges = {
            "bins": (self.config["bin_start"], self.config["vocab_size"]),
            "codes": (self.config["code_start"], self.config["bin_start"]),
        }
        extra: dict[str, Any] = {}
        rule: Callable[[list[int]], set[int]] | None = None
        if isinstance(allowed, str):
            start, end = ranges[allowed]
            extra["constraint_range"] = f"{start},{end}"
            inside = {0, 1, 2, 3, *range(start, end)}
            rule = lambda generated: inside  # noqa: E731
        elif allowed is not None:
            extra["answers"] = allowed
            rule = lambda generated: trie_children(allowed, generated)  # noqa: E731
        hypotheses = []
        for encoded, is_code in samples:
            steps = _next_logits(reference, encoded, is_code)
            found = search(steps, config, max_length=config.max_length(), allowed=rule)
            hypotheses.append(
                [
                    {
                        "tokens": swap_official_ids(np.array(tokens)).tolist(),
                        "score": float(score),
                        "positional_scores": [float(gain) for gain in gains],
                    }
                    for tokens, score, gains in found
                ]
            )
        return {**extra, "hyps": hypotheses} if extra else hypotheses


def _next_logits(
    reference: Reference, encoded: Encoded, is_code: bool
) -> Callable[[list[int]], np.ndarray]:
    """Internal ids generated so far -> logits of the next one, by internal id."""
    known: dict[tuple[int, ...], np.ndarray] = {}

    def logits(generated: list[int]) -> np.ndarray:
        key = tuple(generated)
        if key not in known:
            tokens = np.array([BOS, *swap_official_ids(np.array(key, int))], int)
            row = reference.decode(encoded, tokens, is_code)[1][-1]
            known[key] = row[swap_official_ids(np.arange(len(row)))]
        return known[key]

    return logits


def _greedy(reference: Reference, samples: list[tuple[Encoded, bool]]) -> dict[str, np.ndarray]:
    found, margins = [], []
    for encoded, is_code in samples:
        tokens, gaps = [BOS], []
        for _ in range(GREEDY_STEPS):
            row = reference.decode(encoded, np.array(tokens), is_code)[1][-1]
            second, first = np.argsort(row)[-2:]
            tokens.append(int(first))
            gaps.append(row[first] - row[second])
        found.append(tokens[1:])
        margins.append(gaps)
    return {"greedy16": np.array(found, np.int32), "greedy16_margin": np.array(margins)}


def run_reference(
    reference: Reference, inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[tuple[Encoded, bool]]]:
    """Teacher forcing on a case.

    Args:
      reference: the model.
      inputs: the case's "in.*" arrays.

    Returns:
      Outputs without the prefix "out.", and what decoding starts from: (encoder output, whether
      the target is codes) per sample.
    """
    samples, states, features, logits = [], [], [], []
    images, masks = inputs.get("in.patch_images"), inputs.get("in.patch_masks")
    orders, codes = inputs.get("in.patch_orders"), inputs.get("in.code_masks")
    for row, tokens in enumerate(inputs["in.src_tokens"]):
        encoded = reference.encode(
            tokens,
            None if images is None else images[row].astype(np.float64),
            True if masks is None else bool(masks[row]),
            None if orders is None else orders[row],
        )
        is_code = codes is not None and bool(codes[row])
        own = reference.decode(encoded, inputs["in.prev_output_tokens"][row], is_code)
        samples.append((encoded, is_code))
        states.append(encoded.states)
        features.append(own[0])
        logits.append(own[1])
    scores = np.stack(logits)
    largest = scores.max(axis=-1)
    normalizer = largest + np.log(np.exp(scores - largest[..., None]).sum(axis=-1))
    picked = np.take_along_axis(scores, inputs["in.target"][..., None].astype(int), -1)[..., 0]
    return {
        "encoder_out": np.stack(states),
        "encoder_padding_mask": ~np.stack([encoded.keep for encoded, _ in samples]),
        "decoder_features": np.stack(features),
        "logits": scores,
        "logsumexp": normalizer,
        "argmax": scores.argmax(axis=-1),
        "target_logprob": picked - normalizer,
    }, samples


def write_fixture(
    directory: pathlib.Path, config: dict[str, Any], recipes: Sequence[Recipe], seed: int = 0
) -> None:
    """Writes config.json, weights.npz, the cases and, where any case has searches, generation.json.

    Args:
      directory: target, which must exist.
      config: from `config_json`.
      recipes: the cases; one with `images_of` or `resids` comes after the case it borrows from.
      seed: of weights and inputs.
    """
    writer = _Writer(directory, json.loads(json.dumps(config)), seed)
    for recipe in recipes:
        writer.write_case(recipe)
    np.savez(directory / "weights.npz", **writer.weights)
    (directory / "config.json").write_text(json.dumps(writer.config))
    if writer.generation:
        (directory / "generation.json").write_text(json.dumps(writer.generation))


def gradient_statistics(
    loss: float, gradients: Mapping[str, np.ndarray], tokens: int
) -> dict[str, Any]:
    """An entry of `grad_stats.json`.

    Args:
      loss: summed negative log-likelihood.
      gradients: of the loss, under official names.
      tokens: target tokens that count.
    """
    return {
        "loss_sum": loss,
        "ntokens": tokens,
        "grads": {
            name: {
                "norm": float(np.linalg.norm(array.astype(np.float64))),
                "head": array.reshape(-1)[:8].astype(float).tolist(),
            }
            for name, array in gradients.items()
        },
    }
