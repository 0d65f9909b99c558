"""A model to talk to: weights, tokenizer and decoding behind one class.

    model = ofa_jax.load("OFA-Sys/ofa-base")
    print(model.generate("street.jpg", "what does the image describe?"))
    print(model.generate("street.jpg", 'which region does the text " a bus " describe?').box)

A free instruction is plain text whose spaces reach the tokenizer as they are (SPEC 8.14). A task
that the model was trained on is asked by its name: instruction, clean-up, prompt, closed set and
lengths are then those of its evaluation, and so is the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.typing import VariableDict
from PIL import Image

from ofa_jax.data.ops.augment import square_with_boxes
from ofa_jax.data.ops.boxes import as_boxes
from ofa_jax.data.ops.image import Given, image_size, read_image
from ofa_jax.data.ops.image_tokenizer import ImageTokenizer, check_codes
from ofa_jax.data.sources.values import number
from ofa_jax.data.tasks.answering import Answering, AnswerList, answer_ids
from ofa_jax.data.tasks.card import TaskCard, find_card
from ofa_jax.data.tasks.features import FeatureRow, stack_rows
from ofa_jax.data.tasks.instruction import trim_at_eos
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import Constraint
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.inference.answerer import Answerer, Recipe
from ofa_jax.inference.code_images import decoded_images
from ofa_jax.inference.questions import Box, Prediction, Question
from ofa_jax.inference.ranked_images import MatchingRanker, clip_ranker
from ofa_jax.metrics.generation import Extractors
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.sharding.layout import MeshLayout
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.vocab import BOS_ID, EOS_ID, PAD_ID

__all__ = ["FREE_DECODING", "OFFICIAL_IMAGE_SIZE", "REGION", "OFAPredictor"]

# The captioning resolution of the released models (SPEC 8.1).
OFFICIAL_IMAGE_SIZE = 480
# Takes the place of a region in a free instruction.
REGION = "{region}"
FREE_DECODING: Mapping[str, Any] = {"beam": 5, "max_len_b": 64, "no_repeat_ngram_size": 3}
"""Decoding of free instructions; a task has its own."""
OFFICIAL_DRAWING: Mapping[str, Any] = {"top_k": 256}
"""Codes are drawn among the 256 likeliest at each place (SPEC 7.9)."""
# Where no task of the model says it (SPEC 8.5).
TEXT_TO_IMAGE = "what is the complete image? caption:"
# Instructions are padded to a multiple of this, so that few programs are compiled.
_LENGTH_STEP = 16


class OFAPredictor:
    """A model with its tokenizer, ready to answer.

    Nothing changes while it answers, so several threads may use one: each gets the answers that it
    would get alone, whatever the others ask.

    Attributes:
      config: the model's configuration.
      tokenizer: text, codes and bins.
      image_size: side in pixels of the square that images are stretched to.
      decoding: settings of free instructions.
      cards: the tasks that it can be asked by name.
      decoder_prompt: what the decoder reads first where nothing else is said.
      image_tokenizer: turns codes into pixels, or None.
    """

    def __init__(
        self,
        config: OFAConfig,
        variables: VariableDict,
        tokenizer: Tokenizer,
        *,
        image_size: int | None = None,
        decoding: BeamConfig | SamplingConfig | None = None,
        cards: Sequence[TaskCard] = (),
        decoder_prompt: str = "",
        image_tokenizer: ImageTokenizer | None = None,
        layout: MeshLayout | None = None,
    ) -> None:
        """Puts the parts together and the weights on the devices.

        Args:
          config: the model.
          variables: {"params", "batch_stats"}.
          tokenizer: its layout must have `config.vocab_size` ids.
          image_size: side in pixels; None = that of the cards, else 480, or
            `config.orig_patch_image_size` for models whose position grid is smaller than that.
          decoding: None = `FREE_DECODING`.
          cards: tasks that the model was trained on.
          decoder_prompt: what the decoder reads first, see `answer`; "" = as all tasks want it,
            or nothing.
          image_tokenizer: of the model's codes, if there is one.
          layout: devices; None = one.

        Raises:
          ValueError: vocabulary or image size do not fit the model.
        """
        if tokenizer.layout.size != config.vocab_size:
            raise ValueError(
                f"the vocabulary has {tokenizer.layout.size} ids, the model {config.vocab_size}; "
                "they belong to different models"
            )
        largest = config.image_bucket_size * config.resnet.stride
        if image_size is None:
            fits = largest >= OFFICIAL_IMAGE_SIZE
            image_size = OFFICIAL_IMAGE_SIZE if fits else config.orig_patch_image_size
            # 0 is no size: of a card that nobody has trained on.
            sizes = (card.lengths["image"] for card in cards)
            image_size = next((size for size in sizes if size), image_size)
        if not 0 < image_size <= largest:
            raise ValueError(
                f"image_size must be 1 .. {largest} pixels for this model, got {image_size}"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.image_tokenizer = image_tokenizer
        self.decoding = decoding or BeamConfig(**FREE_DECODING)
        # An image size of one's own is also that of the tasks.
        self.cards = tuple(
            dataclasses.replace(card, lengths={**card.lengths, "image": image_size})
            for card in cards
        )
        prompts = {card.answering.decoder_prompt for card in self.cards}
        self.decoder_prompt = decoder_prompt or (prompts.pop() if len(prompts) == 1 else "none")
        self._layout = layout or MeshLayout.local(1)
        self._variables = self._layout.replicate(dict(variables))

    def check_batch(self, batch_size: int, setting: str) -> None:
        """Fails where a batch does not divide over the devices.

        Raises:
          ValueError: names the setting.
        """
        self._layout.check_batch(batch_size, setting)

    def region(self, box: Sequence[float], image: Given) -> str:
        """A region of an image as it is written in an instruction.

        Args:
          box: x0, y0, x1, y1 in pixels of the image.
          image: the image it belongs to.

        Returns:
          Four bins, such as "<bin_12> <bin_40> <bin_500> <bin_612>".

        Raises:
          ValueError: the region is not inside the image.
        """
        _, inside = self._square(read_image(image), box)
        return " ".join(self.tokenizer.symbol(i) for i in self.tokenizer.encode_box(inside))

    def generate(
        self,
        image: Given | None,
        instruction: str = "",
        *,
        task: str | TaskCard = "",
        region: Sequence[float] | None = None,
        fields: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Prediction:
        """Answers one question.

        Args:
          image: path, uint8[y, x, 3] or PIL image; None for a question about text alone.
          instruction: what to do; without it and without a task, "what does the image describe?".
          task: name of a task that the model was trained on, or its card, in the place of an
            instruction.
          region: x0, y0, x1, y1 in pixels of the image; see `Question`.
          fields: what else the task reads.
          **options: see `answer`.

        Returns:
          The best answer.

        Raises:
          FileNotFoundError: no such image file.
          ValueError: see `answer`.
        """
        if not task:
            instruction = instruction or "what does the image describe?"
        question = Question(image, instruction, region, fields or {})
        return self.answer([question], task, **options)[0]

    def generate_batch(
        self, images: Sequence[Given | None], instructions: Sequence[str], **options: Any
    ) -> list[Prediction]:
        """Answers several free instructions at once.

        Args:
          images: one per instruction, some or all None.
          instructions: as many.
          **options: see `answer`.

        Returns:
          One prediction per instruction.

        Raises:
          ValueError: the numbers of images and instructions differ; see also `answer`.
        """
        if len(images) != len(instructions) or not images:
            raise ValueError(
                f"one image (or None) per instruction is needed, got {len(images)} images and "
                f"{len(instructions)} instructions"
            )
        return self.answer([Question(*pair) for pair in zip(images, instructions)], **options)

    def answer(
        self,
        questions: Sequence[Question],
        task: str | TaskCard = "",
        *,
        decoding: BeamConfig | SamplingConfig | None = None,
        answers: Sequence[str] = (),
        method: str = "",
        constraint: Constraint | None = None,
        decoder_prompt: str = "",
        best: int = 1,
        min_box_probability: float = 0.0,
        seed: int = 0,
        number: int = 0,
    ) -> list[Prediction]:
        """Answers a batch of questions, all of one task or all free.

        Args:
          questions: what is asked.
          task: name or card of the task of all of them; "" for free instructions.
          decoding: settings in the place of the task's own, or of `self.decoding`.
          answers: the only allowed answers.
          method: of a closed set: "search" or "candidates" (every answer is scored); "" = as the
            task, or the tasks of this model, do.
          constraint: what may be generated, where it is no list of answers.
          decoder_prompt: what the decoder reads first: "none", "source" (models fine-tuned for
            VQA or SNLI-VE) or "source_and_eos" (GLUE); "" = as the tasks of this model want it.
          best: answers per question; beams or samples beyond the settings' own are added.
          min_box_probability: a box that is less probable counts as not found: `box` is None.
          seed: of sampling.
          number: of this batch among several, which sampling folds into its key.

        Returns:
          One prediction per question, the next best answers as its `alternatives`.

        Raises:
          ValueError: no question, an empty or too long instruction, bins that do not exist, a
            region outside its image, an unknown task or a field that it lacks.
        """
        if not questions:
            raise ValueError("no question")
        card = task if isinstance(task, TaskCard) else None
        if isinstance(task, str) and task:
            card = find_card(self.cards, task)
        pixels = [None if q.image is None else read_image(q.image) for q in questions]
        if card is None:
            rows = self._free_rows(questions, pixels)
        else:
            rows = stack_rows(
                self._card_row(card, question, image) for question, image in zip(questions, pixels)
            )
        recipe = self._recipe(card, decoding, answers, method, constraint, decoder_prompt, best)
        found = self._answerer(seed)(self._variables, recipe, rows, number, best=best)
        by_token = found.token_log_probabilities
        predictions = []
        for row, image in enumerate(pixels):
            ranked = [
                self._prediction(
                    card,
                    trim_at_eos(found.tokens[row, place]),
                    float(found.scores[row, place]),
                    float(found.log_probabilities[row, place]),
                    None if by_token is None else by_token[row, place],
                    None if image is None else image_size(image),
                    min_box_probability,
                )
                for place in range(found.tokens.shape[1])
                if place == 0 or np.isfinite(found.scores[row, place])
            ]
            predictions.append(dataclasses.replace(ranked[0], alternatives=tuple(ranked[1:])))
        return predictions

    def generate_codes(
        self,
        instruction: str,
        image: Given | None = None,
        *,
        decoding: BeamConfig | SamplingConfig | None = None,
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Answers one instruction with image codes: a whole image, or the middle of one.

        Args:
          instruction: such as "what is the complete image? caption: a red bus".
          image: path, uint8[y, x, 3] or PIL image whose central half is hidden and asked for.
          decoding: None = `self.image_decoding`, for a middle `OFFICIAL_DRAWING`. Lengths are not
            read: there are always as many codes as the model's images have.
          seed: of sampling.

        Returns:
          (int32[g, grid_y, grid_x] codes of the samples or beams, the likeliest first;
          float32[g] their log-probabilities).

        Raises:
          FileNotFoundError: no such image file.
          ValueError: the model has no image codes; see also `answer`.
        """
        layout, side = self.tokenizer.layout, self.config.code_window
        if not layout.num_codes:
            raise ValueError("this model has no image codes in its vocabulary")
        card = self._image_card() if image is None else None
        rows: FeatureRow = {"encoder_input_tokens": self._tokens([instruction])}
        if image is not None:
            rows["encoder_images"] = self._square(read_image(image))[0][None]
            low, high = self.image_size // 4, self.image_size // 4 * 3
            rows["encoder_image_holes"] = np.array([[low, low, high, high]], np.int32)
        default = self.image_decoding if image is None else OFFICIAL_DRAWING
        settings = decoding or SamplingConfig(**default)
        empty = None if card is None else card.task(self.tokenizer).empty_prompt()
        recipe = Recipe(_answering(settings), codes=True, empty_prompt=empty)
        count = settings.samples if isinstance(settings, SamplingConfig) else settings.beam
        found = self._answerer(seed)(self._variables, recipe, rows, best=count)
        tokens = found.tokens[0, :, : side**2]
        return (tokens - layout.code_start).reshape(-1, side, side), found.scores[0]

    def generate_image(
        self,
        text: str,
        *,
        count: int = 1,
        candidates: int = 0,
        decoding: SamplingConfig | None = None,
        image_tokenizer: ImageTokenizer | None = None,
        extractors: Extractors | None = None,
        seed: int = 0,
    ) -> list[Image.Image]:
        """Makes images of a text.

        Args:
          text: what they show, such as "a red circle left of a blue square".
          count: images wanted.
          candidates: images that are drawn, of which the best are returned; 0 = as the model's task
            says, at least `count`. CLIP chooses where it is given, else the model's own matching
            answer where it has been trained on image-text matching, else the probability.
          decoding: top-k, top-p, temperature, guidance; None = `image_decoding`.
          image_tokenizer: of the model's codes; None = `self.image_tokenizer`.
          extractors: CLIP's networks.
          seed: of sampling.

        Returns:
          RGB images, the best first.

        Raises:
          ValueError: an empty text, no image tokenizer, one of more codes than the model has, or
            guidance of a model that was never trained with empty prompts.
        """
        if not text.strip():
            raise ValueError("the text is empty; say what the image should show")
        pixels = image_tokenizer or self.image_tokenizer
        if pixels is None:
            raise ValueError(
                "this model has no image tokenizer beside it; give one: image_tokenizer="
                'ofa_jax.data.ops.image_tokenizer.load_image_tokenizer("vqgan/last.ckpt")'
            )
        check_codes(pixels, self.tokenizer.layout.num_codes)
        card = self._image_card()
        decoding = decoding or SamplingConfig(**self.image_decoding)
        drawn = max(candidates or decoding.samples, count)
        decoding = dataclasses.replace(decoding, samples=drawn)
        lead = TEXT_TO_IMAGE if card is None else str(card.instruction.source[0]).rstrip()
        codes, _ = self.generate_codes(f"{lead} {text.strip()}", decoding=decoding, seed=seed)
        images = np.stack(list(decoded_images(codes.reshape(drawn, -1), pixels)))
        ranker = clip_ranker(extractors) if extractors else None
        matching = [card for card in self.cards if card.family == "image_text_matching"]
        if ranker is None and matching:
            ranker = MatchingRanker(
                self._answerer(seed), self._variables, matching[0].instruction, self.image_size
            )
        if ranker is not None and drawn > 1:
            [scores] = ranker(images[None], [text.strip()])
            images = images[np.argsort(-scores, kind="stable")]
        return [Image.fromarray(image) for image in images[:count]]

    @property
    def image_decoding(self) -> Mapping[str, Any]:
        """How codes of whole images are drawn: as the task says, else officially."""
        card = self._image_card()
        return OFFICIAL_DRAWING if card is None else card.answering.decoding

    def _image_card(self) -> TaskCard | None:
        """The task of whole images that the model was trained on, if there is one."""
        return next((card for card in self.cards if card.makes_whole_images), None)

    def _answerer(self, seed: int) -> Answerer:
        return Answerer(OFA(self.config), self.tokenizer, self._layout, seed=seed)

    def _recipe(
        self,
        card: TaskCard | None,
        decoding: BeamConfig | SamplingConfig | None,
        answers: Sequence[str],
        method: str,
        constraint: Constraint | None,
        decoder_prompt: str,
        best: int,
    ) -> Recipe:
        """The recipe of a task, or of free instructions, with what this call changes."""
        if card is not None:
            answering, codes = card.answering, card.instruction.target_slot.modality == "CODE"
            prefix = "".join(p for p in card.instruction.target if isinstance(p, str))
            longest = card.lengths["targets"] - 1
        else:
            answering, codes, prefix = _answering(self.decoding), False, " "
            longest = int(answering.decoding["max_len_b"])
            closed = [c.answering for c in self.cards if c.answering.answers is not None]
            if answers and len(closed) == 1:
                names = ("method", "renormalize", "ends_with_eos")
                own = {name: getattr(closed[0], name) for name in names}
                answering = dataclasses.replace(answering, answers=closed[0].answers, **own)
        changes: dict[str, Any] = {}
        if decoding is not None:
            given = _answering(decoding)
            changes = {"decoding": given.decoding}
            if answering.method != "candidates":
                changes["method"] = given.method
        if answers:
            changes["answers"] = AnswerList(tuple(answers))
        if method:
            changes["method"] = method
        prompt = decoder_prompt or (self.decoder_prompt if card is None else "")
        if prompt:
            changes |= {"decoder_prompt": prompt, "max_tokens": answering.max_tokens or longest}
        answering = dataclasses.replace(answering, **changes)
        room = None if card is None else card.lengths["targets"] - (answering.max_tokens or 0)
        name = "samples" if answering.method == "sampling" else "beam"
        if best > dict(answering.decoding).get(name, 1):
            answering = dataclasses.replace(answering, decoding={**answering.decoding, name: best})
        candidates = None
        if answering.answers is not None:
            limit = answering.decoding.get("max_len_b", answering.max_tokens or longest)
            candidates = answer_ids(answering.answers.load(), self.tokenizer, prefix, limit)
        empty = None if card is None else card.task(self.tokenizer).empty_prompt()
        return Recipe(answering, longest, room, codes, candidates, constraint, empty)

    def _square(
        self, pixels: np.ndarray, box: Sequence[float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The model's input uint8[y, x, 3], and a region float32[4] moved with it."""
        self.check_region(pixels, box)
        given = as_boxes([] if box is None else [box])
        image, moved = square_with_boxes(pixels, given, self.image_size)
        return image, moved[0] if len(moved) else np.zeros(4, np.float32)

    def check_region(self, pixels: np.ndarray, box: Sequence[float] | None) -> None:
        """Fails where a region is not inside its image.

        Args:
          pixels: uint8[y, x, 3].
          box: x0, y0, x1, y1 in its pixels; None is always right.

        Raises:
          ValueError: names the region and the image's size.
        """
        if box is not None:
            width, height = image_size(pixels)
            values = [number(value, "a side of the region") for value in box]
            if len(values) != 4:
                raise ValueError(f"a region is x0, y0, x1, y1 in pixels, got {len(values)} numbers")
            x0, y0, x1, y1 = values
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise ValueError(
                    f"region {x0:g},{y0:g},{x1:g},{y1:g} is not inside the image of "
                    f"{width}x{height} pixels (left, top, right, bottom)"
                )

    def _card_row(
        self, card: TaskCard, question: Question, pixels: np.ndarray | None
    ) -> FeatureRow:
        if question.instruction:
            raise ValueError(
                f"task {card.name!r} has its own instruction; leave out {question.instruction!r}"
            )
        given = dict(question.fields)
        square = None
        if question.region is not None:
            if pixels is None:
                raise ValueError("a region needs its image")
            square, given["region"] = self._square(pixels, question.region)
        elif pixels is not None:
            square, _ = self._square(pixels)
        return card.row(self.tokenizer, square, given)

    def _free_rows(
        self, questions: Sequence[Question], pixels: Sequence[np.ndarray | None]
    ) -> FeatureRow:
        side, texts = self.image_size, []
        images = np.zeros((len(questions), side, side, 3), np.uint8)
        for row, (question, image) in enumerate(zip(questions, pixels)):
            text, square = question.instruction, None
            if question.fields:
                raise ValueError("fields belong to a task that is asked by its name")
            if (question.region is not None) != (REGION in text):
                raise ValueError(
                    f"a region and {REGION} in the instruction belong together, as in "
                    f"'what color is the car in the region? region: {REGION}'"
                )
            if image is not None:
                square, box = self._square(image, question.region)
                images[row] = square
                if question.region is not None:
                    bins = (self.tokenizer.symbol(i) for i in self.tokenizer.encode_box(box))
                    text = text.replace(REGION, " ".join(bins))
            elif question.region is not None:
                raise ValueError("a region needs its image")
            texts.append(text)
        rows: FeatureRow = {"encoder_input_tokens": self._tokens(texts)}
        if any(image is not None for image in pixels):
            rows["encoder_images"] = images
            rows["encoder_image_masks"] = np.array([image is not None for image in pixels])
        return rows

    def _tokens(self, instructions: Sequence[str]) -> np.ndarray:
        rows = []
        for instruction in instructions:
            if not instruction.strip():
                raise ValueError("the instruction is empty; say what the model should do")
            # Official instructions begin with a space; who writes none means one.
            text = instruction if instruction.startswith(" ") else f" {instruction}"
            rows.append([BOS_ID, *self.tokenizer.encode(text), EOS_ID])
        longest = max(map(len, rows))
        if longest > self.config.max_positions:
            raise ValueError(
                f"an instruction has {longest} tokens, the model reads {self.config.max_positions}"
            )
        length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self.config.max_positions)
        tokens = np.full((len(rows), length), PAD_ID, np.int32)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        return tokens

    def _prediction(
        self,
        card: TaskCard | None,
        ids: np.ndarray,
        score: float,
        log_probability: float,
        by_token: np.ndarray | None,
        size: tuple[int, int] | None,
        min_box_probability: float,
    ) -> Prediction:
        def in_image(inside: np.ndarray) -> Box:
            # Bins are pixels of the square model input (SPEC 4.5).
            assert size is not None
            x, y = size[0] / self.image_size, size[1] / self.image_size
            x0, y0, x1, y1 = (float(value) for value in inside)
            return x0 * x, y0 * y, x1 * x, y1 * y

        box = box_probability = None
        found: list[tuple[Box, str, float]] = []
        text = self.tokenizer.decode(ids).strip()
        if size is not None:
            inside = self.tokenizer.decode_box(ids)
            gains = None if by_token is None else by_token[: len(ids)]
            if gains is not None:
                box_probability = self.tokenizer.box_probability(ids, gains)
            if inside is not None and (box_probability or 1.0) >= min_box_probability:
                box = in_image(inside)
            if card is None or card.instruction.target_slot.modality == "BOXES":
                decoded = self.tokenizer.decode_objects(ids)
                sure = [1.0] * len(decoded)
                if gains is not None:
                    sure = self.tokenizer.object_probabilities(ids, gains)
                found = [
                    (in_image(place), label, probability)
                    for (place, label), probability in zip(decoded, sure)
                    if (label or card) and probability >= min_box_probability
                ]
        if card is not None and card.answering.clean is not None:
            text = card.answering.clean(text)
        tokens = tuple(int(i) for i in ids)
        return Prediction(
            text,
            box,
            score,
            tokens,
            log_probability,
            box_probability,
            objects=tuple((place, label) for place, label, _ in found),
            object_probabilities=() if by_token is None else tuple(p for *_, p in found),
        )


def _answering(settings: BeamConfig | SamplingConfig) -> Answering:
    """Free answers with these settings."""
    sampled = isinstance(settings, SamplingConfig)
    return Answering(
        method="sampling" if sampled else "search", decoding=dataclasses.asdict(settings)
    )
