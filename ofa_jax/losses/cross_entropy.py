"""Label-smoothed cross entropy with constraints, confidences and dropped tokens (SPEC 5.1).

The one training loss of OFA. Takes the model's logits and the batch's targets and weights,
returns per-token losses; the training step sums them over tokens, examples and tasks. R-Drop
(`rdrop`) and the encouraging loss (`encouraging`) add terms to the same token losses.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ofa_jax import schema
from ofa_jax.losses.encouraging import encouraging_token_loss
from ofa_jax.losses.rdrop import rdrop_token_loss
from ofa_jax.losses.vocabulary_terms import (
    VocabularyTerms,
    allowed_mask,
    log_probabilities,
    vocabulary_terms,
)
from ofa_jax.schema import Between
from ofa_jax.vocab import EOS_ID

__all__ = ["Count", "LossConfig", "Share", "TokenLosses", "counted_positions", "token_losses"]

Share = Annotated[float, Between(0, 0.999999)]
Count = Annotated[int, Between(0, 10**9)]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Settings of the training loss.

    Attributes:
      label_smoothing: eps of SPEC 5.1; 0 in pretraining.
      constraint_range: (start, stop) of allowed internal ids besides the four specials, or None.
      drop_worst_ratio: share of the tokens with the largest loss to leave out.
      drop_worst_after: leave them out only from the update after this one on;
        -1 from the first on.
      drop_best_ratio: share of the tokens with the smallest loss to leave out (SPEC 5.4).
      drop_best_after: as `drop_worst_after`.
      ignore_prefix_size: the first k target positions are not counted.
      ignore_eos: end-of-sequence targets are not counted.
      rdrop_alpha: weight of R-Drop (SPEC 5.2); 0 turns it off. The training step then runs every
        example twice.
      encouraging_log_end: point where the bonus of the encouraging loss becomes its tangent
        (SPEC 5.4: 0.75, or 1 for no tangent); None turns the encouraging loss off.
      normalization: the divisor of the summed loss. "tokens": counted tokens of the global
        batch. "examples": examples of the global batch. "group": the official pretraining rule,
        one mean over tokens per group of tasks, and the means added (SPEC 4.6).
      task_groups: for "group": the group of each task, by task index; a run fills it in.
    """

    label_smoothing: Share = 0.0
    constraint_range: tuple[int, int] | None = None
    drop_worst_ratio: Share = 0.0
    drop_worst_after: Annotated[int, Between(-1, 10**9)] = 0
    drop_best_ratio: Share = 0.0
    drop_best_after: Annotated[int, Between(-1, 10**9)] = 0
    ignore_prefix_size: Count = 0
    ignore_eos: bool = False
    rdrop_alpha: Annotated[float, Between(0, 1e9)] = 0.0
    encouraging_log_end: Annotated[float, Between(1e-9, 1)] | None = None
    normalization: Literal["tokens", "group", "examples"] = "tokens"
    task_groups: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        schema.check(self, "LossConfig")
        if self.normalization == "group" and (self.drop_worst_ratio or self.drop_best_ratio):
            raise ValueError(
                "LossConfig: dropping tokens and normalization 'group' exclude each other"
            )


@flax.struct.dataclass
class TokenLosses:
    """What the loss says about each token, all 0 where a token is not counted.

    Attributes:
      loss: the loss to minimize, smoothing and extra terms included, times the confidence.
      nll: negative log-likelihood of the target, times the confidence.
      counted: 1 for the tokens that enter the loss.
      correct: 1 where no allowed id has a larger logit than the target.
    """

    loss: Float[Array, "b t"]
    nll: Float[Array, "b t"]
    counted: Float[Array, "b t"]
    correct: Float[Array, "b t"]

    @property
    def loss_sum(self) -> Float[Array, ""]:
        """Of all tokens."""
        return jnp.sum(self.loss)

    @property
    def nll_sum(self) -> Float[Array, ""]:
        """Of all tokens."""
        return jnp.sum(self.nll)

    @property
    def token_count(self) -> Float[Array, ""]:
        """Number of counted tokens."""
        return jnp.sum(self.counted)

    @property
    def example_loss(self) -> Float[Array, "b"]:
        """Loss summed over the tokens of each example."""
        return jnp.sum(self.loss, axis=-1)

    @property
    def example_nll(self) -> Float[Array, "b"]:
        """nll summed over the tokens of each example."""
        return jnp.sum(self.nll, axis=-1)

    @property
    def example_tokens(self) -> Float[Array, "b"]:
        """Counted tokens of each example."""
        return jnp.sum(self.counted, axis=-1)

    @property
    def example_correct(self) -> Float[Array, "b"]:
        """Correctly predicted tokens of each example."""
        return jnp.sum(self.correct, axis=-1)


