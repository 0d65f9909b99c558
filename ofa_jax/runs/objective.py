"""What fine-tuning adds to a training run: its losses, self-critical steps, the best checkpoint.

Called by `train`; everything here turns settings of `Trainer` and `CheckpointConfig` into
the functions that the loop takes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from ofa_jax.data.sources.example import Example, Records
from ofa_jax.data.tasks.instruction import trim_at_eos
from ofa_jax.data.tasks.task import OFATask, TaskSet
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.generate import generate
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.inference.answerer import closed_set
from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.metrics.caption import DocumentFrequency, cider_d
from ofa_jax.model.ofa import OFA
from ofa_jax.runs.settings import TrainerConfig
from ofa_jax.text.cleaning import remove_punctuation
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.training.ema import EMAConfig
from ofa_jax.training.schedule import Schedule
from ofa_jax.training.scst import Reward, make_scst_step, scst_forward
from ofa_jax.training.step import Batch, TrainStep, make_train_step

logger = logging.getLogger("ofa_jax")

# Families of the second official group (SPEC 4.2, 4.6).
_SECOND_GROUP = ("detection", "image_infilling", "text_infilling")

# Between the references of an image in its target text (SPEC 5.5.2).
SEPARATOR = "&&"


def loss_config(trainer: TrainerConfig, tasks: tuple[OFATask, ...]) -> LossConfig:
    """The training loss that the settings ask for, with the group of each task."""
    groups = tuple(int(task.family in _SECOND_GROUP) for task in tasks)
    return dataclasses.replace(trainer.loss, task_groups=groups)


def training_step(
    model: OFA,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    trainer: TrainerConfig,
    tasks: TaskSet,
    *,
    ema: EMAConfig | None,
    frozen: tuple[str, ...],
    state_shardings: PyTree,
    batch_shardings: PyTree,
) -> TrainStep:
    """The step of a run: cross entropy, constrained to closed sets where tasks have them, or SCST.

    Args:
      model: the model.
      tx: the optimizer.
      schedule: finished updates to learning rate.
      trainer: the settings.
      tasks: of the run.
      ema: settings of the moving average, or None.
      frozen: see `make_train_step`.
      state_shardings: see `make_train_step`.
      batch_shardings: see `make_train_step`.

    Returns:
      (state, batch, base key) -> (state, metrics).

    Raises:
      ValueError: SCST over several tasks, over one without captions, or contradictory settings.
    """
    vocab_size = tasks.tokenizer.layout.size
    scst = trainer.scst
    if scst is not None:
        check_scst(trainer, tasks)
    update = make_train_step(
        model,
        tx,
        schedule,
        loss_config(trainer, tasks.tasks),
        vocab_size=vocab_size,
        num_tasks=len(tasks.tasks),
        num_microbatches=trainer.num_microbatches,
        ema=ema,
        frozen=frozen,
        target_masks=target_masks(tasks.tasks, vocab_size),
        forward_losses=None if scst is None else scst_forward(model, vocab_size),
        state_shardings=state_shardings,
        batch_shardings=batch_shardings,
    )
    if scst is None:
        return update
    length, samples = scst.max_length, scst.samples
    decoding: BeamConfig | SamplingConfig
    if scst.sampling == "beam":
        decoding = BeamConfig(beam=samples, max_len_b=length, no_repeat_ngram_size=3)
    else:
        # OFA-NOTE: SPEC 5.5.1. The official samples are hypotheses of a beam search, which is no
        # estimate of the expected reward: a hypothesis weighs the same however improbable it is.
        decoding = SamplingConfig(samples=samples, max_len_b=length)

    def sample(variables: Mapping[str, PyTree], batch: Batch, key: jax.Array) -> jax.Array:
        return generate(model, variables, batch, decoding, rng=key).tokens

    frequency = _document_frequency(scst.document_frequency, tasks.tasks[0])
    return make_scst_step(
        update,
        sample,
        caption_reward(tasks.tokenizer, frequency),
        place=lambda arrays: jax.device_put(arrays, batch_shardings),
    )


def check_scst(trainer: TrainerConfig, tasks: TaskSet) -> None:
    """Fails where captions cannot be rewarded.

    Raises:
      ValueError: several tasks, or one whose target is not text.
    """
    if len(tasks.tasks) != 1 or tasks.tasks[0].target_modality != "TEXT":
        raise ValueError(
            "self-critical training (SCSTConfig) needs one task with a text target, a captioning "
            f"task such as caption_scst; the run has {', '.join(tasks.names)}"
        )
    if trainer.loss.normalization == "group" or trainer.loss.rdrop_alpha:
        raise ValueError(
            "self-critical training (SCSTConfig) has a loss of its own: LossConfig.normalization "
            "'group' and LossConfig.rdrop_alpha exclude it"
        )


def reward_text(text: str) -> str:
    """A caption as SCST compares it (SPEC 5.5.2): no punctuation, and an end mark."""
    return f"{remove_punctuation(text.strip()).strip().removesuffix('.')} <eos>"


def caption_reward(tokenizer: Tokenizer, frequency: DocumentFrequency) -> Reward:
    """CIDEr-D of samples against the references in the batch's targets (SPEC 5.5.3).

    Args:
      tokenizer: decodes both.
      frequency: document frequencies of the training references.

    Returns:
      (samples int32[b, g, t], targets int32[b, t']) to float32[b, g].
    """

    def reward(samples: np.ndarray, targets: np.ndarray) -> np.ndarray:
        hypotheses, references = [], []
        for group, target in zip(samples, targets):
            texts = tokenizer.decode(trim_at_eos(target)).split(SEPARATOR)
            cleaned = [reward_text(text) for text in texts]
            hypotheses += [reward_text(tokenizer.decode(trim_at_eos(ids))) for ids in group]
            references += [cleaned] * len(group)
        scores = cider_d(hypotheses, references, frequency)
        return scores.reshape(samples.shape[:2]).astype(np.float32)

    return reward


def _document_frequency(path: str, task: OFATask) -> DocumentFrequency:
    if path:
        return DocumentFrequency.load(path)
    records = task.source.open("train")
    logger.info("counting n-grams in the references of %d training examples", len(records))
    references = ([reward_text(c) for c in record["captions"]] for record in _each(records))
    return DocumentFrequency.from_references(list(references))


def _each(records: Records) -> Iterator[Example]:
    return (records[index] for index in range(len(records)))


def deciding_score(metric: str, values: Mapping[str, float]) -> dict[str, float]:
    """The score of an evaluation by which the best checkpoint is chosen.

    Args:
      metric: as in `CheckpointConfig.best_metric`.
      values: "eval/<task>/<metric>" to value.

    Returns:
      {metric: value}, to be saved with the checkpoint.

    Raises:
      ValueError: no such score, or several.
    """
    found = {
        name: value
        for name, value in values.items()
        if name.removeprefix("eval/") == metric or name.endswith(f"/{metric}")
    }
    if len(found) != 1:
        names = ", ".join(name.removeprefix("eval/") for name in found or values)
        what = "names several scores" if found else "is no score of this run; there are"
        raise ValueError(f"CheckpointConfig.best_metric {metric!r} {what}: {names}")
    return {metric: next(iter(found.values()))}


def target_masks(
    tasks: tuple[OFATask, ...], vocab_size: int
) -> Callable[[Mapping[str, jax.Array]], jax.Array] | None:
    """The training constraint of tasks with closed sets (SPEC 5.1, 7.2).

    Args:
      tasks: by task id.
      vocab_size: v.

    Returns:
      From a batch to bool[b, t, v]: all True for tasks with free answers. None where no task has
      a closed set.
    """
    tries = {
        number: closed_set(task.candidate_ids())
        for number, task in enumerate(tasks)
        if task.answering.answers is not None and task.answering.renormalize
    }
    if not tries:
        return None

    def masks(batch: Mapping[str, jax.Array]) -> jax.Array:
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        prompts = jnp.cumprod(weights == 0, axis=1).sum(axis=1)
        allowed = None
        for number, trie in tries.items():
            own = trie.target_masks(targets, vocab_size, prompts)
            if len(tasks) > 1:
                is_own = (batch["task_ids"] == number)[:, None, None]
                own = jnp.where(is_own, own, True if allowed is None else allowed)
            allowed = own
        return jnp.asarray(allowed)

    return masks
