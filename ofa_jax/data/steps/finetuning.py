"""Steps of the fine-tuning tasks: what SPEC 8 does to a row before it is tokenized.

Images and boxes are the business of `steps.image`; here are texts, labels and answers. All fields
are those of the flat schema.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import unicodedata
from collections.abc import Callable, Mapping

import numpy as np

from ofa_jax.data.ops.boxes import as_boxes
from ofa_jax.data.sources.example import Example, InstructionError
from ofa_jax.text import cleaning

logger = logging.getLogger("ofa_jax")

REFERENCE_SEPARATOR = "&&"


@dataclasses.dataclass(frozen=True)
class RememberSize:
    """Sets `original_size` to float64[2], width and height of the decoded image in pixels."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        height, width = example["image"].shape[:2]
        return {**example, "original_size": np.array([width, height], np.float64)}


@dataclasses.dataclass(frozen=True)
class TrainingCaption:
    """Sets `caption` to one drawn reference without punctuation, cut to `max_words` (SPEC 3.3)."""

    max_words: int = 20

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        captions = _captions(example)
        text = captions[int(rng.integers(len(captions)))] if len(captions) > 1 else captions[0]
        caption = cleaning.caption_target(text, self.max_words)
        if not caption:
            raise InstructionError(f"{_name(example)}: the caption is empty without punctuation")
        return {**example, "caption": caption}


@dataclasses.dataclass(frozen=True)
class AllReferences:
    """Sets `caption` to all references joined by "&&", without punctuation (SPEC 5.5.2, 8.1).

    The form of self-critical training and of evaluation. A row without captions, as test files
    have, keeps an empty one.
    """

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        texts = [" ".join(text.split()) for text in example.get("captions", ())]
        cleaned = [cleaning.caption_prediction(text) for text in texts]
        return {**example, "caption": REFERENCE_SEPARATOR.join(cleaned)}


@dataclasses.dataclass(frozen=True)
class ChineseCaption:
    """Sets `caption` to the reference, or to all of them joined, as Chinese text (SPEC 8.1).

    Attributes:
      max_characters: longest caption of training; None joins all references instead.
    """

    max_characters: int | None = 30

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if self.max_characters is None:
            captions = [cleaning.pre_chinese(text) for text in example.get("captions", ())]
            return {**example, "caption": REFERENCE_SEPARATOR.join(captions)}
        captions = _captions(example)
        text = captions[int(rng.integers(len(captions)))] if len(captions) > 1 else captions[0]
        return {**example, "caption": cleaning.pre_chinese(text, self.max_characters)}


@dataclasses.dataclass(frozen=True)
class FirstReferring:
    """Sets `caption` to the only referring expression of a row and `region` to its box.

    Test rows may lack the box; then there is no `region`.

    Attributes:
      max_words: longest expression, in words; of Chinese text in characters.
      chinese: whether the text is Chinese.
    """

    max_words: int = 80
    chinese: bool = False

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        if not len(example.get("refexps", ())):
            raise InstructionError(f"{_name(example)} has no referring expression")
        clean = cleaning.pre_chinese if self.chinese else cleaning.pre_caption
        chosen = {**example, "caption": clean(example["refexps"][0], self.max_words)}
        boxes = as_boxes(example.get("boxes", []))
        if len(boxes):
            chosen["region"] = boxes[int(example["refexp_box_index"][0])]
        return chosen


@dataclasses.dataclass(frozen=True)
class QuestionWithObjects:
    """Cleans `question`, ends it with "?", and names the objects found in the image (SPEC 8.3).

    A row whose detector found nothing still ends with " object: "; one without the field does not.

    Attributes:
      max_words: longest question.
      max_objects: names that are kept; 0 leaves objects out.
    """

    max_words: int = 80
    max_objects: int = 30

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        question = cleaning.ask(cleaning.pre_question(example["question"], self.max_words))
        if self.max_objects and "objects" in example:
            question += " object: " + " ".join(list(example["objects"])[: self.max_objects])
        return {**example, "question": question}


@dataclasses.dataclass(frozen=True)
class LikeliestAnswer:
    """Sets `answer` to the reference of highest confidence, `confidence` to that number.

    Test rows without answers keep an empty one.
    """

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        answers = list(example.get("answers", ()))
        if not answers:
            return {**example, "answer": "", "confidence": 1.0}
        best = int(np.argmax(example["answer_conf"]))
        return {
            **example,
            "answer": answers[best],
            "confidence": float(example["answer_conf"][best]),
        }


