"""One training step and one evaluation step, compiled.

The center of training: batch and state in, state and metrics out. The same functions run on one
CPU device and on a pod; sharding comes from the arrays and the mesh context around the call
(`ofa_jax.sharding`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from ofa_jax.losses.cross_entropy import (
    LossConfig,
    TokenLosses,
    counted_positions,
    token_losses,
)
from ofa_jax.losses.rdrop import repeat_for_rdrop
from ofa_jax.model.ofa import Batch
from ofa_jax.training.ema import EMAConfig, update_ema
from ofa_jax.training.optimizer import global_norm, matching_paths
from ofa_jax.training.randomness import model_keys
from ofa_jax.training.schedule import Schedule
from ofa_jax.training.state import TrainState

__all__ = [
    "ForwardLosses",
    "Metrics",
    "TargetMasks",
    "TaskSums",
    "TrainStep",
    "make_eval_step",
    "make_train_step",
    "replicated",
    "split_microbatches",
]

Metrics = dict[str, Float[Array, "..."]]
TargetMasks = Callable[[Batch], Bool[Array, "b t v"]]
ForwardLosses = Callable[
    [Mapping[str, PyTree], Batch, dict[str, PRNGKeyArray], Int[Array, ""]],
    tuple[TokenLosses, PyTree],
]
"""(variables, microbatch, random keys, finished updates) to (token losses, batch_stats).

One row of losses per example of the microbatch, which R-Drop has doubled.
"""
TrainStep = Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Metrics]]
"""(state, batch, base key of the run) to (the next state, metrics)."""


@flax.struct.dataclass
class TaskSums:
    """Sums over the counted tokens of each task; they add over batches and microbatches.

    Attributes:
      loss: confidence and smoothing included.
      nll: negative log-likelihood times confidence.
      tokens: counted tokens.
      correct: tokens whose logit was the largest.
      examples: examples with a counted token.
    """

    loss: Float[Array, "tasks"]
    nll: Float[Array, "tasks"]
    tokens: Float[Array, "tasks"]
    correct: Float[Array, "tasks"]
    examples: Float[Array, "tasks"]

    @classmethod
    def zeros(cls, num_tasks: int) -> TaskSums:
        """No tokens yet."""
        return cls(*(jnp.zeros((num_tasks,), jnp.float32) for _ in range(5)))

    @classmethod
    def of(cls, losses: TokenLosses, task_ids: Int[Array, "b"], num_tasks: int) -> TaskSums:
        """Sums token losses by task; ids are in [0, num_tasks)."""

        def by_task(values: Float[Array, "b"]) -> Float[Array, "tasks"]:
            return jax.ops.segment_sum(values, task_ids, num_tasks)

        return cls(
            loss=by_task(losses.example_loss),
            nll=by_task(losses.example_nll),
            tokens=by_task(losses.example_tokens),
            correct=by_task(losses.example_correct),
            examples=by_task((losses.example_tokens > 0).astype(jnp.float32)),
        )

    def __add__(self, other: TaskSums) -> TaskSums:
        return jax.tree.map(jnp.add, self, other)

    def metrics(self) -> Metrics:
        """Per-task sums and the global means per token.

        Returns:
          "task_loss_sum", "task_nll_sum", "task_tokens", "task_correct", "task_examples":
          float32[tasks]; "nll" and "accuracy": float32 means per counted token; "tokens" and
          "examples": float32 counts.
        """
        tokens = jnp.sum(self.tokens)
        return {
            "nll": jnp.sum(self.nll) / jnp.maximum(tokens, 1.0),
            "accuracy": jnp.sum(self.correct) / jnp.maximum(tokens, 1.0),
            "tokens": tokens,
            "examples": jnp.sum(self.examples),
            "task_loss_sum": self.loss,
            "task_nll_sum": self.nll,
            "task_tokens": self.tokens,
            "task_correct": self.correct,
            "task_examples": self.examples,
        }


def _check_tasks(loss_config: LossConfig, num_tasks: int) -> None:
    if loss_config.normalization == "group" and len(loss_config.task_groups) != num_tasks:
        raise ValueError(
            f"task_groups names the groups of {len(loss_config.task_groups)} tasks, "
            f"but there are {num_tasks} tasks"
        )


def _task_ids(batch: Batch) -> Int[Array, "b"]:
    rows = batch["decoder_target_tokens"].shape[0]
    return batch.get("task_ids", jnp.zeros((rows,), jnp.int32))


def _group_divisors(batch: Batch, config: LossConfig) -> Float[Array, "b"]:
    """Counted tokens of each example's group of tasks (SPEC 4.6)."""
    counted = counted_positions(
        batch["decoder_target_tokens"], batch["decoder_loss_weights"], config
    )
    passes = 2.0 if config.rdrop_alpha else 1.0
    groups = jnp.asarray(config.task_groups)[_task_ids(batch)]
    tokens = jax.ops.segment_sum(
        jnp.sum(counted, axis=1).astype(jnp.float32), groups, max(config.task_groups) + 1
    )
    return jnp.maximum(passes * tokens, 1.0)[groups]


