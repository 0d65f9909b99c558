"""A run that trains an image tokenizer: what takes the place of OFA, its loss and its evaluation.

Everything else is the run of `story`: tasks, input, mesh, checkpoints, log, report. The images are
those of any task or mixture; words are read along and not used.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree
from PIL import Image

from ofa_jax.atomic import JsonObject, write_text
from ofa_jax.checkpoint.perceptual import read_lpips
from ofa_jax.checkpoint.vqgan import discriminator_state_dict, read_vqgan, write_vqgan
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.tasks.task import TaskSet
from ofa_jax.errors import Unfinished
from ofa_jax.evaluation.run_evaluation import EvaluationConfig
from ofa_jax.losses.perceptual import Perceptual, distance_in
from ofa_jax.metrics.image import code_use, psnr
from ofa_jax.model.vqgan.config import VQGANConfig
from ofa_jax.runs.engine import Engine
from ofa_jax.runs.settings import TrainerConfig
from ofa_jax.sharding import placement
from ofa_jax.training.image_tokenizer import (
    READ,
    ImageTokenizerConfig,
    TokenizerNetworks,
    counted,
    make_reconstruction,
    make_tokenizer_step,
)
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import TrainStep

logger = logging.getLogger("ofa_jax")

# What the run leaves for `--image_tokenizer`, and the name of its scores.
CHECKPOINT = "last.ckpt"
IMAGES = "images"
# Examples that the report shows.
_SHOWN = 48


@dataclasses.dataclass(frozen=True)
class TokenizerEngine(Engine):
    """Tokenizer, discriminator, optimizer and mesh of a run."""

    config: VQGANConfig  # type: ignore[assignment]
    module: TokenizerNetworks  # type: ignore[assignment]

    description: ClassVar[str] = "VQGAN"

    @classmethod
    def check(cls, config: VQGANConfig, tasks: TaskSet, trainer: TrainerConfig) -> None:
        """Fails where settings and tasks make no image tokenizer.

        Raises:
          ValueError: naming the setting.
        """
        if trainer.image_tokenizer is None:
            raise ValueError(
                "models.VQGAN is trained by trainer.Trainer.image_tokenizer = "
                "@trainer.ImageTokenizerConfig()"
            )
        if trainer.scst is not None:
            raise ValueError(
                "trainer.SCSTConfig rewards captions; a run with models.VQGAN has none"
            )
        trainer.image_tokenizer.check(config)
        perceptual_distance(trainer.image_tokenizer)
        for task in tasks.tasks:
            if task.instructions[0].image_slot is None:
                raise ValueError(
                    f"task {task.name!r} has no images to train an image tokenizer on; leave it "
                    "out (inputs.DatasetConfig.rates)"
                )
        side = tasks.lengths["image"]
        if not side or side % config.patch:
            raise ValueError(
                f"task_feature_lengths['image'] = {side} pixels; models.VQGAN halves the sides "
                f"{len(config.channel_multipliers) - 1} times, so they must be a multiple of "
                f"{config.patch}"
            )

    @classmethod
    def modules(cls, config: VQGANConfig, trainer: Any) -> TokenizerNetworks:
        """The networks that are trained."""
        return TokenizerNetworks(config, trainer.image_tokenizer)

    @classmethod
    def split_sizes(cls, config: VQGANConfig) -> dict[str, int]:
        """Nothing must divide: what does not is kept whole."""
        return {}

    @functools.cached_property
    def perceptual(self) -> Perceptual | None:
        """The perceptual distance that the settings name, or None."""
        return perceptual_distance(self.module.losses)

    def train_step(self, state_shardings: PyTree) -> TrainStep:
        """See `Engine.train_step`."""
        return make_tokenizer_step(
            self.module,
            self.tx,
            self.schedule,
            perceptual=self.perceptual,
            num_tasks=len(self.tasks.tasks),
            num_microbatches=self.trainer.num_microbatches,
            ema=self.ema,
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
    ) -> TokenizerEvaluation:
        """See `Engine.evaluation`."""
        return TokenizerEvaluation(self, config, pipeline, stop_requested)

    def imported(self, path: str, state: TrainState) -> dict[str, object]:
        """See `Engine.imported`; the discriminator starts anew."""
        try:
            config, params = read_vqgan(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"CheckpointConfig.initial_path: {error}") from error
        for field in dataclasses.fields(VQGANConfig):
            found, wanted = getattr(config, field.name), getattr(self.config, field.name)
            if found != wanted and field.name not in _OF_TRAINING:
                raise ValueError(
                    f"CheckpointConfig.initial_path: {path} has {field.name} {found}, but "
                    f"models.VQGAN.{field.name} is {wanted}"
                )
        return {"params": {**state.params, "autoencoder": params}, "batch_stats": state.batch_stats}

    def write_description(self, directory: pathlib.Path) -> None:
        """The model of the run needs no vocabulary; it is described beside its export."""

    def export(self, directory: pathlib.Path, variables: Mapping[str, PyTree], step: int) -> None:
        """Writes `last.ckpt` with `model.yaml`, which `--image_tokenizer` and others read.

        Args:
          directory: of the run.
          variables: {"params", "batch_stats"}, whole on this host.
          step: finished updates.
        """
        params, others = variables["params"], {}
        if "discriminator" in params:
            statistics = variables["batch_stats"]["discriminator"]
            tensors = discriminator_state_dict(params["discriminator"], statistics)
            others = {f"loss.discriminator.{name}": value for name, value in tensors.items()}
        path, side = directory / CHECKPOINT, self.tasks.lengths["image"]
        write_vqgan(path, params["autoencoder"], self.config, side=side, step=step, others=others)
        logger.info("the image tokenizer for other programs: %s", path)

    def operations_per_example(self, lengths: Mapping[str, int]) -> None:
        """Not counted, so no MFU is shown."""


# Weights of training losses, which a checkpoint may say otherwise.
_OF_TRAINING = ("kl_weight", "commitment_weight", "legacy_commitment")


def perceptual_distance(losses: ImageTokenizerConfig) -> Perceptual | None:
    """The distance that settings name.

    Raises:
      ValueError: files that are no LPIPS, or no such function.
    """
    if not losses.perceptual_weight:
        return None
    module, separator, function = losses.perceptual[0].partition(":")
    try:
        if len(losses.perceptual) > 1 or not separator:
            return read_lpips(losses.perceptual)
        return distance_in(getattr(importlib.import_module(module), function))
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"ImageTokenizerConfig.perceptual: {error}") from error


@dataclasses.dataclass
class TokenizerEvaluation:
    """Reconstructs held-out images, during and after training; the counterpart of `RunEvaluation`.

    Attributes:
      engine: of the run.
      config: how much.
      pipeline: of the training input; its batches are taken from other splits.
      stop_requested: asked before every batch, the same on all processes.
    """

    engine: TokenizerEngine
    config: EvaluationConfig
    pipeline: MixturePipeline
    stop_requested: Callable[[], bool]

    def __post_init__(self) -> None:
        everywhere = NamedSharding(self.engine.mesh, PartitionSpec())
        reconstruct = make_reconstruction(self.engine.config)

        def program(params: PyTree, batch: Mapping[str, jax.Array]):
            pixels, codes = reconstruct(params, batch["encoder_images"])
            return batch["encoder_images"], pixels, codes, counted(batch)

        self._program = self.engine.on_mesh(jax.jit(program, out_shardings=everywhere))

    def during_training(self, variables: Mapping[str, PyTree]) -> dict[str, float]:
        """Scores of a few examples, as "eval/images/<metric>"."""
        scores, _ = self._split(variables, self.config.split, self.config.num_examples)
        named = {name: value for name, value in scores.items() if isinstance(value, float)}
        return {f"eval/{IMAGES}/{name}": value for name, value in named.items()}

    def final(
        self, variables: Mapping[str, PyTree], run_dir: pathlib.Path | None, inputs: object
    ) -> JsonObject:
        """Scores after training, and the images of the main split.

        Args:
          variables: of the networks.
          run_dir: directory of the run; None on processes that write nothing.
          inputs: not used.

        Returns:
          {"tasks": {"images": entry}, "splits": {split: {"images": entry}}}.
        """
        config = self.config
        entry, shown = self._split(variables, config.split, config.final_num_examples)
        if run_dir is not None:
            _write_images(run_dir, *shown)
        bounds = config.bounds.get(IMAGES)
        entry |= {"floor": bounds[0], "aim": bounds[1]} if bounds else {}
        splits = {
            split: {IMAGES: self._split(variables, split, count)[0]}
            for split, count in config.extra_splits.items()
        }
        logger.info(
            "reconstructed %d images (%s): PSNR %.2f dB, %.0f%% of %d codes used, perplexity %.1f",
            entry["n"],
            config.split,
            entry["psnr"],
            100 * entry["codes_used"],
            self.engine.config.num_codes,
            entry["perplexity"],
        )
        return {"tasks": {IMAGES: entry}, "splits": splits}

    def _split(
        self, variables: Mapping[str, PyTree], split: str, count: int
    ) -> tuple[JsonObject, tuple[np.ndarray, np.ndarray]]:
        """(scores, (originals, reconstructions) of the examples to show)."""
        pipeline = dataclasses.replace(self.pipeline, split=split)
        originals, images, codes = [], [], []
        for number in range(-(-count // pipeline.batch_size)):
            if self.stop_requested():
                raise Unfinished("stopped in the evaluation")
            rows = {name: value for name, value in pipeline.batch(number).items() if name in READ}
            batch = placement.place_batch(rows, self.engine.mesh)
            found = self._program(variables["params"]["autoencoder"], batch)
            original, image, grid, weights = map(np.asarray, found)
            counts = weights > 0
            originals.append(original[counts])
            images.append(image[counts])
            codes.append(grid[counts])
        original, image = (np.concatenate(part)[:count] for part in (originals, images))
        used = code_use(np.concatenate(codes)[:count], self.engine.config.num_codes)
        scores = {"primary": "psnr", "psnr": psnr(original, image), **used, "n": len(image)}
        return scores, (original[:_SHOWN], image[:_SHOWN])


def _write_images(run_dir: pathlib.Path, originals: np.ndarray, images: np.ndarray) -> None:
    """Writes what the report shows: originals beside reconstructions."""
    directory = run_dir / "examples" / IMAGES
    directory.mkdir(parents=True, exist_ok=True)

    def write(pixels: np.ndarray, name: str) -> str:
        Image.fromarray(pixels).save(directory / name)
        return str((directory / name).relative_to(run_dir))

    rows: Sequence[JsonObject] = [
        {
            "index": index,
            "example_id": str(index),
            "image": write(original, f"{index}.png"),
            "reconstructed_image": write(image, f"{index}_reconstructed.png"),
            # Of an image without error it is infinite.
            "score": round(min(psnr(original, image), 99.0), 2),
        }
        for index, (original, image) in enumerate(zip(originals, images))
    ]
    path = run_dir / "predictions" / f"{IMAGES}.jsonl"
    path.parent.mkdir(exist_ok=True)
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))
