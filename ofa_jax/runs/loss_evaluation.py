"""The loss on held-out batches while training: teacher-forced, over the whole mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax

from ofa_jax import schema
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.runs import hosts, objective
from ofa_jax.runs.engine import Engine
from ofa_jax.schema import Between
from ofa_jax.sharding import placement
from ofa_jax.training.programs import StepPrograms
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import Batch, TaskSums, make_eval_step


@dataclasses.dataclass(frozen=True)
class LossEvaluationConfig:
    """The loss on held-out batches while training (`LossEvaluationConfig`).

    Cheaper than generation, so it can come more often.

    Attributes:
      period: steps between two measurements; the last step is always one.
      num_batches: batches of the training batch size; the same ones every time.
      split: split of the sources.
    """

    period: Annotated[int, Between(1, 10**9)] = 1000
    num_batches: Annotated[int, Between(1, 10**6)] = 8
    split: str = "validation"

    def __post_init__(self) -> None:
        schema.check(self, "LossEvaluationConfig")


@dataclasses.dataclass
class LossEvaluation:
    """Measures the loss per task on the same held-out batches every time.

    Attributes:
      engine: of the run.
      config: how much.
      pipeline: of the training input; its batches are taken from the other split.
      state_shardings: of the state.
    """

    engine: Engine
    config: LossEvaluationConfig
    pipeline: MixturePipeline
    state_shardings: object

    def __post_init__(self) -> None:
        self._pipeline = dataclasses.replace(self.pipeline, split=self.config.split)
        # The divisor of the training loss means nothing for sums by task.
        loss = objective.loss_config(self.engine.trainer, self.engine.tasks.tasks)
        loss = dataclasses.replace(loss, normalization="tokens")
        step = make_eval_step(
            self.engine.module,
            loss,
            vocab_size=self.engine.tasks.tokenizer.layout.size,
            num_tasks=len(self.engine.tasks.tasks),
            state_shardings=self.state_shardings,
            batch_shardings=placement.batch_sharding(self.engine.mesh),
        )
        self._programs = StepPrograms(step, "loss evaluation")
        self._compile: Callable[[TrainState, Batch], bool] = self.engine.on_mesh(
            self._programs.prepare
        )
        self._step: Callable[[TrainState, Batch], TaskSums] = self.engine.on_mesh(self._programs)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Measures.

        Args:
          state: whose moving average is used where there is one.

        Returns:
          "eval_loss" per counted token, and "eval_loss/<task>" of the tasks in the batches.
        """
        sums = TaskSums.zeros(len(self.engine.tasks.tasks))
        for number in range(self.config.num_batches):
            batch = placement.place_batch(self._pipeline.batch(number), self.engine.mesh)
            if self._compile(state, batch):
                hosts.wait_for_all("loss evaluation is compiled")
            sums = sums + jax.device_get(self._step(state, batch))
        losses, tokens = jax.device_get((sums.loss, sums.tokens))
        values = {"eval_loss": float(losses.sum() / max(1.0, tokens.sum()))}
        for name, loss, count in zip(self.engine.tasks.names, losses, tokens):
            if count > 0:
                values[f"eval_loss/{name}"] = float(loss / count)
        return values
