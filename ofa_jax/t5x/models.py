"""What t5x's scripts call a model: OFA with its loss, its decoding and its optimizer.

`OFAModel` holds the linen module of the native runner and hands t5x everything else that the
scripts ask a model for. BatchNorm statistics travel as t5x's `flax_mutables`, so its train state
has the same tree on disk as the native one (T5X 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import flax.core
import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from flax import linen as nn
from flax import traverse_util
from flax.linen.partitioning import AxisMetadata
from jaxtyping import PyTree
from t5x import metrics as metrics_lib  # pyrefly: ignore[missing-import]
from t5x import models, optimizers  # pyrefly: ignore[missing-import]

from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.generate import generate
from ofa_jax.inference.answerer import Recipe
from ofa_jax.losses.cross_entropy import LossConfig, token_losses
from ofa_jax.model import ofa
from ofa_jax.model.config import OFAConfig, ResNetConfig, TuningConfig
from ofa_jax.model.ofa import Batch
from ofa_jax.runs import tasks as run_tasks
from ofa_jax.runs.engine import Engine
from ofa_jax.runs.objective import loss_config
from ofa_jax.runs.settings import DatasetConfig, ModelConfig, PartitionerConfig, TrainerConfig
from ofa_jax.sharding.rules import build_rules
from ofa_jax.t5x.decoding import CodesInCodeRows
from ofa_jax.t5x.features import OFAFeatureConverter, model_inputs
from ofa_jax.t5x.optimizers import ChainOptimizer
from ofa_jax.training.optimizer import OptimizerConfig
from ofa_jax.training.randomness import MODEL_STREAMS, stream_key
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import TaskSums

CluMetrics = dict[str, clu_metrics.Metric]

OFA, ResNet, Tuning = ModelConfig, ResNetConfig, TuningConfig
"""`models.OFA`, `models.ResNet` and `models.Tuning` of the gin files of both engines."""


class OFAModel(models.BaseModel):
    """OFA for `t5x/train.py`, `eval.py` and `infer.py` (gin: `MODEL`).

    Attributes:
      config: numbers of the model.
      module: the linen module.
      tasks: tasks of the mixture, their rates, lengths and tokenizer.
      loss: settings of the loss.
      random_seed: of initialization, dropout and patches.
      settings: by argument of the native `train`.
    """

    FEATURE_CONVERTER_CLS = OFAFeatureConverter

    def __init__(
        self,
        *,
        model: Any,
        dataset: DatasetConfig,
        optimizer: OptimizerConfig | optimizers.OptimizerDef | None = None,
        trainer: TrainerConfig = TrainerConfig(),
        partitioner: PartitionerConfig = PartitionerConfig(),
        beam_size: int = 1,
        random_seed: int = 0,
    ) -> None:
        """Builds the model of a mixture.

        Args:
          model: `models.OFA` settings.
          dataset: mixture, lengths, batch size, modules; its tokenizer decides the vocabulary.
          optimizer: update rule and learning rate; None where nothing is trained. An optimizer of
            t5x, such as its Adafactor, needs t5x's own `trainer.Trainer` as well.
          trainer: loss and accumulation.
          partitioner: mesh and rules, those of the run's partitioner.
          beam_size: hypotheses kept while decoding; 1 is greedy.
          random_seed: seed of initialization, dropout and patches.

        Raises:
          ValueError: a setting that cannot work, or that t5x's train state has no place for.
        """
        if trainer.averages:
            raise ValueError(
                "trainer.EMAConfig.decay: t5x's train state holds no moving average; set it to "
                "0, or train with python -m ofa_jax.train"
            )
        if trainer.scst is not None:
            raise ValueError(
                "trainer.Trainer.scst: self-critical training samples outside of the "
                "compiled step, which t5x cannot; train with python -m ofa_jax.train"
            )
        run_tasks.assign_locations(dataset.locations, None)
        dataset.configure_buckets()
        self.tasks = run_tasks.load(dataset, None)
        layout = self.tasks.tokenizer.layout
        self.config: OFAConfig = model.build(
            vocab_size=layout.size, padded_vocab_size=layout.padded_size, num_codes=layout.num_codes
        )
        Engine.check(self.config, self.tasks, trainer)
        self.module = ofa.OFA(self.config)
        self.loss = loss_config(trainer, self.tasks.tasks)
        self.random_seed = random_seed
        self.settings = {
            "model": model,
            "train_dataset_cfg": dataset,
            "optimizer": optimizer,
            "trainer": trainer,
            "partitioner": partitioner,
            "random_seed": random_seed,
        }
        self.mixture = dataset.mixture_or_task_name
        self.rules = build_rules(partitioner.rules, partitioner.additional_rules)
        self._beam_size = beam_size
        self._engine = None
        optimizer_def = optimizer
        if isinstance(optimizer, OptimizerConfig):
            self._engine = Engine.build(
                self.config,
                self.tasks,
                optimizer=optimizer,
                trainer=trainer,
                partitioner=partitioner,
                batch_size=dataset.batch_size,
            )
            optimizer_def = ChainOptimizer(self._engine.tx, self.abstract_state)
        self._vocabulary = (
            seqio.get_mixture_or_task(dataset.mixture_or_task_name)
            .output_features["targets"]
            .vocabulary
        )
        super().__init__(optimizer_def=optimizer_def)

    @property
    def training_engine(self) -> Engine:
        """What the native runner would train with.

        Raises:
          ValueError: the model was built without an optimizer, or with one of t5x.
        """
        if self._engine is None:
            raise ValueError(
                "models.OFAModel.optimizer must be @optimizers.OptimizerConfig() for "
                "trainer.StepTrainer; with an optimizer of t5x, train_script.train.trainer_cls is "
                "t5x's own trainer.Trainer"
            )
        return self._engine

    def abstract_state(self) -> TrainState:
        """Shapes of the native train state, boxed."""
        return self.training_engine.abstract_state(_SMALLEST_BATCH)

    @property
    def input_vocabulary(self) -> seqio.Vocabulary:
        """The tokenizer as t5x compares it with that of the tasks."""
        return self._vocabulary

    @property
    def output_vocabulary(self) -> seqio.Vocabulary:
        """The same: OFA has one vocabulary."""
        return self._vocabulary

    def get_initial_variables(
        self,
        rng: jax.Array,
        input_shapes: Mapping[str, PyTree],
        input_types: Mapping[str, Any] | None = None,
    ) -> flax.core.FrozenDict:
        """Parameters and statistics as the native runner initializes them.

        Args:
          rng: not used: the keys come from `random_seed`, as in the native runner.
          input_shapes: not used: no parameter depends on them.
          input_types: not used.

        Returns:
          "params" and "batch_stats", and for each `<name>_axes` with the logical axis names.
        """
        del rng, input_shapes, input_types
        key = jax.random.key(self.random_seed)
        rngs = {name: stream_key(key, name) for name in ("params", *MODEL_STREAMS)}
        batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in _SMALLEST_BATCH.items()}
        # t5x calls this with the axis rules set, under which flax would refuse dimensions that
        # do not divide over the mesh and stay whole.
        with nn.logical_axis_rules(()):
            boxed = self.module.init(rngs, batch, train=False)
            variables = nn.unbox(boxed)
        result = {}
        for name, tree in boxed.items():
            specs: dict[Any, Any] = traverse_util.flatten_dict(nn.get_partition_spec(tree))
            result[name] = variables[name]
            result[f"{name}_axes"] = traverse_util.unflatten_dict(
                {
                    (*path[:-1], f"{path[-1]}_axes"): AxisMetadata(tuple(spec))
                    for path, spec in specs.items()
                }
            )
        return flax.core.freeze(result)

    def loss_fn(
        self,
        params: PyTree,
        batch: Batch,
        dropout_rng: jax.Array | None,
        flax_mutables: PyTree = None,
    ) -> tuple[jax.Array, Any]:
        """Loss of a batch, for t5x's own trainer; ours takes the native step.

        Args:
          params: parameters.
          batch: arrays [b, ...].
          dropout_rng: key of this step, or None for evaluation.
          flax_mutables: {"batch_stats": ...}.

        Returns:
          (mean loss per counted token float32, (metrics, new mutables)); without mutables, only
          (loss, metrics).
        """
        inputs = model_inputs(batch)
        stats = (flax_mutables or {}).get("batch_stats", {})
        variables = {"params": params, "batch_stats": stats}
        train = dropout_rng is not None
        config = self.loss if train else _evaluation_loss(self.loss)
        logits: Any
        if train:
            rngs = {name: stream_key(dropout_rng, name) for name in MODEL_STREAMS}
            logits, updated = self.module.apply(
                variables, inputs, train=True, rngs=rngs, mutable=["batch_stats"]
            )
            stats = updated.get("batch_stats", stats)
        else:
            logits = self.module.apply(variables, inputs, train=False)
        losses = token_losses(
            logits,
            inputs["decoder_target_tokens"],
            inputs["decoder_loss_weights"],
            config,
            vocab_size=self.config.vocab_size,
        )
        rows = logits.shape[0]
        task_ids = inputs.get("task_ids", jnp.zeros((rows,), jnp.int32))
        sums = TaskSums.of(losses, task_ids, len(self.tasks.tasks)).metrics()
        mean = losses.loss_sum / jnp.maximum(sums["tokens"], 1.0)
        metrics = step_metrics({**sums, "loss": mean}, self._task_names(inputs))
        # Over batches, and over microbatches of t5x's own trainer, a mean counts by its tokens.
        tokens = sums["tokens"]
        for name, value in (("loss", mean), ("nll", sums["nll"]), ("accuracy", sums["accuracy"])):
            metrics[name] = clu_metrics.Average(total=value * tokens, count=tokens)
        if flax_mutables is None:
            return mean, metrics
        return mean, (metrics, flax.core.freeze({"batch_stats": stats} if stats else {}))

    def eval_fn(
        self, params: PyTree, batch: Batch, flax_mutables: PyTree = None
    ) -> tuple[jax.Array, CluMetrics]:
        """Teacher-forced loss with dropout off and running statistics.

        Args:
          params: parameters.
          batch: arrays [b, ...].
          flax_mutables: {"batch_stats": ...}.

        Returns:
          (mean loss per counted token, metrics).
        """
        loss, aux = self.loss_fn(params, batch, None, flax_mutables)
        return loss, aux if flax_mutables is None else aux[0]

    def _task_names(self, batch: Batch) -> list[str]:
        return self.tasks.names if "task_ids" in batch else []

    def predict_batch_with_aux(
        self,
        params: PyTree,
        batch: Batch,
        rng: jax.Array | None = None,
        flax_mutables: PyTree = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Generates with the beam search of the native runner, for `t5x/infer.py`.

        Args:
          params: parameters.
          batch: arrays [b, ...]; rows whose "decoder_code_masks" is True get image codes.
          rng: not used, the search draws nothing.
          flax_mutables: {"batch_stats": ...}.

        Returns:
          (best ids int32[b, t] without BOS, {"scores": float32[b]}).

        Raises:
          ValueError: a task whose answers need more than a search, or several tasks with searches
            of their own.
        """
        del rng
        inputs = model_inputs(batch)
        variables = {"params": params, "batch_stats": (flax_mutables or {}).get("batch_stats", {})}
        settings, constraint = self._search(inputs)
        found = generate(self.module, variables, inputs, settings, constraint=constraint)
        return found.tokens[:, 0], {"scores": found.scores[:, 0]}

    def _search(self, inputs: Batch) -> tuple[BeamConfig, Any]:
        """Settings and constraint of a batch: of the one task, or of plain tasks together."""
        tasks, tokenizer = self.tasks.tasks, self.tasks.tokenizer
        for task in tasks:
            answering = task.answering
            if answering.decoder_prompt != "none" or answering.method != "search":
                raise ValueError(
                    f"task {task.name!r} is answered with a decoder prompt or by "
                    f"{answering.method}, "
                    "which t5x/infer.py cannot; evaluate it, or use python -m ofa_jax.infer"
                )
        if len(tasks) == 1:
            recipe = Recipe.of_task(tasks[0], self.tasks.lengths["targets"])
            settings = recipe.settings(self.config, self._beam_size)
            return cast(BeamConfig, settings), recipe.allowed(tokenizer.layout)
        for task in tasks:
            if task.answering.answers is not None or task.answering.decoding:
                raise ValueError(
                    f"task {task.name!r} is decoded in its own way: set MIXTURE_OR_TASK_NAME to "
                    "one task at a time"
                )
        constraint = None
        if any(task.target_modality == "CODE" for task in tasks):
            constraint = CodesInCodeRows(
                inputs["decoder_code_masks"],
                code_range=(tokenizer.layout.code_start, tokenizer.layout.bin_start),
                num_codes=self.config.code_window**2,
            )
        length = self.tasks.lengths["targets"] - 1
        return BeamConfig(beam=self._beam_size, max_len_b=length), constraint

    def predict_batch(
        self,
        params: PyTree,
        batch: Batch,
        rng: jax.Array | None = None,
        flax_mutables: PyTree = None,
    ) -> jax.Array:
        """The ids of `predict_batch_with_aux`."""
        return self.predict_batch_with_aux(params, batch, rng, flax_mutables)[0]

    def score_batch(
        self,
        params: PyTree,
        batch: Batch,
        return_intermediates: bool = False,
        flax_mutables: PyTree = None,
    ) -> jax.Array:
        """Log-probability of each target.

        Args:
          params: parameters.
          batch: arrays [b, ...].
          return_intermediates: must be False.
          flax_mutables: {"batch_stats": ...}.

        Returns:
          float32[b], summed over the tokens of the target.

        Raises:
          ValueError: intermediates were asked for.
        """
        if return_intermediates:
            raise ValueError("OFAModel.score_batch gives no intermediates")
        inputs = model_inputs(batch)
        variables = {"params": params, "batch_stats": (flax_mutables or {}).get("batch_stats", {})}
        logits: Any = self.module.apply(variables, inputs, train=False)
        losses = token_losses(
            logits,
            inputs["decoder_target_tokens"],
            (inputs["decoder_loss_weights"] != 0).astype(jnp.float32),
            LossConfig(),
            vocab_size=self.config.vocab_size,
        )
        return -losses.example_nll


