"""Our model on one case of a fixture.

`check.py` gives all runs of a directory the same `Room`, so that they share programs; a run alone
takes the shapes of its case. Official ids, names and layouts are converted here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ofa_jax.checkpoint.names import to_state_dict
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import Constraint
from ofa_jax.decoding.rules import Hypotheses
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.encoder import EncoderOutput
from ofa_jax.model.ofa import OFA
from tests.parity.fixture import Case
from tests.parity.programs import (
    Room,
    negative_log_likelihood,
    padded,
    padded_encoder_output,
    programs_of,
)

# Compiling costs more than running at these sizes.
FAST_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    # The fusions of a run: what is compared with the official numbers rounds as the product does.
    "xla_cpu_use_fusion_emitters": True,
}
# More layers than this are scanned, so that depth costs no time to compile.
_LOOPED_LAYERS = 8


class Run:
    """Our model on one case.

    Attributes:
      case: the case.
      config: its configuration.
      model: the module.
      batch: the inputs.
    """

    def __init__(
        self,
        case: Case,
        *,
        compiler_options: Mapping[str, Any] | None = FAST_COMPILE,
        gradients: bool = False,
        room: Room | None = None,
        **overrides: Any,
    ) -> None:
        """Reads the inputs.

        Args:
          case: the case.
          compiler_options: XLA's options; None = its defaults, whose programs are faster.
          gradients: whether the outputs come from the programs that also give gradients; saves
            compiling others where both are wanted.
          room: shapes behind the encoder; None = those of the case.
          **overrides: fields of `OFAConfig`.
        """
        self.case = case
        self.config: OFAConfig = case.model_config(**overrides)
        self.model = OFA(self.config)
        self.batch = case.batch()
        self._options = None if compiler_options is None else dict(compiler_options)
        self._encoder = programs_of(self.model, compiler_options)
        # Interpolated positions are the encoder's business; the decoder's programs are the same.
        decoder = dataclasses.replace(self.config, interpolate_position=False)
        self._decoder = programs_of(OFA(decoder), compiler_options)
        self._gradients = gradients
        self._room = room or self.own_room

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """The official weights as our variables."""
        return self.case.variables(self.config)

    def jit(self, function: Any) -> Any:
        """`jax.jit` with this run's compiler options."""
        return jax.jit(function, compiler_options=self._options)

    @functools.cached_property
    def own_room(self) -> Room:
        """The shapes of the case itself."""
        b, t = self.batch["decoder_input_tokens"].shape
        tokens = self.batch["encoder_input_tokens"].shape[1] + self._patches()
        has_codes = self._code_masks is not None
        return Room(b, tokens, text=0 if has_codes else t, codes=t if has_codes else 0)

    def _patches(self) -> int:
        images, orders = self.batch.get("encoder_images"), self.case.patch_orders()
        if images is None:
            return 0
        if orders is not None:
            return orders.shape[1]
        stride = self.config.resnet.stride
        return int(np.prod([-(-side // stride) for side in images.shape[1:3]]))

    @property
    def _code_masks(self) -> np.ndarray | None:
        masks = self.batch.get("decoder_code_masks")
        return masks if masks is not None and masks.any() else None

    @property
    def target_mask(self) -> np.ndarray:
        """bool[b, t]: positions whose target is not padding."""
        return np.asarray(self.batch["decoder_loss_weights"]) > 0

    def _decoder_inputs(self) -> tuple[Any, Any, Any, Any]:
        """Tokens, code masks, targets and weights in the room's shapes."""
        codes = self._code_masks
        room = self._room
        b, t = room.batch, room.text if codes is None else room.codes
        if codes is not None:
            codes = padded(codes, (b,), "edge")
        names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
        tokens, targets, weights = (padded(self.batch[name], (b, t)) for name in names)
        return tokens, codes, targets, weights

    @functools.cached_property
    def _encoded(self) -> tuple[EncoderOutput, Any]:
        if self._gradients:
            return self._encoded_with_pullback[:2]
        return self._encoder.encode(self.variables, self.batch, self.case.patch_orders())

    @functools.cached_property
    def _encoded_with_pullback(self) -> tuple[EncoderOutput, Any, Any]:
        return self._encoder.encode_with_pullback(
            self.variables, self.batch, self.case.patch_orders()
        )

    @functools.cached_property
    def _decoded_with_gradients(self) -> tuple[Any, Any, Any, Any]:
        encoded = padded_encoder_output(self._encoded_with_pullback[0], self._room)
        tokens, codes, targets, weights = self._decoder_inputs()
        return self._decoder.decode_with_gradients(
            self.variables, encoded, tokens, codes, targets, weights
        )

    @functools.cached_property
    def outputs(self) -> dict[str, Any]:
        """What teacher forcing gives, as numpy arrays in the shapes of the case.

        Returns:
          "encoded" (`EncoderOutput`), "features" [b, t, d], "logits" [b, t, v_padded],
          "encoder_states" and "decoder_states" (lists, one array after each layer), "resnet"
          [b, y, x, c] or None.
        """
        encoded, encoder_observed = self._encoded
        if self._gradients:
            logits, decoder_observed = self._decoded_with_gradients[:2]
        else:
            tokens, codes, _, _ = self._decoder_inputs()
            logits, decoder_observed = self._decoder.decode(
                self.variables, padded_encoder_output(encoded, self._room), tokens, codes
            )
        b, t = self.batch["decoder_input_tokens"].shape
        encoder, decoder = encoder_observed["encoder"], decoder_observed["decoder"]
        resnet = encoder["resnet"]["__call__"][0] if "resnet" in encoder else None
        found = {
            "encoded": encoded,
            "features": decoder["__call__"][0][:b, :t],
            "logits": logits[:b, :t],
            "encoder_states": _layer_outputs(encoder, self.config.encoder_layers),
            "decoder_states": [
                state[:b, :t] for state in _layer_outputs(decoder, self.config.decoder_layers)
            ],
            "resnet": resnet,
        }
        return jax.tree.map(np.asarray, found)

    def nll_sum(self, params: Any) -> jax.Array:
        """Summed negative log-likelihood of the targets in evaluation mode, in one piece."""
        variables = {**self.variables, "params": params}
        logits = self.model.apply(variables, self.batch, patch_orders=self.case.patch_orders())
        return negative_log_likelihood(
            logits, self.batch["decoder_target_tokens"], self.batch["decoder_loss_weights"]
        )

    def official_gradients(self) -> tuple[float, dict[str, np.ndarray]]:
        """The loss sum, and its gradient under official names."""
        encoded, _, pullback = self._encoded_with_pullback
        _, _, loss, (own, states, positions) = self._decoded_with_gradients
        # The rows and tokens that padded the encoder's output take no part.
        b, n = encoded.states.shape[:2]
        cotangents = (states[:b, :n], positions[: encoded.positions.shape[0], :n])
        through_encoder = self._encoder.pull_back(pullback, cotangents)
        gradients = jax.tree.map(lambda a, c: np.asarray(a) + np.asarray(c), own, through_encoder)
        return float(loss), official_gradients(gradients, self.variables, self.config)

    def _decoder_start(self, gen_code: bool = False) -> tuple[EncoderOutput, np.ndarray]:
        """Encoder output and code masks in the room's shapes, for decoding.

        Args:
          gen_code: whether targets are codes where the case does not say.
        """
        masks = self.batch.get("decoder_code_masks")
        if masks is None:
            masks = np.full(len(self.batch["encoder_input_tokens"]), gen_code)
        masks = padded(masks, (self._room.batch,), "edge")
        return padded_encoder_output(self._encoded[0], self._room), masks

    def greedy(self, steps: int) -> np.ndarray:
        """int32[b, steps] internal ids of plain argmax decoding through the cache."""
        tokens = self._decoder.greedy(self.variables, *self._decoder_start(), steps=steps)
        return np.asarray(tokens)[: len(self.batch["encoder_input_tokens"])]

    def search(self, config: BeamConfig, constraint: Constraint | None = None) -> Hypotheses:
        """Beam search; the leaves are numpy arrays of the case's rows."""
        found = self._decoder.search(
            self.variables, *self._decoder_start(config.gen_code), constraint, config=config
        )
        b = len(self.batch["encoder_input_tokens"])
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:b], found)


def layer_stack_for(config: OFAConfig) -> str:
    """The layout of layers that compiles in less time."""
    deepest = max(config.encoder_layers, config.decoder_layers)
    return "scan" if deepest > _LOOPED_LAYERS else "loop"


def _layer_outputs(observed: Mapping[str, Any], layers: int) -> list[Any]:
    if "layers" in observed:
        return list(observed["layers"]["__call__"][0][0])
    return [observed[f"layers_{i}"]["__call__"][0][0] for i in range(layers)]


def official_gradients(
    gradients: Any, variables: Mapping[str, Any], config: OFAConfig
) -> dict[str, np.ndarray]:
    """Gradients of our parameters under official names and in official shapes."""
    statistics = {"params": gradients, "batch_stats": variables["batch_stats"]}
    exported = to_state_dict(statistics, config)
    return {name: array for name, array in exported.items() if "running_" not in name}
