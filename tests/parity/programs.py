"""The compiled programs of a parity check, and the shapes that let cases share them.

Compiling is nearly all of the time here. So the encoder runs forward once per image size, its
backward pass is a program of its own, and everything behind it sees inputs that are padded to
common shapes (`Room`), masked as in training: one program per kind of target and one per setting
of the search serve all cases of a directory.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofa_jax.decoding.beam import BeamConfig, beam_search
from ofa_jax.decoding.constraints import Constraint
from ofa_jax.decoding.generate import start
from ofa_jax.decoding.rules import Hypotheses
from ofa_jax.model.decoder import Decoder, DecoderLayer
from ofa_jax.model.encoder import EncoderLayer, EncoderOutput
from ofa_jax.model.ofa import OFA
from ofa_jax.model.resnet import ResNet
from ofa_jax.vocab import BOS_ID

# Modules whose outputs are compared beside the model's own.
OBSERVED = (EncoderLayer, DecoderLayer, Decoder, ResNet)


@dataclasses.dataclass(frozen=True)
class Room:
    """Shapes behind the encoder.

    Attributes:
      batch: rows b.
      tokens: encoder tokens n.
      text: decoder input length t of batches without image codes.
      codes: decoder input length t of batches with image codes.
    """

    batch: int
    tokens: int
    text: int
    codes: int

    @classmethod
    def around(cls, rooms: Iterable[Room]) -> Room:
        """The smallest room in which all the given ones have place."""
        sizes = [dataclasses.astuple(room) for room in rooms]
        return cls(*(max(column) for column in zip(*sizes, strict=True)))


def padded(array: Any, shape: tuple[int, ...], mode: str = "constant") -> np.ndarray:
    """Pads at the end of the leading axes with zeros, or by repetition with mode "edge"."""
    array = np.asarray(array)
    widths = [(0, wanted - size) for wanted, size in zip(shape, array.shape)]
    widths += [(0, 0)] * (array.ndim - len(widths))
    return np.pad(array, widths, mode)  # type: ignore[call-overload]


def padded_encoder_output(encoded: EncoderOutput, room: Room) -> EncoderOutput:
    """Encoder output with masked tokens behind and repeated rows below."""
    tokens, rows = room.tokens, room.batch
    b = encoded.states.shape[0]
    # Positions without a batch axis of their own keep it that way: another program computes them.
    own = rows if encoded.positions.shape[0] == b and b > 1 else encoded.positions.shape[0]
    states = padded(encoded.states, (b, tokens))
    mask = padded(encoded.mask, (b, tokens))
    positions = padded(encoded.positions, (encoded.positions.shape[0], tokens))
    return EncoderOutput(
        states=padded(states, (rows,), "edge"),
        mask=padded(mask, (rows,), "edge"),
        positions=padded(positions, (own,), "edge"),
    )


def _observed(module: Any, method: str) -> bool:
    return isinstance(module, OBSERVED) and method == "__call__"


def _encode(model: OFA, variables: Any, batch: Any, patch_orders: Any) -> tuple[Any, Any]:
    encoded, observed = model.apply(
        variables,
        batch,
        patch_orders=patch_orders,
        method="encode",
        mutable=["intermediates"],
        capture_intermediates=_observed,
    )
    return encoded, observed["intermediates"]


def _encode_with_pullback(
    model: OFA, variables: Mapping[str, Any], batch: Any, patch_orders: Any
) -> tuple[Any, Any, Any]:
    def differentiated(params: Any) -> Any:
        encoded, observed = _encode(model, {**variables, "params": params}, batch, patch_orders)
        return (encoded.states, encoded.positions), (encoded, observed)

    _, pullback, (encoded, observed) = jax.vjp(differentiated, variables["params"], has_aux=True)
    return encoded, observed, pullback


def _decode(
    model: OFA, variables: Any, encoded: Any, tokens: Any, codes: Any
) -> tuple[jax.Array, Any]:
    logits, observed = model.apply(
        variables,
        encoded,
        tokens,
        codes,
        method="decode",
        mutable=["intermediates"],
        capture_intermediates=_observed,
    )
    return logits, observed["intermediates"]


def negative_log_likelihood(logits: jax.Array, targets: Any, weights: Any) -> jax.Array:
    """Weighted sum over all positions, no smoothing.

    Args:
      logits: float[b, t, v].
      targets: int[b, t].
      weights: float[b, t].
    """
    scores = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(scores, jnp.asarray(targets)[..., None], axis=-1)[..., 0]
    return -jnp.sum(picked * weights)


def _decode_with_gradients(
    model: OFA,
    variables: Mapping[str, Any],
    encoded: EncoderOutput,
    tokens: Any,
    codes: Any,
    targets: Any,
    weights: Any,
) -> tuple[Any, Any, Any, Any]:
    def loss_of(params: Any, states: Any, positions: Any) -> Any:
        given = EncoderOutput(states=states, mask=encoded.mask, positions=positions)
        logits, observed = _decode(model, {**variables, "params": params}, given, tokens, codes)
        return negative_log_likelihood(logits, targets, weights), (logits, observed)

    (loss, (logits, observed)), gradients = jax.value_and_grad(
        loss_of, argnums=(0, 1, 2), has_aux=True
    )(variables["params"], encoded.states, encoded.positions)
    return logits, observed, loss, gradients


def _greedy(model: OFA, variables: Any, encoded: Any, codes: Any, steps: int) -> jax.Array:
    step_fn, cache = start(model, variables, encoded, codes, beams=1, places=steps)

    def step(carry: Any, position: jax.Array) -> Any:
        cache, tokens = carry
        logits, cache = step_fn(cache, tokens, position)
        tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return (cache, tokens), tokens[:, 0]

    first = jnp.full((codes.shape[0], 1), BOS_ID, jnp.int32)
    return jax.lax.scan(step, (cache, first), jnp.arange(steps))[1].T


def _search(
    model: OFA,
    variables: Any,
    encoded: Any,
    codes: Any,
    constraint: Constraint | None,
    config: BeamConfig,
) -> Hypotheses:
    longest = config.max_length()
    step_fn, cache = start(model, variables, encoded, codes, beams=config.beam, places=longest + 1)
    return beam_search(
        step_fn,
        cache,
        config,
        batch=codes.shape[0],
        max_length=longest,
        constraint=constraint,
    )


class Programs:
    """Jitted functions of one model; get them from `programs_of`.

    Attributes:
      encode: (variables, batch, patch_orders) -> encoder output, observed outputs.
      encode_with_pullback: the same, and the pullback from (states, positions) to parameters.
      pull_back: (pullback, cotangents) -> gradients of the parameters.
      decode: (variables, encoder output, tokens, code masks or None) -> logits, observed outputs.
      decode_with_gradients: the same with (targets, weights) -> logits, observed outputs, loss
        sum, its gradients with respect to (parameters, states, positions).
      greedy: (variables, encoder output, code masks, steps) -> int32[b, steps] tokens of plain
        argmax decoding through the cache.
      search: (variables, encoder output, code masks, constraint, config) -> hypotheses.
    """

    def __init__(self, model: OFA, options: dict[str, Any] | None) -> None:
        def jit(function: Any, **more: Any) -> Any:
            bound = functools.partial(function, model)
            return jax.jit(bound, compiler_options=options, **more)

        self.encode = jit(_encode)
        self.encode_with_pullback = jit(_encode_with_pullback)
        self.pull_back = jax.jit(lambda pullback, c: pullback(c)[0], compiler_options=options)
        self.decode = jit(_decode)
        self.decode_with_gradients = jit(_decode_with_gradients)
        self.greedy = jit(_greedy, static_argnames="steps")
        self.search = jit(_search, static_argnames="config")


@functools.cache
def _programs(model: OFA, options: tuple[tuple[str, Any], ...]) -> Programs:
    return Programs(model, dict(options) or None)


def programs_of(model: OFA, options: Mapping[str, Any] | None = None) -> Programs:
    """The programs of a model, the same object for equal configurations.

    Args:
      model: the module.
      options: XLA's options for compiling.
    """
    return _programs(model, tuple(sorted((options or {}).items())))
