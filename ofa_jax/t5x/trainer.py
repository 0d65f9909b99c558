"""t5x's trainer around the native training step.

t5x keeps the loop, the metrics and the checkpoints; the arithmetic of a step (microbatches, loss,
random keys, update) is `ofa_jax.training.step`, so that the two engines cannot drift apart. The
train state crosses over as the tree that both write to disk.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from t5x import trainer  # pyrefly: ignore[missing-import]

from ofa_jax.errors import started
from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.runs.settings import TrainerConfig
from ofa_jax.t5x.features import model_inputs
from ofa_jax.t5x.inputs import place
from ofa_jax.t5x.models import CluMetrics, OFAModel, step_metrics
from ofa_jax.training.ema import EMAConfig
from ofa_jax.training.scst import SCSTConfig
from ofa_jax.training.state import from_checkpoint_tree, to_checkpoint_tree

Trainer = TrainerConfig
"""`trainer.Trainer` of the gin files of both engines: how a step is taken.

`trainer.LossConfig`, `trainer.EMAConfig` and `trainer.SCSTConfig` are its parts."""
__all__ = ["EMAConfig", "LossConfig", "SCSTConfig", "StepTrainer", "Trainer"]


class StepTrainer(trainer.Trainer):
    """For `train_script.train.trainer_cls`. How a step is taken is a setting of the model."""

    def __init__(
        self,
        model: OFAModel,
        train_state: object,
        partitioner: object,
        eval_names: object,
        summary_dir: str | None,
        train_state_axes: object,
        rng: jax.Array,
        learning_rate_fn: object = None,
        num_microbatches: int | None = None,
    ) -> None:
        """Takes what t5x passes.

        Args:
          model: the model with its optimizer.
          train_state: t5x's state.
          partitioner: of the run.
          eval_names: names of the teacher-forced evaluations.
          summary_dir: where TensorBoard files go.
          train_state_axes: where each array of the state goes.
          rng: must be that of the model's `random_seed`, from which training draws.
          learning_rate_fn: must be None, the optimizer has its schedule.
          num_microbatches: must be None, see `trainer.Trainer`.

        Raises:
          ValueError: one of the last two is set, or another seed.
        """
        # As t5x makes it.
        expected = jax.random.split(jax.random.PRNGKey(model.random_seed), 2)[1]
        if rng is not None and not np.array_equal(rng, expected):
            raise ValueError(
                f"train_script.train.random_seed is not {model.random_seed}, the seed of "
                "models.OFAModel: set RANDOM_SEED, which both read"
            )
        if learning_rate_fn is not None or num_microbatches is not None:
            raise ValueError(
                "trainer.StepTrainer: set the learning rate in optimizers.ScheduleConfig and "
                "trainer.Trainer.num_microbatches"
            )
        self._placed = False
        super().__init__(
            model=model,
            train_state=train_state,
            partitioner=partitioner,
            eval_names=eval_names,
            summary_dir=summary_dir,
            train_state_axes=train_state_axes,
            rng=rng,
            learning_rate_fn=None,
            num_microbatches=None,
        )

    def train(self, batch_iter: object, num_steps: int, start_step: int | None = None) -> Any:
        """t5x's, with the input at the step of the state."""
        if not self._placed and start_step is not None:
            place(batch_iter, start_step)
        self._placed = True
        started()
        return super().train(batch_iter, num_steps, start_step)

    @functools.cached_property
    def _partitioned_train_step(self) -> Any:
        model: OFAModel = self._model
        update = model.training_engine.train_step(None)
        with nn.logical_axis_rules(()):
            template = nn.unbox(model.abstract_state())
        key = jax.random.key(model.random_seed)

        def train_step(state: Any, batch: Mapping[str, jax.Array]) -> tuple[Any, CluMetrics]:
            if model.loss.normalization == "group" and "task_ids" not in batch:
                raise ValueError(
                    "trainer.LossConfig.normalization = 'group' needs to know the task of each "
                    "example, which seqio's mixtures do not say; use grain "
                    "(train_script.train.get_dataset_fn = @inputs.grain_dataset)"
                )
            native = from_checkpoint_tree(state.state_dict(), template)
            native, values = update(native, model_inputs(batch), key)
            names = model.tasks.names if "task_ids" in batch else []
            return state.restore_state(to_checkpoint_tree(native)), step_metrics(values, names)

        return self._partitioner.partition(
            train_step,
            in_axis_resources=(self._train_state_axes, self._partitioner.data_partition_spec),
            out_axis_resources=(self._train_state_axes, None),
            donate_argnums=(0,),
        )