def counted_positions(
    targets: Int[Array, "b t"], weights: Float[Array, "b t"], config: LossConfig
) -> Bool[Array, "b t"]:
    """Which target positions enter the loss before any are dropped (SPEC 5.1 steps 4 and 5).

    A weight of 0 is not counted, any other is the confidence.
    """
    counted = weights != 0
    if config.ignore_eos:
        counted &= targets != EOS_ID
    if config.ignore_prefix_size:
        counted &= jnp.arange(targets.shape[1]) >= config.ignore_prefix_size
    return counted


def _smoothed(
    terms: VocabularyTerms,
    nll: Float[Array, "b t"],
    allowed_count: Float[Array, ""] | Float[Array, "b t"],
    vocab_size: int,
    config: LossConfig,
    masks_given: bool,
) -> Float[Array, "b t"]:
    """Token loss before the confidence (SPEC 5.1 step 6)."""
    eps = config.label_smoothing
    if eps == 0.0:
        return nll
    smooth = allowed_count * terms.log_normalizer - terms.logit_sum
    if config.constraint_range is None and not masks_given:
        eps_each = eps / (vocab_size - 1)
    else:
        # With one allowed id the loss is 0 in value and gradient; the official divisor of 1e-6
        # would only add rounding noise of the size of 1e5.
        eps_each = jnp.where(allowed_count > 1, eps / (allowed_count - 1 + 1e-6), 0.0)
        smooth = jnp.where(allowed_count > 1, smooth, 0.0)
    return (1.0 - eps - eps_each) * nll + eps_each * smooth


def _keep_share(
    scores: Float[Array, "b t"], counted: Bool[Array, "b t"], ratio: float, active: Bool[Array, ""]
) -> Bool[Array, "b t"]:
    """Leaves out the share `ratio` of the counted entries with the largest scores.

    Static shapes: entries are ranked and compared with the number to keep. The official count
    int(n * (1 - ratio)) is read from a table made in double precision, because float32 rounds
    some of the products to the next integer.
    """
    flat = jnp.where(counted, scores, jnp.inf).reshape(-1)
    number = jnp.sum(counted)
    table = (np.arange(flat.size + 1) * (1.0 - ratio)).astype(np.int32)
    limit = jnp.where(active, jnp.asarray(table)[number], number)
    ranks = jnp.argsort(jnp.argsort(flat, stable=True), stable=True)
    return counted & (ranks < limit).reshape(counted.shape)


def _drop_tokens(
    loss: Float[Array, "b t"],
    counted: Bool[Array, "b t"],
    step: Int[Array, ""] | int,
    config: LossConfig,
) -> Bool[Array, "b t"]:
    """Applies drop-worst and drop-best (SPEC 5.1 step 7, 5.4); returns what is counted now."""
    loss = jax.lax.stop_gradient(loss)
    selections = (
        (config.drop_worst_ratio, config.drop_worst_after, 1.0),
        (config.drop_best_ratio, config.drop_best_after, -1.0),
    )
    for ratio, after, sign in selections:
        if ratio == 0.0:
            continue
        active = jnp.asarray(step) > after
        if config.rdrop_alpha:
            # Both passes must keep the same tokens: the first half selects for the second.
            half = loss.shape[0] // 2
            kept = _keep_share(sign * loss[:half], counted[:half], ratio, active)
            counted = jnp.concatenate([kept, kept])
        else:
            counted = _keep_share(sign * loss, counted, ratio, active)
    return counted


