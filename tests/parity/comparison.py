"""Differences between our model and the official numbers of a case.

Shared by the tests and by `check.py`: every function returns numbers and leaves the verdict to
`Comparison.failures`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ofa_jax.checkpoint.layout import SHARED_EMBEDDING, expected_shapes, is_recomputed
from ofa_jax.vocab import swap_official_ids
from tests.parity import tolerances
from tests.parity.fixture import Fixture, config_from_fixture
from tests.parity.generation import Hypotheses, config_of, constraint_of, hypotheses_of
from tests.parity.run import FAST_COMPILE, Run, official_gradients

__all__ = [
    "FAST_COMPILE",
    "Comparison",
    "Run",
    "compare_beams",
    "compare_forward",
    "compare_gradient_statistics",
    "compare_gradients",
    "compare_greedy",
    "compare_parameters",
    "largest_difference",
    "official_gradients",
]


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
    _add_states(result, run, layer)
    columns = swap_official_ids(subset)
    result.add(
        "logits", largest_difference(logits[..., columns], case.output("logits"), valid), scores
    )
    normalizer = np.asarray(jax.nn.logsumexp(logits, axis=-1))
    if case.has("logsumexp"):
        result.add(
            "logsumexp", largest_difference(normalizer, case.output("logsumexp"), valid), scores
        )
    targets = run.batch["decoder_target_tokens"]
    own = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - normalizer
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


def _add_states(result: Comparison, run: Run, layer: float) -> None:
    """What the case stores of the way there: states after each layer, features, positions."""
    arrays, outputs = run.case.arrays, run.outputs
    masks = {"encoder": outputs["encoded"].mask, "decoder": run.target_mask}
    for stack, mask in masks.items():
        for i, ours in enumerate(outputs[f"{stack}_states"], 1):
            expected = arrays.get(f"mid.{stack}_state_{i}")
            if expected is not None:
                bound = max(layer, tolerances.state_bound(expected[mask[: len(expected)]]))
                rows = slice(len(expected))
                difference = largest_difference(ours[rows], expected, mask[rows])
                result.add(f"{stack} state {i}", difference, bound)
    if "mid.resnet_map" in arrays and outputs["resnet"] is not None:
        expected = arrays["mid.resnet_map"].transpose(0, 2, 3, 1)
        ours = thinned(outputs["resnet"][: len(expected)], expected.shape)
        bound = max(layer, tolerances.state_bound(expected))
        result.add("resnet map", largest_difference(ours, expected), bound)
    if "mid.position_embeddings" in arrays:
        expected = arrays["mid.position_embeddings"]
        ours = np.broadcast_to(outputs["encoded"].positions, expected.shape)
        result.add("positions", largest_difference(ours, expected), layer)


def thinned(features: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Every s-th row and column of [b, y, x, c], s = 4 or whatever else gives the shape."""
    for step in (4, *range(1, max(features.shape[1:3]) + 1)):
        kept = features[:, ::step, ::step]
        if kept.shape == shape:
            return kept
    raise ValueError(f"no every n-th row of a map of shape {features.shape} has shape {shape}")


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
        if name not in found:
            norms[name] = entries[name] = float("inf")
            continue
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


def compare_gradients(
    run: Run, expected: Mapping[str, Any], complete: Mapping[str, np.ndarray] | None = None
) -> Comparison:
    """Loss sum and gradients of a case.

    Args:
      run: our model on the case.
      expected: the case's entry in `grad_stats.json`.
      complete: official name to whole gradient, for some parameters; None = not stored.
    """
    result = Comparison(run.case.name)
    loss, gradients = run.official_gradients()
    reference = expected["loss_sum"]
    result.add("loss sum", abs(loss - reference) / abs(reference), tolerances.LOSS)
    found = compare_gradient_statistics(gradients, expected["grads"])
    result.add(f"gradient norm of {found.norm_of}", found.norm, tolerances.GRADIENT_NORM)
    result.add(f"gradient entry of {found.entry_of}", found.entry, tolerances.GRADIENT_ENTRY)
    for name, whole in (complete or {}).items():
        total = float(np.sqrt(sum(entry["norm"] ** 2 for entry in expected["grads"].values())))
        scale = float(np.abs(whole).max()) + tolerances.GRADIENT_FLOOR * total
        difference = largest_difference(gradients[name], whole) / scale
        result.add(f"whole gradient of {name}", difference, tolerances.GRADIENT_NORM)
    return result


def compare_beams(run: Run, setting: str, entry: Hypotheses | Mapping[str, Any]) -> Comparison:
    """Hypotheses of one setting of the search: tokens identical, scores within tolerance.

    Args:
      run: our model on the case.
      setting: the entry's key in `generation.json`.
      entry: hypotheses, or a dict with a constraint and hypotheses.
    """
    result = Comparison(f"{run.case.name} {setting}")
    found = run.search(config_of(setting), constraint_of(entry))
    wrong, worst = 0, 0.0
    for b, expected in enumerate(hypotheses_of(entry)):
        lengths = found.lengths[b]
        ours = [
            swap_official_ids(found.tokens[b, g, : lengths[g]]).tolist()
            for g in np.flatnonzero(lengths)
        ]
        wrong += int(ours != [hypothesis["tokens"] for hypothesis in expected])
        for g, (own, official) in enumerate(zip(ours, expected, strict=False)):
            differences = [abs(float(found.scores[b, g]) - official["score"])]
            if own == official["tokens"] and "positional_scores" in official:
                positional = found.positional_scores[b, g, : lengths[g]]
                differences.append(largest_difference(positional, official["positional_scores"]))
            worst = max(worst, *differences)
    result.add("sentences", float(wrong), 0.0)
    result.add("scores", worst, tolerances.BEAM_SCORE)
    return result


def compare_parameters(fixture: Fixture) -> Comparison:
    """Names, shapes and number of the parameters, where the directory lists them."""
    result = Comparison("parameters")
    config = config_from_fixture(fixture.config)
    ours = expected_shapes(config)
    listing = fixture.optional_json("state_dict.json")
    if listing is not None:
        theirs = {
            name: tuple(entry["shape"])
            for name, entry in listing.items()
            if not is_recomputed(name)
        }
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                what = f"shape of {name}, ours {ours.get(name)}, official {theirs.get(name)}"
                result.add(what, 1.0, 0.0)
    # Frozen batch norm has constants in place of parameters.
    if "n_params" in fixture.config and config.batch_norm != "frozen":
        count = sum(
            math.prod(shape)
            for name, shape in ours.items()
            if name not in SHARED_EMBEDDING[1:] and "running_" not in name
        )
        result.add("number", abs(count - fixture.config["n_params"]), 0.0)
    return result
