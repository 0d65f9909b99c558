"""Between whoever asks and the model: which tasks there are, what is refused, what shares a batch.

The page and the HTTP interface make an `Asked` of what they are given and await its `Prediction`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import numpy as np
from PIL import Image

from ofa_jax import schema
from ofa_jax.atomic import JsonObject
from ofa_jax.data.ops.image import decode_picture, resize_square
from ofa_jax.data.ops.image_files import LargeImageError
from ofa_jax.data.ops.image_tokenizer import ImageTokenizer
from ofa_jax.data.steps.text import clean_caption, clean_question
from ofa_jax.data.tasks.answering import Answering
from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.demo.answers import as_data, drawn
from ofa_jax.demo.batching import Batcher
from ofa_jax.demo.settings import DemoSettings
from ofa_jax.inference.code_images import code_grid, with_center
from ofa_jax.inference.predictor import FREE_DECODING, REGION, OFAPredictor
from ofa_jax.inference.questions import Prediction, Question
from ofa_jax.report.images import enlarge
from ofa_jax.schema import Between

# The pretraining tasks of the released models (SPEC 4.3, 7.10), which bring no cards. Spaces count.
_OFFICIAL = {
    "captioning": "[IMAGE:image] what does the image describe? -> [TEXT:caption]",
    "vqa": "[IMAGE:image] [TEXT:question] -> [TEXT:answer]",
    "visual_grounding": (
        '[IMAGE:image] which region does the text " [TEXT:caption] " describe? -> [BOX:region]'
    ),
    "grounded_captioning": (
        "[IMAGE:image]  what does the region describe? region: [BOX:region] -> [TEXT:caption]"
    ),
    "grounded_vqa": "[IMAGE:image] [TEXT:question] region: [BOX:region] -> [TEXT:answer]",
    "detection": "[IMAGE:image] what are the objects in the image? -> [BOXES:boxes]",
    "text_infilling": (' what is the complete text of " [MASKED_TEXT:text] "? -> [TEXT:text]'),
    "image_infilling": (
        "[MASKED_IMAGE:image] what is the image in the middle part? -> [CODE:image_codes]"
    ),
    "text_to_image": " what is the complete image? caption: [TEXT:text] -> [CODE:image_codes]",
}
_CLEAN_UP = {"caption": clean_caption(), "question": clean_question()}
_LENGTHS = {"inputs": 128, "targets": 65}
# Beyond this many programs all are forgotten: whoever tries every setting fills no memory.
_MOST_PROGRAMS = 256
_MOST_ANSWERS = 64


@dataclasses.dataclass(frozen=True)
class AnswerSettings:
    """How an answer is found.

    Attributes:
      method: "task" = as the task's evaluation does, "beam" = beam search, "sampling" = drawn.
      best: answers with their probabilities.
      beams: of beam search.
      temperature: of sampling.
      top_k: sampling draws among so many likeliest tokens; 0 = among all.
      top_p: sampling draws among the likeliest tokens that make up this probability; 0 = off.
      seed: of sampling.
    """

    method: Literal["task", "beam", "sampling"] = "task"
    best: Annotated[int, Between(1, 10)] = 1
    beams: Annotated[int, Between(1, 10)] = 5
    temperature: Annotated[float, Between(0.05, 5)] = 1.0
    top_k: Annotated[int, Between(0, 10_000)] = 0
    top_p: Annotated[float, Between(0, 1)] = 0.0
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0

    def __post_init__(self) -> None:
        schema.check(self, "")


@dataclasses.dataclass(frozen=True)
class Asked:
    """One question.

    Attributes:
      task: name or family of a task; "" for a free instruction.
      image: uint8[y, x, 3].
      instruction: the free instruction.
      region: x0, y0, x1, y1 in pixels of the image.
      fields: texts that the task reads.
      answers: the only allowed answers; () allows all.
      settings: how the answer is found.
    """

    task: str = ""
    image: np.ndarray | None = None
    instruction: str = ""
    region: tuple[float, ...] | None = None
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    answers: tuple[str, ...] = ()
    settings: AnswerSettings = AnswerSettings()


@dataclasses.dataclass(frozen=True)
class Answered:
    """The answer to one question.

    Attributes:
      data: see `as_data`.
      image: with the boxes of the answer, or the image that it means; None for others.
    """

    data: JsonObject
    image: Image.Image | None


class TooLargeError(ValueError):
    """A file or an image beyond the limits."""


class BusyError(RuntimeError):
    """So many questions wait that no more are taken."""


class DemoModel:
    """A model with its tasks, its limits and its queue.

    Attributes:
      predictor: the model.
      settings: of the demo.
      image_tokenizer: makes images of codes; None where there is none.
      cards: the tasks that can be asked, by family where that is unique, else by name.
    """

    def __init__(
        self,
        predictor: OFAPredictor,
        settings: DemoSettings,
        image_tokenizer: ImageTokenizer | None = None,
    ) -> None:
        """Starts the thread that answers.

        Args:
          predictor: the model; without cards it gets those of the released models.
          settings: of the demo.
          image_tokenizer: of the model's codes.
        """
        self.predictor = predictor
        self.settings = settings
        self.image_tokenizer = image_tokenizer
        cards = predictor.cards or _official_cards(predictor)
        if image_tokenizer is None:
            cards = tuple(card for card in cards if not _makes_images(card))
        families = [card.family for card in cards]
        self.cards = {
            card.family if families.count(card.family) == 1 else card.name: card for card in cards
        }
        self._open = 0
        self._decoded = asyncio.Semaphore(2 * settings.batch_size)
        self._programs: set[Hashable] = set()
        self._batcher = Batcher(self._answer, batch_size=settings.batch_size)

    async def ask(
        self, asked: Asked, file: bytes | None = None, uncertain_below: float | None = None
    ) -> Answered:
        """Answers one question, in a batch with others that arrive meanwhile.

        Args:
          asked: without its image.
          file: contents of an image file; None for a question about text alone.
          uncertain_below: see `as_data`; None = as the settings say.

        Raises:
          ValueError: what is asked cannot be; the message is for the asker.
          TooLargeError: a file or an image beyond the limits.
          BusyError: too many wait.
        """
        if self._open >= self.settings.max_waiting:
            raise BusyError(f"{self._open} questions wait already; ask again in a moment")
        self._open += 1
        try:
            # Who waits holds a file, not its pixels.
            async with self._decoded:
                if file is not None:
                    image = await asyncio.to_thread(self._decode, file)
                    asked = dataclasses.replace(asked, image=image)
                prediction = await self._predict(asked)
                if uncertain_below is None:
                    uncertain_below = self.settings.uncertain_below
                data = as_data(prediction, uncertain_below)
                image = await asyncio.to_thread(self._image, asked, prediction, data)
                return Answered(data, image)
        finally:
            self._open -= 1

    def makes_images(self, task: str) -> bool:
        """Whether the answers of a task are images, in codes."""
        return task in self.cards and _makes_images(self.cards[task])

    def close(self) -> None:
        """Ends the thread."""
        self._batcher.close()

    def _decode(self, data: bytes) -> np.ndarray:
        """Pixels uint8[y, x, 3] of an uploaded file, upright."""
        if len(data) > self.settings.max_file_bytes:
            most = self.settings.max_file_mb
            raise TooLargeError(
                f"the file has {len(data) / 1e6:.1f} MB; at most {most:g} are taken"
            )
        pixels = int(self.settings.max_megapixels * 1e6)
        try:
            picture = decode_picture(data, pixels, upright=True, truncated="decode")
        except LargeImageError as error:
            raise TooLargeError(f"the image is too large: {error}") from error
        except ValueError as error:
            raise ValueError(f"the image cannot be read: {error}") from error
        return np.asarray(picture.pillow)

    async def _predict(self, asked: Asked) -> Prediction:
        card = self._checked(asked)
        key = (asked.task, asked.image is None, asked.answers, asked.settings)
        question = Question(asked.image, asked.instruction, asked.region, dict(asked.fields))
        # What is drawn depends on the place in a batch; alone, a seed gives the same again.
        drawn_alone = asked.settings.method == "sampling" or (
            card is not None and card.answering.method == "sampling"
        )
        return await asyncio.wrap_future(self._batcher.submit(key, question, alone=drawn_alone))

    def _image(self, asked: Asked, prediction: Prediction, data: JsonObject) -> Image.Image | None:
        """What an answer looks like: the image that it means in codes, or its boxes, or None."""
        if not self.makes_images(asked.task) or self.image_tokenizer is None:
            return None if asked.image is None else drawn(asked.image, data)
        start = self.predictor.tokenizer.layout.code_start
        codes = np.array(prediction.token_ids, np.int32) - start
        made = self.image_tokenizer.decode(code_grid(codes, self.image_tokenizer))
        if asked.image is not None:
            side = max(self.predictor.image_size, 2 * made.shape[0])
            made = with_center(resize_square(asked.image, side), made)
        return enlarge(Image.fromarray(made), reduce=False)

    def _checked(self, asked: Asked) -> TaskCard | None:
        texts = [asked.instruction, *asked.fields.values(), *asked.answers]
        longest, most = max(map(len, texts)), self.settings.max_characters
        if longest > most:
            raise ValueError(f"a text has {longest} characters; at most {most} are taken")
        if len(asked.answers) > _MOST_ANSWERS:
            raise ValueError(f"at most {_MOST_ANSWERS} allowed answers, got {len(asked.answers)}")
        if asked.region is not None:
            if asked.image is None:
                raise ValueError("a region needs its image")
            self.predictor.check_region(asked.image, asked.region)
        if not asked.task:
            if not asked.instruction.strip():
                raise ValueError("the instruction is empty; say what the model should do")
            if (asked.region is None) == (REGION in asked.instruction):
                raise ValueError(f"a region takes the place of {REGION} in the instruction")
            return None
        schema.require_known("task", asked.task, self.cards)
        card = self.cards[asked.task]
        named = f"task {asked.task!r}"
        if (card.instruction.image_slot is None) != (asked.image is None):
            raise ValueError(
                f"{named} reads no image" if asked.image is not None else f"{named} needs an image"
            )
        if "region" in card.fields and asked.region is None:
            raise ValueError(f"{named} needs a region: draw it, or write x0,y0,x1,y1 in pixels")
        for name in card.fields:
            if name != "region" and not asked.fields.get(name, "").strip():
                raise ValueError(f"{named} needs a {name}")
        read = card.lengths["inputs"] - 2
        for name, text in asked.fields.items():
            tokens = len(self.predictor.tokenizer.encode_text(" " + text))
            if tokens > read:
                raise ValueError(f"the {name} has {tokens} tokens; {named} reads at most {read}")
        return card

    def _answer(self, key: Any, questions: Sequence[Question]) -> list[Prediction]:
        program = (*key, len(questions))
        if len(self._programs) >= _MOST_PROGRAMS and program not in self._programs:
            jax.clear_caches()
            self._programs.clear()
        self._programs.add(program)
        task, _, answers, settings = key
        card = self.cards.get(task, "")
        return self.predictor.answer(
            questions,
            card,
            decoding=_decoding(card, settings),
            answers=answers,
            # Every allowed answer is scored, so that each has its probability.
            method="candidates" if answers else "",
            best=settings.best,
            seed=settings.seed,
        )


def _makes_images(card: TaskCard) -> bool:
    return card.instruction.target_slot.modality == "CODE"


def _decoding(card: TaskCard | str, settings: AnswerSettings) -> BeamConfig | SamplingConfig | None:
    """The settings that replace the task's own; None keeps those."""
    if settings.method == "task":
        return None
    given: JsonObject = {"max_len_b": FREE_DECODING["max_len_b"]}
    if isinstance(card, TaskCard):
        given = {"max_len_b": card.lengths["targets"] - 1, **card.answering.decoding}
    else:
        given = dict(FREE_DECODING)
    config_class: type[BeamConfig] | type[SamplingConfig] = BeamConfig
    given["beam"] = settings.beams
    if settings.method == "sampling":
        config_class = SamplingConfig
        given |= {name: getattr(settings, name) for name in ("temperature", "top_k", "top_p")}
        given["samples"] = settings.best
    names = inspect.signature(config_class).parameters
    return config_class(**{name: value for name, value in given.items() if name in names})


def _official_cards(predictor: OFAPredictor) -> tuple[TaskCard, ...]:
    """The tasks of a released model, as far as it has been told what its images are."""
    most = predictor.config.max_positions
    lengths = {name: min(length, most) for name, length in _LENGTHS.items()}
    lengths["image"] = predictor.image_size
    made = []
    for family, line in _OFFICIAL.items():
        instruction = Instruction.parse(line)
        decoding, method = {k: v for k, v in FREE_DECODING.items() if k != "max_len_b"}, "search"
        prompt = predictor.decoder_prompt
        if instruction.target_slot.modality == "CODE":
            # The likeliest 256 codes at each place (SPEC 7.9).
            decoding, method, prompt = {"top_k": 256}, "sampling", "none"
        answering = Answering(
            decoder_prompt=prompt,
            max_tokens=None if prompt == "none" else lengths["targets"] // 2,
            method=method,
            decoding=decoding,
        )
        cleaned = tuple(step for field, step in _CLEAN_UP.items() if f"[TEXT:{field}] " in line)
        made.append(TaskCard(family, family, instruction, lengths, answering, cleaned))
    return tuple(made)