# No parameter depends on the batch: `OFA` adds the inputs that are missing when it initializes.
_SMALLEST_BATCH = {
    "encoder_input_tokens": jax.ShapeDtypeStruct((1, 1), jnp.int32),
    "decoder_input_tokens": jax.ShapeDtypeStruct((1, 1), jnp.int32),
}


def _evaluation_loss(config: LossConfig) -> LossConfig:
    """The loss without what only training does: no tokens dropped, no R-Drop."""
    return LossConfig(
        label_smoothing=config.label_smoothing,
        constraint_range=config.constraint_range,
        encouraging_log_end=config.encouraging_log_end,
    )


def step_metrics(values: Mapping[str, jax.Array], task_names: list[str]) -> CluMetrics:
    """Metrics of a step in clu's form, under the names of the native log.

    Args:
      values: scalars and the per-task sums of `TaskSums.metrics`.
      task_names: names behind the task axis; [] leaves out the losses per task.

    Returns:
      Scalars as averages over steps, "loss/<task>" as averages over tokens, and the counted
      tokens and examples per second.
    """
    scalars = ("loss", "nll", "accuracy", "gradient_norm", "param_norm", "learning_rate")
    metrics: CluMetrics = {
        name: metrics_lib.AveragePerStep.from_model_output(values[name])
        for name in scalars
        if name in values
    }
    for index, name in enumerate(task_names):
        metrics[f"loss/{name}"] = clu_metrics.Average(
            total=values["task_loss_sum"][index], count=values["task_tokens"][index]
        )
    metrics["tokens_per_second"] = metrics_lib.TimeRate.from_model_output(values["tokens"])
    metrics["examples_per_second"] = metrics_lib.TimeRate.from_model_output(values["examples"])
    return metrics
