"""Several images of one text, best first: by the model's own matching answer, or by CLIP.

Stands behind sampling, in evaluation and in `OFAPredictor.generate_image`: codes become images, a
ranker says how well each fits its text, the answers are put into that order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ofa_jax.data.ops.image import resize_square
from ofa_jax.data.ops.image_tokenizer import ImageTokenizer
from ofa_jax.data.tasks.answering import Answering, AnswerList, answer_ids
from ofa_jax.data.tasks.features import FeatureRow, pad_row, stack_rows
from ofa_jax.data.tasks.instruction import Instruction, trim_at_eos
from ofa_jax.inference.answerer import Answerer, Answers, Recipe
from ofa_jax.inference.code_images import decoded_images
from ofa_jax.metrics.generation import Extractors
from ofa_jax.metrics.image import clip_similarities

Ranker = Callable[[np.ndarray, Sequence[str]], np.ndarray]
"""(images uint8[b, g, y, x, 3], a text for each g of them) to float[b, g], higher is better."""

_ANSWERS = ("yes", "no")
# Questions are padded to a multiple of this, so that few programs are compiled.
_LENGTH_STEP = 8


@dataclasses.dataclass(frozen=True)
class MatchingRanker:
    """Asks the model whether an image shows what its text says.

    Attributes:
      answerer: the model.
      variables: of it, on its devices.
      instruction: of image-text matching, which is answered by yes or no.
      image_size: side in pixels of the model's input.
      batch_size: images per step.
    """

    answerer: Answerer
    variables: object
    instruction: Instruction
    image_size: int
    batch_size: int = 128

    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Log-probability of "yes" against "no".

        Args:
          images: uint8[b, g, y, x, 3].
          texts: b.

        Returns:
          float32[b, g].
        """
        tokenizer, [field] = self.answerer.tokenizer, self.instruction.empty_texts()
        slot = self.instruction.image_slot
        assert slot is not None, "matching reads an image"
        encoded = [
            self.instruction.encode(
                {slot.field: resize_square(image, self.image_size), field: text},
                tokenizer,
                np.random.default_rng(0),
                image_size=self.image_size,
                with_target=False,
            )
            for group, text in zip(images, texts)
            for image in group
        ]
        longest = max(len(features["inputs"]) for features in encoded)
        lengths = {"inputs": -(-longest // _LENGTH_STEP) * _LENGTH_STEP, "targets": 1}
        nothing = {"decoder_inputs": np.zeros(1, np.int32), "loss_weights": np.zeros(1, np.float32)}
        rows = [pad_row({**features, **nothing}, lengths, 0) for features in encoded]
        prefix = "".join(piece for piece in self.instruction.target if isinstance(piece, str))
        ids = answer_ids(_ANSWERS, tokenizer, prefix, None)
        recipe = Recipe(
            Answering(answers=AnswerList(_ANSWERS), method="candidates"), candidates=ids
        )
        scores: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            part += [part[-1]] * (min(self.batch_size, len(rows)) - len(part))
            found = self.answerer(self.variables, recipe, stack_rows(part), best=2)
            says_yes = found.tokens[:, :, 0] == ids[0][0]
            scores += np.where(says_yes, found.log_probabilities, 0.0).sum(axis=1).tolist()
        return np.array(scores[: len(rows)], np.float32).reshape(images.shape[:2])


def clip_ranker(extractors: Extractors) -> Ranker | None:
    """Cosines of images and texts (SPEC 7.9); None where the networks for them are not given."""
    embed, embed_texts = extractors.image_embeddings, extractors.text_embeddings
    if embed is None or embed_texts is None:
        return None

    def rank(images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        embedded = np.asarray(embed(images.reshape(-1, *images.shape[2:])))
        by_text = embedded.reshape(*images.shape[:2], -1)
        return clip_similarities(by_text, np.asarray(embed_texts(list(texts))))

    return rank


def ranked(
    found: Answers,
    texts: Sequence[str],
    ranker: Ranker,
    image_tokenizer: ImageTokenizer,
    code_start: int,
) -> Answers:
    """Answers in the order of how well their images fit the texts.

    Args:
      found: several answers of image codes per row.
      texts: one per row.
      ranker: says how well an image fits.
      image_tokenizer: of the codes.
      code_start: id of the first code.
    """
    batch, count = found.tokens.shape[:2]
    codes = [trim_at_eos(ids) - code_start for row in found.tokens for ids in row]
    images = np.stack(list(decoded_images(codes, image_tokenizer, max(map(len, codes)))))
    scores = ranker(images.reshape(batch, count, *images.shape[1:]), texts)
    # What is no answer stays behind all that are.
    order = np.argsort(np.where(np.isfinite(found.scores), -scores, np.inf), axis=1, kind="stable")

    def sorted_(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        return np.take_along_axis(values, order.reshape(order.shape + (1,) * (values.ndim - 2)), 1)

    kept: list[Any] = [sorted_(getattr(found, f.name)) for f in dataclasses.fields(Answers)]
    return Answers(*kept)


def source_texts(rows: FeatureRow, instruction: Instruction, answerer: Answerer) -> list[str]:
    """The text of each row of an instruction that ends with one.

    Args:
      rows: a batch of it.

    Raises:
      ValueError: the instruction has another form.
    """
    lead, *rest = instruction.source
    if not isinstance(lead, str) or len(rest) != 1 or len(instruction.empty_texts()) != 1:
        raise ValueError(f"images are ranked by the text at the end, not of {instruction.text!r}")
    decode = answerer.tokenizer.decode
    sources = (decode(trim_at_eos(ids)).strip() for ids in rows["encoder_input_tokens"])
    return [source.removeprefix(lead.strip()).strip() for source in sources]