@dataclasses.dataclass(frozen=True)
class LabelWord:
    """Sets `answer` to the word that stands for the row's `label`.

    Attributes:
      words: label as the data set writes it -> word.
    """

    words: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, words: Mapping[str, str]) -> LabelWord:
        """From a dictionary."""
        return cls(tuple(words.items()))

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        label, words = str(example.get("label", "")).strip(), dict(self.words)
        if label and label not in words:
            raise InstructionError(
                f"{_name(example)} has the label {label!r}; known: {', '.join(words)}"
            )
        return {**example, "answer": words.get(label, "")}


@dataclasses.dataclass(frozen=True)
class Entailment:
    """Cleans `hypothesis` and sets `caption` to the premise (SPEC 8.4)."""

    max_words: int = 80

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        premise = example.get("caption") or next(iter(example.get("captions", ())), "")
        return {
            **example,
            "hypothesis": cleaning.pre_caption(example["hypothesis"], self.max_words),
            "caption": cleaning.pre_caption(premise, self.max_words),
        }


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Lower-cases `sentence1` and `sentence2`, each cut to `max_words` (SPEC 8.7)."""

    max_words: int = 512

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        cut = {
            name: " ".join(str(example[name]).lower().split()[: self.max_words])
            for name in ("sentence1", "sentence2")
            if name in example
        }
        return {**example, **cut}


@dataclasses.dataclass(frozen=True)
class Article:
    """Cleans `text` and `summary` of Gigaword; `reference` keeps the raw summary (SPEC 8.8).

    Attributes:
      max_words: longest article.
      max_summary_words: longest summary.
    """

    max_words: int = 512
    max_summary_words: int = 64

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        summary = str(example.get("summary", ""))
        return {
            **example,
            "text": cleaning.pre_caption(example["text"], self.max_words).replace("<unk>", "unk"),
            "summary": cleaning.pre_caption(summary, self.max_summary_words).replace(
                "<unk>", "unk"
            ),
            "reference": summary.lower(),
        }


@dataclasses.dataclass(frozen=True)
class ImageDescription:
    """Sets `text` to the first `max_words` words of the caption (SPEC 8.5).

    Rows without codes, as at inference, get none.
    """

    max_words: int = 64

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        text = " ".join(_captions(example)[0].split()[: self.max_words])
        return {"image_codes": np.zeros(0, np.int32), **example, "text": text}


@dataclasses.dataclass(frozen=True)
class WrittenText:
    """Sets `text` to what is written in the image (SPEC 8.9).

    Chinese texts become simplified and get Unicode's compatible forms (NFKC).

    OFA-NOTE: SPEC 8.9. The package zhconv, which turns traditional into simplified characters, is
    optional: without it texts stay as they are, with one warning.

    Attributes:
      chinese: cut to `length` characters; otherwise lower-cased and cut to `length` words.
      length: longest text.
    """

    chinese: bool = True
    length: int = 20

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        text = next(iter(example.get("captions", ())), "")
        if self.chinese:
            text = unicodedata.normalize("NFKC", _simplifier()(text))
            return {**example, "text": text.strip()[: self.length]}
        text = unicodedata.normalize("NFKC", text)
        return {**example, "text": " ".join(text.lower().split()[: self.length])}


@dataclasses.dataclass(frozen=True)
class ClassName:
    """Sets `answer` to the row's label, the words of its synset; test rows keep an empty one."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        label = example.get("label", "")
        if not isinstance(label, str):
            raise InstructionError(
                f"example {example.get('image_id', '?')!r}: label must be the class name, "
                f"got {label!r}"
            )
        return {**example, "answer": label.strip()}


@functools.cache
def _simplifier() -> Callable[[str], str]:
    """From traditional to simplified Chinese characters; the identity without zhconv."""
    try:
        convert = importlib.import_module("zhconv").convert
    except ModuleNotFoundError:
        logger.warning(
            "traditional Chinese characters stay as they are, since the package zhconv is not "
            "installed; the official recipe makes them simplified (pip install zhconv)"
        )
        return str
    return functools.partial(convert, locale="zh-hans")


def _captions(example: Example) -> list[str]:
    captions = list(example.get("captions", ()))
    if not captions:
        raise InstructionError(f"{_name(example)} has no caption")
    return captions


def _name(example: Example) -> str:
    return f"example {example.get('example_id') or example.get('image_id', '?')!r}"
