"""Self-critical training of captions: sample, reward, update (SPEC 5.5).

Stands in the place of the ordinary training step and has its signature. The samples come from
beam search with the present weights, the rewards from the host (`ofa_jax.metrics.caption`), and
the update is the ordinary one with another loss, so accumulation, averaging and sharding are the
same. The image is encoded once per example, not once per sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int, Int32, PRNGKeyArray, PyTree, Shaped

from ofa_jax import schema
from ofa_jax.losses.cross_entropy import TokenLosses
from ofa_jax.losses.scst import leave_one_out_advantages, scst_token_losses
from ofa_jax.schema import Between
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import Batch, ForwardLosses, Metrics, TrainStep
from ofa_jax.vocab import BOS_ID, PAD_ID

Sample = Callable[[Mapping[str, PyTree], Batch, PRNGKeyArray], Int[Array, "b g t"]]
"""(variables, batch, random key) to sampled tokens, eos included, padded with 0."""

Reward = Callable[[Int32[np.ndarray, "b g t"], Int32[np.ndarray, "b _"]], Float[np.ndarray, "b g"]]
"""(samples, references) to rewards, on the host."""


@dataclasses.dataclass(frozen=True)
class SCSTConfig:
    """Settings of self-critical training, whose reward is CIDEr-D.

    Attributes:
      samples: captions per image that are compared with one another.
      sampling: where they come from: "beam", the hypotheses of a beam search as in the official
        code, or "random", independent draws from the model.
      max_length: longest of them, in tokens.
      document_frequency: file of n-gram frequencies (the official coco-train-words.p, or JSON);
        "" counts them in the training references.
    """

    samples: Annotated[int, Between(2, 1024)] = 5
    sampling: Literal["beam", "random"] = "beam"
    max_length: Annotated[int, Between(1, 1 << 20)] = 16
    document_frequency: str = ""

    def __post_init__(self) -> None:
        schema.check(self, "SCSTConfig")


def scst_forward(
    model: nn.Module, vocab_size: int, *, constraint_range: tuple[int, int] | None = None
) -> ForwardLosses:
    """The self-critical loss, for `make_train_step`.

    OFA-NOTE: SPEC 5.5. The encoder runs once per example instead of once per sample; in training
    mode all samples of an image therefore share its dropout and drop path (zero in the official
    recipe).

    Args:
      vocab_size: number of real ids.
      constraint_range: ids of image codes for CLIP rewards (SPEC 5.6), or None.

    Returns:
      A function of batches that also hold "sampled_tokens" [b, g, t] and "advantages" [b, g].
    """

    def teacher_force(
        module: nn.Module, batch: Batch, decoder_inputs: Int[Array, "rows t"]
    ) -> Float[Array, "rows t v"]:
        examples, samples, _ = batch["sampled_tokens"].shape

        def repeat(leaf: Array) -> Array:
            # Positions that all examples share have a leading axis of one.
            return jnp.repeat(leaf, samples, axis=0) if leaf.shape[0] == examples else leaf

        repeated = jax.tree.map(repeat, module.encode(batch, train=True))
        codes = batch.get("decoder_code_masks")
        if codes is not None:
            codes = jnp.repeat(codes, samples, axis=0)
        return module.decode(repeated, decoder_inputs, codes, train=True)

    def forward(
        variables: Mapping[str, PyTree],
        batch: Batch,
        keys: dict[str, PRNGKeyArray],
        step: Int[Array, ""],
    ) -> tuple[TokenLosses, PyTree]:
        del step
        b, g, t = batch["sampled_tokens"].shape
        targets = batch["sampled_tokens"].reshape(b * g, t)
        inputs = jnp.pad(targets, ((0, 0), (1, 0)), constant_values=BOS_ID)[:, :-1]
        logits, updated = model.apply(
            variables, batch, inputs, rngs=keys, mutable=["batch_stats"], method=teacher_force
        )
        losses = scst_token_losses(
            logits,
            targets,
            targets != PAD_ID,
            batch["advantages"].reshape(b * g),
            vocab_size=vocab_size,
            constraint_range=constraint_range,
        )
        by_example = TokenLosses(
            *(getattr(losses, name).reshape(b, g * t) for name in ("loss", "nll", "counted")),
            correct=losses.correct.reshape(b, g * t),
        )
        return by_example, updated.get("batch_stats", variables["batch_stats"])

    return forward


def make_scst_step(
    update: TrainStep,
    sample: Sample,
    reward: Reward,
    *,
    place: Callable[[Batch], Batch] = jax.device_put,
) -> TrainStep:
    """Puts sampling and reward in front of an update.

    Args:
      update: from `make_train_step` with `forward_losses=scst_forward(...)`.
      sample: draws g samples per example with the weights as they are.
      reward: scores them; sees the batch's targets, which hold the references.
      place: puts arrays [b, ...] where the update wants its batch.

    Returns:
      A function like an ordinary training step (not jitted: the reward is computed on the host).
      Its metrics have "reward" too, the mean over all samples.
    """
    advantages = jax.jit(leave_one_out_advantages)

    def step(state: TrainState, batch: Batch, base_rng: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(base_rng, state.step)
        samples = sample(state.variables(), batch, key)
        rewards = reward(_everywhere(samples), _everywhere(batch["decoder_target_tokens"]))
        rewards = jnp.asarray(rewards, jnp.float32)
        sampled = {"sampled_tokens": samples, "advantages": advantages(rewards)}
        extended = {**batch, **place(sampled)}
        state, metrics = update(state, extended, base_rng)
        return state, {**metrics, "reward": rewards.mean()}

    return step


def _everywhere(array: Shaped[Array, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """The whole of a batch array as numpy, on every process."""
    if jax.process_count() == 1:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
