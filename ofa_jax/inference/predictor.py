"""A model to talk to: weights, tokenizer and decoding behind one function.

    predictor = ofa_jax.inference.predictor.load("OFA-Sys/ofa-base")
    print(predictor.generate("street.jpg", "what does the image describe?"))
    print(predictor.generate("street.jpg", 'which region does the text " a bus " describe?').box)

The generic interface of OFA's demos (SPEC 8.14): the instruction is plain text, the image is
stretched to a square, the answer is whatever the model says; four bins are a box.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.vocabulary import open_vocabulary
from ofa_jax.data.answering import Answering
from ofa_jax.data.ops.image import image_size, read_image, resize_square
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import Constraint, IdRanges
from ofa_jax.decoding.generate import generate
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.vocab import BOS_ID, EOS_ID, PAD_ID

Picture = str | os.PathLike | np.ndarray | Image.Image

# The captioning resolution of the released models (SPEC 8.1).
OFFICIAL_IMAGE_SIZE = 480
# Instructions are padded to a multiple of this, so that few programs are compiled.
_LENGTH_STEP = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model answered.

    Attributes:
      text: the answer; whole tokens are written out (`<bin_3>`). `str()` gives it too.
      box: (x0, y0, x1, y1) in pixels of the given image, where the answer has four bins in a row
        and there was an image; else None.
      score: log-probability of the answer, normalised as the decoding settings say.
      token_ids: internal ids without EOS.
    """

    text: str
    box: tuple[float, float, float, float] | None
    score: float
    token_ids: tuple[int, ...]

    def __str__(self) -> str:
        return self.text


