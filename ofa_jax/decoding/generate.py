"""Decoding with the real model: encode once, cache, search.

The way from a batch of the input pipeline to token ids, in two compiled programs: the encoder
(once per model and shapes) and the search (once per model, settings and shapes). Weights,
constraint tables and prefixes are ordinary arguments.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import VariableDict
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ofa_jax.decoding.beam import BeamConfig, beam_search
from ofa_jax.decoding.constraints import Constraint
from ofa_jax.decoding.rules import Cache, Hypotheses, Position, StepFn
from ofa_jax.decoding.sampling import SamplingConfig, guided, sample
from ofa_jax.model.encoder import EncoderOutput
from ofa_jax.model.ofa import OFA, Batch

__all__ = ["ENCODER_KEYS", "Rules", "encode", "generate", "sharding_rules", "start"]

Rules = tuple[tuple[str, Any], ...]

ENCODER_KEYS = (
    "encoder_input_tokens",
    "encoder_images",
    "encoder_image_masks",
    "encoder_image_holes",
)


def generate(
    model: OFA,
    variables: VariableDict,
    batch: Batch,
    config: BeamConfig | SamplingConfig,
    *,
    constraint: Constraint | None = None,
    prefix: Int[Array, "b p"] | None = None,
    unconditional: Int[Array, "b s"] | None = None,
    rng: PRNGKeyArray | None = None,
) -> Hypotheses:
    """Generates outputs for a batch, in evaluation mode.

    Args:
      model: OFA.
      variables: {"params": ..., "batch_stats": ...}.
      batch: the encoder's entries and, if present, "decoder_code_masks" bool[b]; without it all
        targets are of the kind that `config.gen_code` says, as in the official code. Further
        entries are ignored.
      config: `BeamConfig` searches, `SamplingConfig` draws.
      constraint: what may be answered.
      prefix: what the decoder reads after BOS and before it answers (a decoder
        prompt), padded right with 0. Neither results nor lengths nor scores include it.
      unconditional: encoder tokens without the prompts, for guidance: it doubles the batch.
      rng: key, needed for sampling only.

    Returns:
      g hypotheses per sentence, best first.

    Raises:
      ValueError: sampling without `rng`, guidance without `unconditional`.
    """
    if isinstance(config, SamplingConfig) and rng is None:
        raise ValueError("sampling needs rng, a jax.random key")
    if _is_guided(config):
        if unconditional is None:
            raise ValueError("guidance needs the encoder tokens of empty prompts")
        twice = {key: jnp.concatenate([value, value]) for key, value in batch.items()}
        tokens = jnp.concatenate([batch["encoder_input_tokens"], unconditional])
        batch = {**twice, "encoder_input_tokens": tokens}
    encoder_output, code_masks = encode(model, variables, batch, gen_code=config.gen_code)
    source_length = batch["encoder_input_tokens"].shape[1]
    return _generate(
        model,
        config,
        source_length,
        sharding_rules(),
        variables,
        encoder_output,
        code_masks,
        constraint,
        prefix,
        rng,
    )


def encode(
    model: OFA, variables: VariableDict, batch: Batch, *, gen_code: bool = False
) -> tuple[EncoderOutput, Bool[Array, "b"]]:
    """The part of decoding that does not depend on its settings, compiled apart from the rest.

    So several tasks with their own settings share the program of the encoder, by far the
    longest to compile, and may share its output.

    Args:
      model: OFA.
      variables: {"params": ..., "batch_stats": ...}.
      batch: see `generate`.
      gen_code: the kind of all targets where `batch` does not have "decoder_code_masks".

    Returns:
      (encoder output, code masks).
    """
    code_masks = batch.get("decoder_code_masks")
    if code_masks is None:
        code_masks = jnp.full(batch["encoder_input_tokens"].shape[0], gen_code)
    inputs = {key: batch[key] for key in ENCODER_KEYS if key in batch}
    return _encode(model, variables, inputs, sharding_rules()), code_masks


def start(
    model: OFA,
    variables: VariableDict,
    encoder_output: EncoderOutput,
    code_masks: Bool[Array, "b"],
    *,
    beams: int,
    places: int,
) -> tuple[StepFn, Cache]:
    """Prepares the decoder for a search. Traceable.

    Args:
      model: OFA.
      variables: {"params": ..., "batch_stats": ...}.
      encoder_output: from `encode`.
      code_masks: from `encode`.
      beams: g.
      places: decoder input positions t, BOS included.

    Returns:
      (step function, cache before position 0), see `rules`.
    """
    cache = model.apply(
        variables, encoder_output, code_masks, beams=beams, max_length=places, method="init_cache"
    )

    def step_fn(
        cache: Cache, tokens: Int[Array, "b g"], position: Position
    ) -> tuple[Float[Array, "b g v"], Cache]:
        return cast(Any, model.apply(variables, cache, tokens, position, method="decode_step"))

    return step_fn, cast(Cache, cache)


def sharding_rules() -> Rules:
    """The logical axis rules around a call; compiled programs are kept apart by them.

    JAX tells programs apart by the mesh, but Flax's rules are no part of its key.
    """
    return tuple((name, axes) for name, axes in nn.get_logical_axis_rules())


def _is_guided(config: BeamConfig | SamplingConfig) -> bool:
    return isinstance(config, SamplingConfig) and config.guidance != 1.0


@functools.partial(jax.jit, static_argnames=("model", "rules"))
def _encode(model: OFA, variables: VariableDict, batch: Batch, rules: Rules) -> EncoderOutput:
    del rules
    return cast(EncoderOutput, model.apply(variables, batch, method="encode"))


@functools.partial(jax.jit, static_argnames=("model", "config", "source_length", "rules"))
def _generate(
    model: OFA,
    config: BeamConfig | SamplingConfig,
    source_length: int,
    rules: Rules,
    variables: VariableDict,
    encoder_output: EncoderOutput,
    code_masks: Bool[Array, "b"],
    constraint: Constraint | None,
    prefix: Int[Array, "b p"] | None,
    rng: PRNGKeyArray | None,
) -> Hypotheses:
    del rules
    max_length = config.max_length(source_length)
    places = max_length + 1 + (0 if prefix is None else prefix.shape[1])
    beams = config.samples if isinstance(config, SamplingConfig) else config.beam
    step_fn, cache = start(model, variables, encoder_output, code_masks, beams=beams, places=places)
    rows = code_masks.shape[0]
    if _is_guided(config):
        step_fn, rows = guided(step_fn, cast(SamplingConfig, config).guidance), rows // 2
    settings = {
        "batch": rows,
        "max_length": max_length,
        "constraint": constraint,
        "prefix": prefix,
    }
    if isinstance(config, SamplingConfig) and rng is not None:
        return sample(step_fn, cache, config, rng, **settings)
    return beam_search(step_fn, cache, cast(BeamConfig, config), **settings)
