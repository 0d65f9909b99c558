"""Runs our model on one case of a fixture and measures the differences.

Shared by the tests and by `check.py`. Official ids, names and layouts are converted here; every
function returns numbers and leaves the verdict to `Comparison.failures`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofa_jax.checkpoint.names import to_state_dict
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.vocab import BOS_ID, swap_official_ids
from tests.parity import tolerances
from tests.parity.fixture import Case

# Compiling costs more than running at these sizes.
FAST_COMPILE = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass
class Comparison:
    """Measured differences of one case.

    Attributes:
      name: the case.
      differences: quantity to largest difference.
      bounds: the same keys to what is allowed.
    """

    name: str
    differences: dict[str, float] = dataclasses.field(default_factory=dict)
    bounds: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, quantity: str, difference: float, bound: float) -> None:
        """Records one quantity."""
        self.differences[quantity] = float(difference)
        self.bounds[quantity] = bound

    def failures(self) -> list[str]:
        """One line per quantity beyond its bound; NaN fails."""
        return [
            f"{self.name}: {quantity} differs by {value:.3g}, allowed {self.bounds[quantity]:.3g}"
            for quantity, value in self.differences.items()
            if not value <= self.bounds[quantity]
        ]


def largest_difference(ours: Any, theirs: Any, where: Any = None) -> float:
    """Largest absolute difference, at the positions of `where` (leading axes) if given."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: ours {ours.shape}, official {theirs.shape}")
    difference = np.abs(ours - theirs)
    return float((difference if where is None else difference[np.asarray(where)]).max())


class Run:
    """Our model on one case.

    Attributes:
      case: the case.
      config: its configuration.
      model: the module.
      variables: official weights as our variables.
      batch: the inputs.
    """

    def __init__(
        self, case: Case, *, compiler_options: dict[str, Any] | None = None, **overrides: Any
    ) -> None:
        self.case = case
        self.config: OFAConfig = case.model_config(**overrides)
        self.model = OFA(self.config)
        self.variables = case.variables(self.config)
        self.batch = case.batch()
        self._options = compiler_options

    def jit(self, function: Any) -> Any:
        """`jax.jit` with this run's compiler options."""
        return jax.jit(function, compiler_options=self._options)

    @functools.cached_property
    def outputs(self) -> dict[str, Any]:
        """Encoder output, decoder features and logits of teacher forcing."""

        def forward(variables: Any, batch: Any, patch_orders: Any) -> dict[str, Any]:
            encoded = self.model.apply(variables, batch, patch_orders=patch_orders, method="encode")
            logits, captured = self.model.apply(
                variables,
                encoded,
                batch["decoder_input_tokens"],
                batch.get("decoder_code_masks"),
                method="decode",
                mutable=["intermediates"],
                capture_intermediates=lambda module, method: module.name == "decoder",
            )
            features = captured["intermediates"]["decoder"]["__call__"][0]
            return {"encoded": encoded, "features": features, "logits": logits}

        orders = self.case.patch_orders()
        return jax.block_until_ready(self.jit(forward)(self.variables, self.batch, orders))

    @property
    def target_mask(self) -> np.ndarray:
        """bool[b, t]: positions whose target is not padding."""
        return np.asarray(self.batch["decoder_loss_weights"]) > 0

    def nll_sum(self, params: Any) -> jax.Array:
        """Summed negative log-likelihood of the targets in evaluation mode."""
        variables = {**self.variables, "params": params}
        logits = self.model.apply(variables, self.batch, patch_orders=self.case.patch_orders())
        scores = jax.nn.log_softmax(logits)
        targets = jnp.asarray(self.batch["decoder_target_tokens"])
        picked = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        return -jnp.sum(picked * self.batch["decoder_loss_weights"])

    def official_gradients(self) -> tuple[float, dict[str, np.ndarray]]:
        """The loss sum, and its gradient under official names."""
        function = self.jit(jax.value_and_grad(self.nll_sum))
        loss, gradients = function(self.variables["params"])
        return float(loss), official_gradients(gradients, self.variables, self.config)

    def greedy(self, steps: int) -> np.ndarray:
        """int32[b, steps] internal ids of plain argmax decoding through the cache."""
        codes = self.batch.get("decoder_code_masks")
        encoded = self.outputs["encoded"]
        b = encoded.states.shape[0]

        def decode(variables: Any, encoded: Any) -> jax.Array:
            cache = self.model.apply(
                variables, encoded, codes, beams=1, max_length=steps, method="init_cache"
            )

            def step(carry: Any, position: jax.Array) -> Any:
                cache, tokens = carry
                logits, cache = self.model.apply(
                    variables, cache, tokens, position, method="decode_step"
                )
                tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
                return (cache, tokens), tokens[:, 0]

            start = (cache, jnp.full((b, 1), BOS_ID, jnp.int32))
            return jax.lax.scan(step, start, jnp.arange(steps))[1].T

        return np.asarray(self.jit(decode)(self.variables, encoded))


def official_gradients(
    gradients: Any, variables: Mapping[str, Any], config: OFAConfig
) -> dict[str, np.ndarray]:
    """Gradients of our parameters under official names and in official shapes."""
    statistics = {"params": gradients, "batch_stats": variables["batch_stats"]}
    exported = to_state_dict(statistics, config)
    return {name: array for name, array in exported.items() if "running_" not in name}


