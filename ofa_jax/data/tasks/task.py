"""A task: one instruction over one source, with what prepares and what scores its examples.

Tasks are plain, picklable values without TensorFlow, so that input workers start fast.
`ofa_jax.data.tasks.registration` puts them into the seqio registry, the only list of tasks; both
executors (grain and tf.data) call `OFATask.read`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ofa_jax import vocab
from ofa_jax.data.ops.hidden_words import UNREAD_WORDS, UNSCORED_WORDS, hide_words
from ofa_jax.data.ops.image_tokenizer import ImageTokenizer, load_image_tokenizer
from ofa_jax.data.sources.example import Example, InstructionError, Records, Source
from ofa_jax.data.steps import Step
from ofa_jax.data.steps.image import IMAGE_SIZE, IS_TRUNCATED, TRUNCATED_IMAGES, EncodeImage
from ofa_jax.data.tasks.answering import FREE_ANSWER, Answering, answer_ids
from ofa_jax.data.tasks.instruction import Features, Instruction
from ofa_jax.text.tokenizer import Tokenizer

__all__ = [
    "LENGTH_KEYS",
    "PRETRAINING_FAMILIES",
    "Lengths",
    "MetricFunction",
    "OFATask",
    "TaskSet",
    "check_lengths",
    "image_tokenizer_of",
    "told_apart",
]

logger = logging.getLogger("ofa_jax")

# As seqio's `metric_fns`: (targets, predictions) to {name: value}, see `evaluation.scorers.score`.
MetricFunction = Callable[..., Mapping[str, float | Sequence[float]]]
Lengths = Mapping[str, int]
LENGTH_KEYS = ("inputs", "targets", "image")

# The eight pretraining tasks (SPEC 4.3), by the name under which results are reported.
PRETRAINING_FAMILIES = (
    "visual_grounding",
    "grounded_captioning",
    "vqa",
    "image_text_matching",
    "captioning",
    "detection",
    "image_infilling",
    "text_infilling",
)


@dataclasses.dataclass(frozen=True)
class OFATask:
    """An instruction-formatted task.

    Attributes:
      name: name in the seqio registry.
      family: one of the eight pretraining tasks, or another name under which results are
        reported (`visual_grounding`, `vqa`, ...).
      instructions: wordings; training draws one per example, evaluation uses the first.
      source: where the examples come from.
      tokenizer: returns the tokenizer; a cached module-level function, so that tasks pickle.
      prepare: steps `fn(example, rng) -> example` of training, in order.
      eval_prepare: steps of evaluation; None means the same as training.
      scorer: a metric function as seqio has it, or a name in `ofa_jax.evaluation.scorers`.
      loss_weight: weight of every target token (SPEC 4.6: 2 for text infilling, image infilling
        and detection); an example's own "confidence" multiplies it.
      answering: decoder prompt, closed answer set and decoding of a fine-tuned task.
    """

    name: str
    family: str
    instructions: tuple[Instruction, ...]
    source: Source
    tokenizer: Callable[[], Tokenizer]
    prepare: tuple[Step, ...] = ()
    eval_prepare: tuple[Step, ...] | None = None
    scorer: str | MetricFunction = "exact_match"
    loss_weight: float = 1.0
    answering: Answering = FREE_ANSWER

    def __post_init__(self) -> None:
        if not self.instructions:
            raise ValueError(f"task {self.name!r} has no instruction")
        asked = {instruction.target_slot.modality for instruction in self.instructions}
        if len(asked) > 1:
            raise ValueError(
                f"task {self.name!r}: all wordings must ask for one modality, got {sorted(asked)}"
            )

    @property
    def variant(self) -> str:
        """The family, with what tells the task from others of its family: "vqa_apart".

        That is the name in the registry without the data set, which stands before the family.
        """
        return self.family + self.name.partition(f"_{self.family}")[2]

    @property
    def masks_text(self) -> bool:
        """Whether the source holds a text with masked spans."""
        return any(
            getattr(piece, "modality", "") == "MASKED_TEXT"
            for instruction in self.instructions
            for piece in instruction.source
        )

    @property
    def target_modality(self) -> str:
        """Modality of the target slot: TEXT, BOX, BOXES or CODE."""
        return self.instructions[0].target_slot.modality

    def prepared(
        self,
        record: Example,
        rng: np.random.Generator,
        lengths: Lengths,
        *,
        train: bool,
        truncated_images: str = "",
    ) -> Example:
        """Runs the preparation steps on a copy of a record.

        Args:
          record: as the source yields it.
          rng: the example's own generator.
          lengths: task feature lengths; `image` is the pixels per side of the model input.
          train: whether to use `prepare` or `eval_prepare`.
          truncated_images: "drop" refuses images that are cut off, "decode" takes what there is of
            them; "" drops in training and decodes in evaluation, as the official evaluation does.

        Returns:
          The prepared example.
        """
        cut = truncated_images or ("drop" if train else "decode")
        example = {**record, IMAGE_SIZE: lengths["image"], TRUNCATED_IMAGES: cut}
        for step in self.steps(train=train):
            example = step(example, rng)
        return example

    def steps(self, *, train: bool) -> tuple[Step, ...]:
        """The preparation steps of training, or of evaluation."""
        return self.prepare if train or self.eval_prepare is None else self.eval_prepare

    def in_evaluation(self) -> OFATask:
        """The task without its name and what is for training only; equal ones score equally."""
        return dataclasses.replace(
            self,
            name="",
            instructions=self.instructions[:1],
            prepare=self.steps(train=False),
            eval_prepare=None,
            loss_weight=1.0,
        )

    def features(
        self,
        example: Example,
        rng: np.random.Generator,
        lengths: Lengths,
        *,
        train: bool,
        with_target: bool = True,
    ) -> Features:
        """Encodes a prepared example, unpadded.

        In evaluation an example may lack the truth: its target is empty and its weights are zero.

        Args:
          example: from `prepared`.
          rng: the example's own generator.
          lengths: task feature lengths.
          train: whether wordings are drawn and noise is added.
          with_target: False leaves the target empty, for a question without an answer.

        Returns:
          The features of `Instruction.encode`, `loss_weights` float32[t], and `decoder_inputs`
          int32[t]: the targets behind bos, in training with the noise that the task asks for and
          without the words that the example says are not to be scored or read (`hide_words`).

        Raises:
          InstructionError: the example does not fit the instruction, or training has no answer,
            or one that is not in the closed set.
        """
        instruction = self.instructions[0]
        if train and len(self.instructions) > 1:
            instruction = self.instructions[rng.integers(len(self.instructions))]
        tokenizer = self.tokenizer()
        room = lengths["targets"] - 1
        if self.masks_text:
            room = min(room, instruction.room_for_text(tokenizer, lengths["inputs"]))
        field = instruction.target_slot.field
        # A prefix may cover a whole answer; its eos is trained all the same.
        is_covered = bool(example.get("loss_skip_prefix"))
        has_truth = with_target and (is_covered or self.has_truth(example))
        given = example
        if train and self.answering.empty_prompts and rng.random() < self.answering.empty_prompts:
            given = {**example, **instruction.empty_texts()}
        features = instruction.encode(
            given,
            tokenizer,
            rng,
            image_size=lengths["image"],
            max_text_tokens=room,
            with_target=has_truth,
        )
        if train and not has_truth:
            raise InstructionError(
                f"example {example.get('image_id', '?')!r} has no {field!r} to learn from"
            )
        if train and self.answering.answers is not None:
            self.answering.answers.check(str(example[field]))
        features, prompt_length = self.answering.shape_target(features, lengths)
        weights = np.full(
            features["targets"].shape, self.loss_weight * example.get("confidence", 1.0), np.float32
        )
        weights[: prompt_length if has_truth else None] = 0.0
        if skipped := example.get("loss_skip_prefix", 0):
            # SPEC 4.3.1: the last target token (eos) is trained even where the prefix covers it.
            last = weights[-1]
            weights[:skipped] = 0.0
            weights[-1] = last
        features["loss_weights"] = weights
        features["decoder_inputs"] = np.concatenate(
            [np.array([vocab.BOS_ID], np.int32), features["targets"][:-1]]
        )
        unscored, unread = example.get(UNSCORED_WORDS, ()), example.get(UNREAD_WORDS, ())
        if train and (unscored or unread):
            texts = (vocab.NUM_SPECIALS, tokenizer.layout.code_start)
            features = hide_words(features, unscored, unread, tokenizer, texts, rng)
        if train and self.answering.decoder_input_noise:
            features["decoder_inputs"] = self.answering.with_noise(
                features["decoder_inputs"], tokenizer.layout.code_start, rng
            )
        return features

    def has_truth(self, example: Example) -> bool:
        """Whether a prepared example holds what the model should say; rows of test splits do not.

        A box of zeros is none. An image without objects counts, where its labels were looked for.
        """
        value = example.get(self.instructions[0].target_slot.field)
        if value is None:
            return False
        if self.target_modality == "BOXES":
            return "labels" in example
        if self.target_modality == "BOX":
            return bool(np.any(value))
        return bool(value.strip() if isinstance(value, str) else np.size(value))

    def empty_prompt(self) -> tuple[int, ...] | None:
        """Ids of the source without its texts; None where training never left them out."""
        if not self.answering.empty_prompts:
            return None
        return self.instructions[0].empty_prompt(self.tokenizer())

    def candidate_ids(self) -> tuple[tuple[int, ...], ...]:
        """Ids of each answer of the closed set, in order, without bos and eos.

        Raises:
          ValueError: the task has no closed set, or see `answer_ids`.
        """
        if self.answering.answers is None:
            raise ValueError(f"task {self.name!r} has no list of answers")
        prefix = "".join(p for p in self.instructions[0].target if isinstance(p, str))
        try:
            return answer_ids(
                self.answering.answers.load(), self.tokenizer(), prefix, self.answering.max_tokens
            )
        except ValueError as error:
            raise ValueError(f"task {self.name!r}: {error}") from error

    def rng(self, seed: int, epoch: int, index: int) -> np.random.Generator:
        """Generator of one example: a pure function of seed, task, epoch and record index.

        OFA-NOTE: SPEC 4.4. The official code gives every example of an epoch the same draws.
        """
        entropy = (seed, zlib.crc32(self.name.encode()), epoch, index)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))

    def read(
        self,
        records: Records,
        index: int,
        lengths: Lengths,
        *,
        seed: int,
        epoch: int = 0,
        train: bool = True,
        truncated_images: str = "",
        notes: list[str] | None = None,
        prepared: list[Example] | None = None,
    ) -> Features:
        """Reads, prepares and encodes one record; see `prepared`.

        Args:
          records: an open split.
          index: number of the record.
          lengths: task feature lengths.
          seed: of the example's generator.
          epoch: likewise.
          train: see `prepared`.
          truncated_images: see `prepared`.
          notes: gets a line where the image is cut off and was decoded.
          prepared: gets the prepared example.

        Returns:
          See `features`.

        Raises:
          InstructionError: the example does not fit the task; the message names task and record.
        """
        rng = self.rng(seed, epoch, index)
        try:
            example = self.prepared(
                records[index], rng, lengths, train=train, truncated_images=truncated_images
            )
            if prepared is not None:
                prepared.append(example)
            if notes is not None and example.get(IS_TRUNCATED):
                notes.append(f"task {self.name!r}, record {index}: its image is cut off")
            return self.features(example, rng, lengths, train=train)
        except KeyError as error:
            raise InstructionError(
                f"task {self.name!r}, record {index}: its preparation finds no field {error}"
            ) from error
        except ValueError as error:
            raise InstructionError(f"task {self.name!r}, record {index}: {error}") from error


def check_lengths(
    task: OFATask,
    lengths: Lengths,
    *,
    split: str,
    seed: int,
    samples: int = 32,
    skip_bad: bool = False,
    truncated_images: str = "",
) -> None:
    """Fails early where a task's sequences do not fit.

    Args:
      lengths: task feature lengths.
      split: the split to look at.
      seed: seed of the examples.
      samples: how many records to encode.
      skip_bad: whether to pass over records that do not fit the task, as training then does; a
        quarter or more of them is told in the log.
      truncated_images: see `OFATask.prepared`.

    Raises:
      InstructionError: a record does not fit the task.
      ValueError: a source or target is longer than its length, or leaves no room for the text of
        text infilling; the message names both and what would fit.
    """
    records = task.source.open(split)
    longest = {"inputs": 0, "targets": 0}
    if task.masks_text:
        rooms = (one.room_for_text(task.tokenizer(), 0) for one in task.instructions)
        longest = {"inputs": 1 - min(rooms), "targets": 2}
        _refuse_short(task, lengths, longest)
    bad: list[str] = []
    count = min(samples, len(records))
    for index in np.linspace(0, len(records) - 1, count).astype(int):
        try:
            features = task.read(
                records, int(index), lengths, seed=seed, truncated_images=truncated_images
            )
        except InstructionError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
            continue
        for key in longest:
            longest[key] = max(longest[key], len(features[key]))
    if 4 * len(bad) >= count > 0:
        logger.warning(
            "%s: %d of %d records that were looked at will be skipped, such as %s",
            task.name, len(bad), count, bad[0],
        )  # fmt: skip
    _refuse_short(task, lengths, longest)


def _refuse_short(task: OFATask, lengths: Lengths, longest: Lengths) -> None:
    for key, needed in longest.items():
        if needed > lengths[key]:
            raise ValueError(
                f"task_feature_lengths[{key!r}] = {lengths[key]} is too short for task "
                f"{task.name!r}: its {key} need {needed} tokens or more"
            )


@dataclasses.dataclass(frozen=True)
class TaskSet:
    """Tasks that one model learns or answers together.

    Attributes:
      tasks: tasks of the mixture, of positive rate.
      rates: their rates.
      unseen: tasks that are only evaluated.
      lengths: task feature lengths.
      tokenizer: the one tokenizer of all of them.
    """

    tasks: tuple[OFATask, ...]
    rates: tuple[float, ...]
    unseen: tuple[OFATask, ...]
    lengths: Lengths
    tokenizer: Tokenizer

    @functools.cached_property
    def names(self) -> list[str]:
        """Names by task id, as they stand in logs: families where those are unique.

        A task that differs in training only from one of its family is named by its variant.
        """
        scored = {task.name: task.family for task in told_apart(self.tasks)}
        if len(set(scored.values())) < len(scored):
            return [task.name for task in self.tasks]
        return [task.family if task.name in scored else task.variant for task in self.tasks]

    @property
    def scored(self) -> tuple[tuple[str, OFATask], ...]:
        """Name and task of those that evaluation can tell apart."""
        scored = [task.name for task in told_apart(self.tasks)]
        return tuple(pair for pair in zip(self.names, self.tasks) if pair[1].name in scored)


def told_apart(tasks: Sequence[OFATask]) -> list[OFATask]:
    """The tasks that evaluation can tell apart.

    Of those that differ in training only it is the one whose training is as its evaluation, else
    the first.
    """
    out = []
    for task in tasks:
        alike = [other for other in tasks if other.in_evaluation() == task.in_evaluation()]
        plain = (other for other in alike if other.prepare == other.steps(train=False))
        if next(plain, alike[0]) is task:
            out.append(task)
    return out


def image_tokenizer_of(task: OFATask, name: str = "") -> ImageTokenizer | None:
    """The image tokenizer that shows a task's codes as images, or None.

    Args:
      task: its preparation may encode images itself; then that tokenizer is the right one.
      name: otherwise the one that made its data, see `load_image_tokenizer`; "" is none.

    Raises:
      ValueError: the named one cannot be loaded.
    """
    for step in task.prepare:
        if isinstance(step, EncodeImage):
            return step.tokenizer()
    return load_image_tokenizer(name) if name and task.target_modality == "CODE" else None