def split_microbatches(batch: Batch, number: int) -> Mapping[str, Shaped[Array, "number rows ..."]]:
    """[b, ...] to [number, b / number, ...], taking every number-th example.

    Strided, so that each microbatch has examples from every device and no data moves.
    """

    def split(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        if x.shape[0] % number:
            raise ValueError(
                f"a batch of {x.shape[0]} examples does not divide into {number} microbatches"
            )
        return jnp.swapaxes(x.reshape(x.shape[0] // number, number, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, dict(batch))


def _stop_frozen(params: PyTree, frozen: tuple[str, ...]) -> PyTree:
    """Cuts the gradient of frozen parameters, so that nothing is computed for them."""
    if not frozen:
        return params
    return jax.tree.map(
        lambda p, stop: jax.lax.stop_gradient(p) if stop else p,
        params,
        matching_paths(params, frozen),
    )


def replicated(shardings: PyTree[NamedSharding]) -> NamedSharding:
    """Metrics go to every device, so that every process can read them."""
    return NamedSharding(jax.tree.leaves(shardings)[0].mesh, PartitionSpec())


def _cross_entropy(
    model: nn.Module,
    config: LossConfig,
    vocab_size: int,
    target_masks: TargetMasks | None,
) -> ForwardLosses:
    """Teacher forcing: the loss of all training but self-critical."""

    def forward(
        variables: Mapping[str, PyTree],
        batch: Batch,
        keys: dict[str, PRNGKeyArray],
        step: Int[Array, ""],
    ) -> tuple[TokenLosses, PyTree]:
        logits, updated = model.apply(
            variables, batch, train=True, rngs=keys, mutable=["batch_stats"]
        )
        masks = batch.get("decoder_constraint_masks")
        if masks is None and target_masks is not None:
            masks = target_masks(batch)
        losses = token_losses(
            logits,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            config,
            vocab_size=vocab_size,
            constraint_masks=masks,
            step=step,
        )
        return losses, updated.get("batch_stats", variables["batch_stats"])

    return forward


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    loss_config: LossConfig,
    *,
    vocab_size: int,
    num_tasks: int = 1,
    num_microbatches: int = 1,
    ema: EMAConfig | None = None,
    frozen: tuple[str, ...] = (),
    target_masks: TargetMasks | None = None,
    forward_losses: ForwardLosses | None = None,
    state_shardings: PyTree[NamedSharding] = None,
    batch_shardings: PyTree[NamedSharding] = None,
    donate: bool = True,
) -> TrainStep:
    """Compiles the update of one global batch.

    The gradient is that of the loss sum divided by the counted tokens of the whole global batch
    (SPEC 6.1), however many devices and microbatches it is spread over.

    OFA-NOTE: SPEC 4.6. With normalization "group" the two means are taken over the global batch,
    not per device and accumulation step.
    OFA-NOTE: SPEC 6.1. Random keys are the run's key with step and stream folded in; the official
    code seeds each update with seed + update number.

    Args:
      model: called as `model.apply(variables, batch, train=True, rngs=..., mutable=...)`, giving
        logits.
      schedule: finished updates to learning rate, for the metrics.
      vocab_size: number of real ids.
      num_tasks: length of the per-task metrics; `task_ids` of the batch are below it.
      num_microbatches: gradient accumulation; must divide the batch. Batch-norm statistics pass
        from one microbatch to the next.
      ema: settings of the moving average; the state must hold one.
      frozen: the optimizer's `frozen` expressions, whose gradients are then not computed and not
        part of the gradient norm.
      target_masks: gives the ids allowed at each target position of a microbatch (a closed set of
        answers, SPEC 7.2), where the batch has no "decoder_constraint_masks".
      forward_losses: replaces the teacher-forced cross entropy, see `ForwardLosses`.
      state_shardings: pytree of shardings like the state, or None.
      batch_shardings: sharding(s) of the batch, or None.
      donate: whether the old state's memory may be reused; the old state is then gone.

    Returns:
      Jitted function (state, batch, base key) -> (state, metrics). Metrics: those of
      `TaskSums.metrics`; "loss" (the minimized value), "gradient_norm" (before clipping),
      "param_norm" (before the update) and "learning_rate", float32 scalars.

    Raises:
      ValueError: if the settings contradict each other; on the first call if the batch does not
        divide.
    """
    if num_microbatches < 1:
        raise ValueError(f"num_microbatches must be at least 1, got {num_microbatches}")
    _check_tasks(loss_config, num_tasks)

    if forward_losses is None:
        forward_losses = _cross_entropy(model, loss_config, vocab_size, target_masks)

    def loss_sum(
        params: PyTree,
        batch_stats: PyTree,
        batch: Batch,
        keys: dict[str, PRNGKeyArray],
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], tuple[TaskSums, PyTree]]:
        """Sum over tokens of one microbatch; with "group" already divided."""
        divisors = batch["divisors"]
        inputs = {name: value for name, value in batch.items() if name != "divisors"}
        if loss_config.rdrop_alpha:
            inputs, divisors = repeat_for_rdrop((inputs, divisors))
        variables = {"params": _stop_frozen(params, frozen), "batch_stats": batch_stats}
        losses, batch_stats = forward_losses(variables, inputs, keys, step)
        sums = TaskSums.of(losses, _task_ids(inputs), num_tasks)
        value = jnp.sum(losses.example_loss / divisors)
        return value, (sums, batch_stats)

    gradient_fn = jax.value_and_grad(loss_sum, has_aux=True)

    def accumulate(
        state: TrainState, batch: Batch, keys: dict[str, PRNGKeyArray]
    ) -> tuple[Float[Array, ""], PyTree, TaskSums, PyTree]:
        """Loss, gradient, sums and statistics of the global batch."""
        if num_microbatches == 1:
            (loss, (sums, batch_stats)), gradients = gradient_fn(
                state.params, state.batch_stats, batch, keys, state.step
            )
            return loss, gradients, sums, batch_stats

        def body(carry, part):
            loss, gradients, sums, batch_stats = carry
            index, microbatch = part
            part_keys = {name: jax.random.fold_in(key, index) for name, key in keys.items()}
            (part_loss, (part_sums, batch_stats)), part_gradients = gradient_fn(
                state.params, batch_stats, microbatch, part_keys, state.step
            )
            gradients = jax.tree.map(jnp.add, gradients, part_gradients)
            return (loss + part_loss, gradients, sums + part_sums, batch_stats), None

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        start = (jnp.float32(0.0), zeros, TaskSums.zeros(num_tasks), state.batch_stats)
        parts = (jnp.arange(num_microbatches), split_microbatches(batch, num_microbatches))
        return jax.lax.scan(body, start, parts)[0]

    def train_step(
        state: TrainState, batch: Batch, base_rng: PRNGKeyArray
    ) -> tuple[TrainState, Metrics]:
        rows = batch["decoder_target_tokens"].shape[0]
        if loss_config.normalization == "group":
            divisors = _group_divisors(batch, loss_config)
        else:
            divisors = jnp.ones((rows,), jnp.float32)
        keys = model_keys(base_rng, state.step)
        loss, gradients, sums, batch_stats = accumulate(
            state, {**batch, "divisors": divisors}, keys
        )
        totals = sums.metrics()
        divisor = {
            "tokens": totals["tokens"],
            "examples": totals["examples"],
            "group": jnp.float32(1.0),
        }[loss_config.normalization]
        divisor = jnp.maximum(divisor, 1.0)
        gradients = jax.tree.map(lambda g: g / divisor, gradients)

        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        average = state.ema
        if ema is not None and average is not None:
            average = update_ema(average, params, batch_stats, step, ema)
        metrics = {
            **totals,
            "loss": loss / divisor,
            "gradient_norm": global_norm(gradients),
            "param_norm": global_norm(state.params),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        state = TrainState(
            step=step, params=params, opt_state=opt_state, batch_stats=batch_stats, ema=average
        )
        return state, metrics

    options: dict[str, PyTree] = {"donate_argnums": (0,)} if donate else {}
    if state_shardings is not None:
        options["in_shardings"] = (state_shardings, batch_shardings, None)
        options["out_shardings"] = (state_shardings, replicated(state_shardings))
    return jax.jit(train_step, **options)


def make_eval_step(
    model: nn.Module,
    loss_config: LossConfig,
    *,
    vocab_size: int,
    num_tasks: int = 1,
    use_ema: bool = True,
    state_shardings: PyTree[NamedSharding] = None,
    batch_shardings: PyTree[NamedSharding] = None,
) -> Callable[[TrainState, Batch], TaskSums]:
    """Compiles the teacher-forced loss of one batch, with dropout off and running statistics.

    No tokens are dropped and R-Drop is off; smoothing, constraints and the encouraging term stay.

    Args:
      model: as in `make_train_step`.
      loss_config: the loss settings of training.
      vocab_size: number of real ids.
      num_tasks: number of tasks.
      use_ema: whether to take the moving average where the state has one.
      state_shardings: pytree of shardings like the state, or None.
      batch_shardings: sharding(s) of the batch, or None.

    Returns:
      Jitted function (state, batch) -> TaskSums; add those of several batches, then call
      `.metrics()`.
    """
    _check_tasks(loss_config, num_tasks)
    config = LossConfig(
        label_smoothing=loss_config.label_smoothing,
        constraint_range=loss_config.constraint_range,
        ignore_prefix_size=loss_config.ignore_prefix_size,
        ignore_eos=loss_config.ignore_eos,
        encouraging_log_end=loss_config.encouraging_log_end,
    )

    def eval_step(state: TrainState, batch: Batch) -> TaskSums:
        logits: PyTree = model.apply(state.variables(use_ema), batch, train=False)
        losses = token_losses(
            logits,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            config,
            vocab_size=vocab_size,
            constraint_masks=batch.get("decoder_constraint_masks"),
        )
        return TaskSums.of(losses, _task_ids(batch), num_tasks)

    options: dict[str, PyTree] = {}
    if state_shardings is not None:
        options["in_shardings"] = (state_shardings, batch_shardings)
        options["out_shardings"] = replicated(state_shardings)
    return jax.jit(eval_step, **options)
