"""What a run computes with: model, optimizer, loss, mesh and rules, made from its settings.

`train` runs it, `plan` only compiles it. `Engine` is that of OFA; that of an image tokenizer
(`runs.image_tokenizer`) overrides what differs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.orbax_weights import SourceRecord, write_model_config, write_source_record
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.tasks.task import TaskSet, image_tokenizer_of
from ofa_jax.evaluation.run_evaluation import EvaluationConfig, RunEvaluation
from ofa_jax.model import flops
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.runs import hosts, objective
from ofa_jax.runs import tasks as run_tasks
from ofa_jax.runs.settings import PartitionerConfig, TrainerConfig
from ofa_jax.sharding import mesh as meshes
from ofa_jax.sharding import placement, rules
from ofa_jax.sharding.layout import MeshLayout
from ofa_jax.training.ema import EMAConfig
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer, check_patterns
from ofa_jax.training.schedule import Schedule
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import TrainStep

# Scale and bias of batch norm in mode "frozen": without gradient, so without decay and moments.
FROZEN_BATCH_NORM = r"resnet/(.*/)?(\w+_)?norm\d*/(scale|bias)$"
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Engine:
    """Model, optimizer, loss and mesh of a run.

    Attributes:
      config: of the model.
      module: the model.
      optimizer: settings of the optimizer, with what the model freezes.
      tx: the optimizer.
      schedule: finished updates to learning rate.
      trainer: how a step is taken.
      ema: settings of the moving average, or None.
      tasks: of the run.
      mesh: devices.
      rules: logical axes to mesh axes.
    """

    config: OFAConfig
    module: OFA
    optimizer: OptimizerConfig
    tx: optax.GradientTransformation
    schedule: Schedule
    trainer: TrainerConfig
    ema: EMAConfig | None
    tasks: TaskSet
    mesh: Mesh
    rules: rules.LogicalRules

    description: ClassVar[str] = "OFA"

    @classmethod
    def check(cls, config: Any, tasks: TaskSet, trainer: TrainerConfig) -> None:
        """Fails where model, tasks and objective do not fit together.

        Raises:
          ValueError: naming the setting.
        """
        if trainer.image_tokenizer is not None:
            raise ValueError(
                "trainer.Trainer.image_tokenizer trains MODEL = @models.VQGAN(), not models.OFA"
            )
        check_model_fits(config, tasks)

    @classmethod
    def modules(cls, config: Any, trainer: TrainerConfig) -> Any:
        """The module whose parameters are trained."""
        return OFA(config)

    @classmethod
    def split_sizes(cls, config: Any) -> dict[str, int]:
        """Logical axes that must divide over the mesh, with their sizes."""
        return {
            "heads": config.num_heads,
            "joined_kv": config.width,
            "mlp": math.gcd(config.ffn_width("encoder"), config.ffn_width("decoder")),
            "vocab": config.embedding_rows,
        }

    @classmethod
    def build(
        cls,
        config: OFAConfig,
        tasks: TaskSet,
        *,
        optimizer: OptimizerConfig,
        trainer: TrainerConfig,
        partitioner: PartitionerConfig,
        batch_size: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> Engine:
        """Makes the parts and checks that they fit together.

        Args:
          config: of the model.
          tasks: of the run.
          optimizer: settings.
          trainer: settings.
          partitioner: settings.
          batch_size: global examples per step.
          devices: None for all of all processes.

        Returns:
          The engine. Nothing is allocated on the devices.

        Raises:
          ValueError: a mesh that the devices do not make, a batch or a model that does not divide
            over it, or contradictory settings; one line with the numbers and what would fit.
        """
        mesh = meshes.build_mesh(partitioner.mesh, devices, dcn_spec=partitioner.dcn_mesh)
        axis_rules = rules.build_rules(partitioner.rules, partitioner.additional_rules)
        placement.check_batch_size(batch_size, mesh, trainer.num_microbatches)
        placement.check_axis_sizes(cls.split_sizes(config), mesh, axis_rules)
        if getattr(config, "batch_norm", "") == "frozen":
            frozen = (*optimizer.frozen, FROZEN_BATCH_NORM)
            optimizer = dataclasses.replace(optimizer, frozen=frozen)
        tx, schedule = build_optimizer(optimizer)
        return cls(
            config=config,
            module=cls.modules(config, trainer),
            optimizer=optimizer,
            tx=tx,
            schedule=schedule,
            trainer=trainer,
            ema=trainer.ema if trainer.averages else None,
            tasks=tasks,
            mesh=mesh,
            rules=axis_rules,
        )

    def creation(self, batch: Mapping[str, PyTree]) -> Callable[[jax.Array], TrainState]:
        """The function from a key to the boxed state at step 0, to be traced.

        Args:
          batch: one with every key that the model reads, of any batch size.
        """
        shapes = {
            name: jax.ShapeDtypeStruct((1, *value.shape[1:]), value.dtype)
            for name, value in batch.items()
        }
        return lambda key: TrainState.create(
            self.module, self.tx, key, shapes, ema=self.ema is not None
        )

    def abstract_state(self, batch: Mapping[str, PyTree]) -> PyTree:
        """Shapes of the boxed state; checks the optimizer's expressions against its parameters.

        Args:
          batch: as in `creation`.

        Raises:
          ValueError: an expression that matches no parameter.
        """
        state = jax.eval_shape(self.creation(batch), jax.random.key(0))
        check_patterns(state.params, self.optimizer)
        return state

    def train_step(self, state_shardings: PyTree) -> TrainStep:
        """(state, batch, base key) -> (state, metrics); call it through `on_mesh`.

        Args:
          state_shardings: from `placement.state_shardings`.
        """
        return objective.training_step(
            self.module,
            self.tx,
            self.schedule,
            self.trainer,
            self.tasks,
            ema=self.ema,
            frozen=self.optimizer.frozen,
            state_shardings=state_shardings,
            batch_shardings=placement.batch_sharding(self.mesh),
        )

    def evaluation(
        self,
        config: EvaluationConfig,
        pipeline: MixturePipeline,
        *,
        seed: int,
        stop_requested: Callable[[], bool],
    ) -> Any:
        """What evaluates the run, during and after training.

        Args:
          config: how much.
          pipeline: of the training input.
          seed: of the evaluation examples.
          stop_requested: asked now and then, the same on all processes.
        """
        return RunEvaluation(
            self.module,
            self.tasks,
            config,
            MeshLayout(self.mesh, self.rules),
            seed=seed,
            stop_requested=stop_requested,
            agree=hosts.of_primary,
        )

    def imported(self, path: str, state: TrainState) -> dict[str, PyTree]:
        """The weights of another run or of a released checkpoint.

        Args:
          path: of a setting.
          state: at step 0.

        Returns:
          {"params", "batch_stats"} of host arrays.

        Raises:
          ValueError: weights of another vocabulary.
        """
        found = import_checkpoint(path, config=self.config, initial=state.variables)
        if found.config.vocab_size != self.config.vocab_size:
            raise ValueError(
                f"CheckpointConfig.initial_path: {path} has a vocabulary of "
                f"{found.config.vocab_size:,} ids, the tasks one of {self.config.vocab_size:,}; "
                "VOCAB_DIR must be that of the weights"
            )
        return dict(found.variables)

    def write_description(self, directory: pathlib.Path) -> None:
        """Writes what the checkpoints need to be read: vocabulary, model, task.

        Args:
          directory: of the run.
        """
        run_tasks.save_vocabulary(directory, self.tasks)
        write_model_config(directory, self.config)
        facts = run_tasks.task_facts(self.tasks)
        write_source_record(directory, SourceRecord("trained", directory.name, task=facts))

    def export(self, directory: pathlib.Path, variables: Mapping[str, PyTree], step: int) -> None:
        """Nothing: the checkpoints of the run are what others read (`ofa_jax.convert`)."""

    def operations_per_example(self, lengths: Mapping[str, int]) -> float | None:
        """Operations of a training step per example.

        Args:
          lengths: of the tasks.
        """
        image = lengths["image"]
        return flops.training_flops(
            self.config,
            source_length=lengths["inputs"],
            target_length=lengths["targets"],
            image_size=(image, image) if image else None,
            patches=self.config.sample_patch_num or None,
        )

    def on_mesh(self, function: Callable[..., _Result]) -> Callable[..., _Result]:
        """A function that compiles or runs steps, as the model's sharding constraints want it."""

        @functools.wraps(function)
        def call(*arguments: object) -> _Result:
            with meshes.mesh_context(self.mesh, self.rules):
                return function(*arguments)

        return call