class OFAPredictor:
    """A model with its tokenizer, ready to answer.

    Attributes:
      config: the model's configuration.
      tokenizer: text, codes and bins.
      image_size: side in pixels of the square that images are stretched to.
      decoding: settings of beam search or sampling.
    """

    def __init__(
        self,
        config: OFAConfig,
        variables: Mapping[str, Any],
        tokenizer: Tokenizer,
        *,
        image_size: int | None = None,
        decoding: BeamConfig | SamplingConfig | None = None,
    ) -> None:
        """Puts the parts together and the weights on the device.

        Args:
          config: the model.
          variables: {"params", "batch_stats"}.
          tokenizer: its layout must have `config.vocab_size` ids.
          image_size: side in pixels; None = 480, or `config.orig_patch_image_size` for models
            whose position grid is smaller than that.
          decoding: None = beam search with 5 beams, at most 64 tokens, no repeated 3-grams.

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
        if not 0 < image_size <= largest:
            raise ValueError(
                f"image_size must be 1 .. {largest} pixels for this model, got {image_size}"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.decoding = decoding or BeamConfig(beam=5, max_len_b=64, no_repeat_ngram_size=3)
        self._model = OFA(config)
        self._variables = jax.tree.map(jax.numpy.asarray, dict(variables))
        self._place: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict

    def spread(
        self,
        replicate: Callable[[Any], Any],
        split: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        """Uses several devices from now on.

        Args:
          replicate: copies the weights to all of them.
          split: divides a batch over them; every batch must then have a size that they divide.
        """
        self._variables = replicate(self._variables)
        self._place = split

    def region(self, box: Sequence[float], image: Picture) -> str:
        """A region of an image as it is written in an instruction.

        Args:
          box: x0, y0, x1, y1 in pixels of the image.
          image: the image it belongs to.

        Returns:
          Four bins, such as "<bin_12> <bin_40> <bin_500> <bin_612>".
        """
        width, height = image_size(read_image(image))
        scale = np.array([width, height, width, height]) / self.image_size
        ids = self.tokenizer.encode_box(np.asarray(box, np.float64) / scale)
        return " ".join(self.tokenizer.symbol(i) for i in ids)

    def generate(
        self,
        image: Picture | None,
        instruction: str = "what does the image describe?",
        *,
        decoding: BeamConfig | SamplingConfig | None = None,
        constraint: Constraint | None = None,
        decoder_prompt: str = "none",
        seed: int = 0,
    ) -> Prediction:
        """Answers one instruction.

        Args:
          image: path, uint8[y, x, 3] or PIL image; None for a task of text alone.
          instruction: what to do; regions in it are four bins (`region` writes them).
          decoding: settings for this call.
          constraint: what may be answered (a trie of candidates, ranges of ids).
          decoder_prompt: what the decoder reads first: "none", "source" (models fine-tuned for
            VQA or SNLI-VE) or "source_and_eos" (GLUE).
          seed: of sampling.

        Returns:
          The best answer.

        Raises:
          FileNotFoundError: no such image file.
          ValueError: the instruction is empty, too long, or names bins that do not exist.
        """
        return self.generate_batch(
            [image],
            [instruction],
            decoding=decoding,
            constraint=constraint,
            decoder_prompt=decoder_prompt,
            seed=seed,
        )[0]

    def generate_batch(
        self,
        images: Sequence[Picture | None],
        instructions: Sequence[str],
        *,
        decoding: BeamConfig | SamplingConfig | None = None,
        constraint: Constraint | None = None,
        decoder_prompt: str = "none",
        seed: int = 0,
    ) -> list[Prediction]:
        """Answers several instructions at once; see `generate`.

        Args:
          images: one per instruction, some or all None.
          instructions: as many.
          decoding: see `generate`.
          constraint: see `generate`.
          decoder_prompt: see `generate`.
          seed: see `generate`.

        Returns:
          One prediction per instruction.

        Raises:
          ValueError: the numbers of images and instructions differ; see also `generate`.
        """
        if len(images) != len(instructions) or not images:
            raise ValueError(
                f"one image (or None) per instruction is needed, got {len(images)} images and "
                f"{len(instructions)} instructions"
            )
        tokens = self._tokens(instructions)
        batch: dict[str, Any] = {"encoder_input_tokens": tokens}
        prompts = Answering(decoder_prompt, max_tokens=1).prompts(tokens)
        if prompts is not None:
            batch["prefix"] = prompts
        sizes: list[tuple[int, int] | None] = [None] * len(images)
        if any(image is not None for image in images):
            side = self.image_size
            pixels = np.zeros((len(images), side, side, 3), np.uint8)
            for row, image in enumerate(images):
                if image is not None:
                    picture = read_image(image)
                    sizes[row] = image_size(picture)
                    pixels[row] = resize_square(picture, side)
            batch["encoder_images"] = pixels
            batch["encoder_image_masks"] = np.array([image is not None for image in images])
        placed = dict(self._place(batch))
        hypotheses = generate(
            self._model,
            self._variables,
            placed,
            decoding or self.decoding,
            constraint=constraint,
            prefix=placed.pop("prefix", None),
            rng=jax.random.key(seed),
        )
        answers = np.asarray(hypotheses.tokens[:, 0])
        scores = np.asarray(hypotheses.scores[:, 0])
        return [
            self._prediction(row, score, size) for row, score, size in zip(answers, scores, sizes)
        ]

    def generate_codes(
        self,
        instruction: str,
        image: Picture | None = None,
        *,
        decoding: BeamConfig | SamplingConfig | None = None,
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Answers one instruction with image codes: a whole picture, or the middle of one.

        Args:
          instruction: such as "what is the complete image? caption: a red bus".
          image: path, uint8[y, x, 3] or PIL image whose central half is hidden and asked for.
          decoding: None = one sample among the 256 likeliest codes at each place (SPEC 7.9).
            Lengths are not read: there are always as many codes as the model's pictures have.
          seed: of sampling.

        Returns:
          (int32[g, grid_y, grid_x] codes of the samples or beams, the likeliest first;
          float32[g] their log-probabilities).

        Raises:
          FileNotFoundError: no such image file.
          ValueError: the model has no image codes; see also `generate`.
        """
        layout, side = self.tokenizer.layout, self.config.code_window
        if not layout.num_codes:
            raise ValueError("this model has no image codes in its vocabulary")
        batch: dict[str, Any] = {"encoder_input_tokens": self._tokens([instruction])}
        if image is not None:
            batch["encoder_images"] = resize_square(read_image(image), self.image_size)[None]
            low, high = self.image_size // 4, self.image_size // 4 * 3
            batch["encoder_image_holes"] = np.array([[low, low, high, high]], np.int32)
        found = generate(
            self._model,
            self._variables,
            batch,
            dataclasses.replace(
                decoding or SamplingConfig(top_k=256), max_len_b=side**2, gen_code=True
            ),
            constraint=IdRanges(((layout.code_start, layout.bin_start),)),
            rng=jax.random.key(seed),
        )
        tokens = np.asarray(found.tokens[0])[:, : side**2]
        return (tokens - layout.code_start).reshape(-1, side, side), np.asarray(found.scores[0])

    def _tokens(self, instructions: Sequence[str]) -> np.ndarray:
        rows = []
        for instruction in instructions:
            if not instruction.strip():
                raise ValueError("the instruction is empty; say what the model should do")
            ids = self.tokenizer.encode(" " + instruction.strip())
            rows.append([BOS_ID, *ids, EOS_ID])
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
        self, tokens: np.ndarray, score: float, size: tuple[int, int] | None
    ) -> Prediction:
        ends = np.flatnonzero((tokens == EOS_ID) | (tokens == PAD_ID))
        ids = tokens[: ends[0]] if ends.size else tokens
        inside = self.tokenizer.decode_box(ids)
        box = None
        if inside is not None and size is not None:
            # Bins are pixels of the square model input (SPEC 4.5).
            x, y = size[0] / self.image_size, size[1] / self.image_size
            x0, y0, x1, y1 = (float(v) for v in inside)
            box = (x0 * x, y0 * y, x1 * x, y1 * y)
        text = self.tokenizer.decode(ids).strip()
        return Prediction(text, box, float(score), tuple(int(i) for i in ids))