def token_losses(
    logits: Float[Array, "b t v"],
    targets: Int[Array, "b t"],
    weights: Float[Array, "b t"],
    config: LossConfig,
    *,
    vocab_size: int,
    constraint_masks: Bool[Array, "b t _"] | None = None,
    step: Int[Array, ""] | int = 0,
) -> TokenLosses:
    """The official criterion, per token (SPEC 5.1, 5.2, 5.4).

    OFA-NOTE: SPEC 5.1 drop-worst ranks the tokens of the global (micro)batch; the official code
    ranks those of one device.
    OFA-NOTE: SPEC 5.2 R-Drop under constraint masks is NaN in the official code; here it is
    summed over the allowed ids.
    OFA-NOTE: SPEC 5.4 drop-best does what its flags promise; the official code ignores them.

    Args:
      logits: v >= vocab_size; with R-Drop the second half of the rows is the second pass over the
        first half's examples.
      targets: internal ids.
      weights: 0 = not counted, otherwise the confidence that scales log-probabilities.
      vocab_size: number of real ids; the tail of the logits beyond is left out everywhere.
      constraint_masks: as wide as the vocabulary, True = allowed, or None. Rows without any allowed
        id are not counted. A counted target that is not allowed costs about 1e9.
      step: number of finished updates, for `drop_worst_after`.

    Raises:
      ValueError: if R-Drop gets an odd number of rows, or the constraints do not fit.
    """
    if config.rdrop_alpha and logits.shape[0] % 2:
        raise ValueError(f"R-Drop needs every example twice, got {logits.shape[0]} rows")
    weights = weights.astype(jnp.float32)
    counted = counted_positions(targets, weights, config)
    allowed = allowed_mask(logits.shape[-1], vocab_size, config.constraint_range, constraint_masks)
    if allowed is None:
        allowed_count = jnp.float32(vocab_size)
    else:
        allowed_count = jnp.sum(allowed, axis=-1).astype(jnp.float32)
    if constraint_masks is not None:
        counted &= allowed_count > 0
    # Targets at positions that do not count may be anything (padding is not an allowed answer).
    terms = vocabulary_terms(logits, targets, allowed)
    log_probability = weights * (terms.target_logit - terms.log_normalizer)
    log_probability = jnp.where(counted, log_probability, 0.0)
    loss = weights * _smoothed(
        terms,
        terms.log_normalizer - terms.target_logit,
        allowed_count,
        vocab_size,
        config,
        constraint_masks is not None,
    )
    loss = jnp.where(counted, loss, 0.0)
    counted = _drop_tokens(loss, counted, step, config)

    needs_table = config.rdrop_alpha or (
        config.encouraging_log_end is not None and config.label_smoothing
    )
    table = None
    if needs_table:
        mask = jnp.ones(logits.shape[-1:], bool) if allowed is None else allowed
        # A row without allowed ids would be uniform; it is not counted below.
        table = weights[..., None] * log_probabilities(logits, mask)
        table = jnp.where(mask & counted[..., None], table, -jnp.inf)
    if config.encouraging_log_end is not None:
        loss += encouraging_token_loss(
            log_probability,
            table,
            label_smoothing=config.label_smoothing,
            log_end=config.encouraging_log_end,
            vocab_size=vocab_size,
        )
    if config.rdrop_alpha and table is not None:
        loss += rdrop_token_loss(table, config.rdrop_alpha)
    correct = counted & (terms.target_logit >= terms.max_logit)
    return TokenLosses(
        loss=jnp.where(counted, loss, 0.0),
        nll=jnp.where(counted, -log_probability, 0.0),
        counted=counted.astype(jnp.float32),
        correct=correct.astype(jnp.float32),
    )