def check_model_fits(config: OFAConfig, tasks: TaskSet) -> None:
    """Fails where the model's position tables are too small for the sequences or images.

    Args:
      config: of the model.
      tasks: of the run.

    Raises:
      ValueError: naming the length and the limit.
    """
    only_codes = all(task.target_modality == "CODE" for task in tasks.tasks)
    # 1,024 image codes and eos; codes have positions of their own.
    longest = {"inputs": config.max_positions, "targets": config.max_positions + only_codes}
    for key, limit in longest.items():
        if tasks.lengths[key] > limit:
            raise ValueError(
                f"task_feature_lengths[{key!r}] = {tasks.lengths[key]}, but the model has "
                f"positions for {limit} tokens"
            )
    image, stride = tasks.lengths["image"], config.resnet.stride
    if image % stride or image // stride > config.image_bucket_size:
        raise ValueError(
            f"task_feature_lengths['image'] = {image} pixels; this model needs a multiple of "
            f"{stride} of at most {stride * config.image_bucket_size}"
        )
    codes = config.code_window**2 + 1
    if codes > tasks.lengths["targets"] and any(
        task.target_modality == "CODE" for task in tasks.tasks
    ):
        raise ValueError(
            f"task_feature_lengths['targets'] = {tasks.lengths['targets']} is too short for image "
            f"infilling: {codes - 1} codes and eos need {codes}"
        )


def check_code_grids(config: OFAConfig, tasks: TaskSet) -> None:
    """Fails where images have more or fewer codes than the model writes.

    Args:
      config: of the model.
      tasks: of the run; the first example of those that encode their images is read.

    Raises:
      ValueError: names the task, both numbers and what to set.
    """
    written = config.code_window**2
    for task in tasks.tasks:
        if image_tokenizer_of(task) is None:
            continue
        records = task.source.open("train")
        count = len(task.read(records, 0, tasks.lengths, seed=0, train=False)["targets"]) - 1
        if count != written:
            side = math.isqrt(count) * config.code_stride
            raise ValueError(
                f"task {task.name!r} has images of {count} codes, the model writes {written}: set "
                f"models.OFA.code_image_size = {side} (pixels, {config.code_stride} by code), or "
                "leave the task out"
            )