def load(
    source: str | os.PathLike,
    *,
    vocabulary: str | os.PathLike | None = None,
    image_size: int | None = None,
    decoding: BeamConfig | SamplingConfig | None = None,
    dtype: str | None = None,
    ema: bool | None = False,
    revision: str | None = None,
    code_image_size: int | None = None,
    ignore_extra_rows: bool = False,
    progress: Callable[[str], None] | None = None,
) -> OFAPredictor:
    """Loads a model from wherever it is.

    Args:
      source: a fairseq `.pt`, a HuggingFace folder or repository id ("OFA-Sys/ofa-base"), or a
        folder of ours (converted or trained).
      vocabulary: folder or hub repository with the vocabulary files; None = those beside the
        weights.
      image_size: see `OFAPredictor`.
      decoding: see `OFAPredictor`.
      dtype: type of the computation, "float32" or "bfloat16"; None = as configured.
      ema: take the moving average of the weights; None = where a run of ours keeps one.
      revision: of a hub repository.
      code_image_size: side in pixels of the pictures that the model makes of codes; None = as the
        checkpoint says (256 for the released text-to-image model, 128 for the others).
      ignore_extra_rows: the embedding has up to 1,023 rows more than the vocabulary, as padding.
      progress: called with one line per stage.

    Returns:
      The predictor.

    Raises:
      FileNotFoundError: no such source, or no vocabulary beside it.
      ValueError: unreadable files, or a vocabulary of another model.
    """
    imported = import_checkpoint(
        source, ema=ema, revision=revision, progress=progress or (lambda line: None)
    )
    tokenizer, imported = open_vocabulary(imported, vocabulary, ignore_extra_rows=ignore_extra_rows)
    config = imported.config
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype)
    if code_image_size is not None:
        config = dataclasses.replace(config, code_image_size=code_image_size)
    return OFAPredictor(
        config, imported.variables, tokenizer, image_size=image_size, decoding=decoding
    )