def compare_forward(run: Run, subset: np.ndarray) -> Comparison:
    """Encoder output, decoder features, logits and what follows from them.

    Args:
      run: our model on the case.
      subset: int[c] official ids of the columns in `out.logits`.
    """
    case, result = run.case, Comparison(run.case.name)
    noise = case.noise
    encoded = run.outputs["encoded"]
    valid, logits = run.target_mask, np.asarray(run.outputs["logits"])
    layer = tolerances.bound(tolerances.LAYER, noise.get("encoder_out"))
    scores = tolerances.bound(tolerances.LOGITS, noise.get("logits"))

    result.add(
        "encoder",
        largest_difference(encoded.states, case.output("encoder_out"), encoded.mask),
        layer,
    )
    if case.has("encoder_padding_mask"):
        padding = case.output("encoder_padding_mask")
        result.add("mask", float((np.asarray(encoded.mask) == padding).sum()), 0.0)
    if case.has("decoder_features"):
        features = case.output("decoder_features")
        result.add("features", largest_difference(run.outputs["features"], features, valid), layer)
    columns = swap_official_ids(subset)
    result.add(
        "logits", largest_difference(logits[..., columns], case.output("logits"), valid), scores
    )
    normaliser = np.asarray(jax.nn.logsumexp(logits, axis=-1))
    if case.has("logsumexp"):
        result.add(
            "logsumexp", largest_difference(normaliser, case.output("logsumexp"), valid), scores
        )
    targets = run.batch["decoder_target_tokens"]
    own = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - normaliser
    if case.has("target_logprob"):
        expected = case.output("target_logprob")
        result.add("target_logprob", largest_difference(own, expected, valid), scores)
        loss = -expected[valid].sum()
        result.add("loss", abs(-own[valid].sum() - loss) / abs(loss), tolerances.LOSS)
    if case.has("argmax"):
        expected = swap_official_ids(case.output("argmax"))
        # Where two logits tie within the noise, either is right.
        missed = logits.max(-1) - np.take_along_axis(logits, expected[..., None], -1)[..., 0]
        result.add("argmax", float(missed[valid].max()), scores)
    return result


def compare_greedy(run: Run) -> Comparison:
    """Tokens of plain greedy decoding through the cache, which must be identical."""
    result = Comparison(run.case.name)
    expected = run.case.output("greedy16")
    found = swap_official_ids(run.greedy(expected.shape[1]))
    margins = run.case.output("greedy16_margin")
    wrong = 0
    for ours, theirs, margin in zip(found, expected, margins, strict=True):
        differs = np.flatnonzero(ours != theirs)
        # After a tie within the logits' tolerance both continuations are right.
        wrong += int(differs.size > 0 and margin[differs[0]] > tolerances.LOGITS)
    result.add("greedy tokens", float(wrong), 0.0)
    return result


@dataclasses.dataclass(frozen=True)
class GradientDifference:
    """Largest relative differences over all parameters.

    Attributes:
      norm: of a gradient's norm.
      norm_of: official name of that parameter.
      entry: of a single entry, relative to the gradient's norm.
      entry_of: official name of that parameter.
    """

    norm: float
    norm_of: str
    entry: float
    entry_of: str


def compare_gradient_statistics(
    found: Mapping[str, np.ndarray], expected: Mapping[str, Mapping[str, Any]]
) -> GradientDifference:
    """Norms and leading entries of all gradients against their official signatures.

    Args:
      found: official name to our gradient.
      expected: official name to {"norm", "head", ...}.

    Returns:
      Differences beyond the floor for gradients that are zero in exact arithmetic, relative to
      the official norm.
    """
    total = float(np.sqrt(sum(entry["norm"] ** 2 for entry in expected.values())))
    floor = tolerances.GRADIENT_FLOOR * total
    norms, entries = {}, {}
    for name, official in expected.items():
        gradient = np.asarray(found[name], np.float64)
        head = np.asarray(official["head"])
        own_head = gradient.reshape(-1)[: head.size]
        differences = (
            abs(float(np.linalg.norm(gradient)) - official["norm"]),
            float(np.abs(own_head - head).max(initial=0.0)),
        )
        norms[name], entries[name] = (
            max(0.0, difference - floor) / (official["norm"] + floor) for difference in differences
        )
        if not np.isfinite(gradient).all():
            norms[name] = float("inf")
    norm_of, entry_of = max(norms, key=norms.__getitem__), max(entries, key=entries.__getitem__)
    return GradientDifference(norms[norm_of], norm_of, entries[entry_of], entry_of)


def compare_gradients(run: Run, expected: Mapping[str, Any]) -> Comparison:
    """Loss sum and gradients of a case.

    Args:
      run: our model on the case.
      expected: the case's entry in `grad_stats.json`.
    """
    result = Comparison(run.case.name)
    loss, gradients = run.official_gradients()
    reference = expected["loss_sum"]
    result.add("loss sum", abs(loss - reference) / abs(reference), tolerances.LOSS)
    found = compare_gradient_statistics(gradients, expected["grads"])
    result.add(f"gradient norm of {found.norm_of}", found.norm, tolerances.GRADIENT_NORM)
    result.add(f"gradient entry of {found.entry_of}", found.entry, tolerances.GRADIENT_ENTRY)
    return result
