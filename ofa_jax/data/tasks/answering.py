"""How a fine-tuned task is answered: decoder prompt, closed answer set, decoding, post-processing.

The official recipes differ less in what the encoder reads than in what the decoder is given and in
how its answer is found (SPEC 7, 8). `Answering` says all of that about one task; `task.OFATask`
shapes training targets by it, the entry points decode by it. Numpy only.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ofa_jax import schema, vocab
from ofa_jax.data.sources import locations
from ofa_jax.data.sources.example import InstructionError
from ofa_jax.data.tasks.instruction import Features
from ofa_jax.restricted_pickle import load_restricted
from ofa_jax.text.tokenizer import Tokenizer

logger = logging.getLogger("ofa_jax")

DECODER_PROMPTS = ("none", "source", "source_and_eos")
METHODS = ("search", "candidates", "sampling")


@dataclasses.dataclass(frozen=True)
class AnswerList:
    """A closed set of answers, given here or read from a file on first use.

    Attributes:
      words: the answers, in order; empty where `path` names a file.
      path: a file for `read_answers`; may hold `{DATA_DIR}`.
    """

    words: tuple[str, ...] = ()
    path: str = ""

    def __post_init__(self) -> None:
        if bool(self.words) == bool(self.path):
            raise ValueError("an AnswerList needs either words or the path of a file")

    def load(self) -> tuple[str, ...]:
        """The answers in order.

        Raises:
          ValueError: see `read_answers`.
        """
        return self.words or read_answers(locations.resolve(self.path))

    def check(self, answer: str) -> None:
        """Fails where an answer is not in the set.

        Raises:
          InstructionError: names the answer and the set.
        """
        known = _answer_set(self.load())
        if answer not in known:
            where = f"the {len(known)} answers of {self.path}" if self.path else f"{self.words}"
            raise InstructionError(f"answer {answer!r} is not one of {where}")


@dataclasses.dataclass(frozen=True)
class Answering:
    """Everything about a task that lies behind its encoder.

    Attributes:
      decoder_prompt: what the decoder reads before it answers: "none" (bos only), "source" (the
        source without its eos, official name prev_output) or "source_and_eos" (official src).
        Prompts are not part of the loss.
      ends_with_eos: whether the answer ends with eos, in training and in candidate scores; GLUE
        labels do not (SPEC 7.5).
      max_tokens: longest answer, eos not counted; longer ones lose their end. Needed with a
        prompt, whose length it decides.
      answers: the closed set. It constrains training (SPEC 5.1) and decoding; None = free answers.
      method: "search" (beam search), "candidates" (every answer is scored, SPEC 7.3) or
        "sampling".
      decoding: settings of `ofa_jax.decoding.beam.BeamConfig` or `sampling.SamplingConfig` that
        differ from their defaults.
      ranking: instruction of image-text matching, by whose answer several samples of image codes
        are put in order; "" orders them by probability.
      renormalize: whether probabilities are taken among the possible answers; False is the
        zero-shot rule (SPEC 7.10).
      empty_prompts: share of training examples whose source loses its texts, so that sampling can
        be guided away from what it writes without them (`SamplingConfig.guidance`).
      decoder_input_noise: share of decoder inputs that training replaces by random text tokens
        (SPEC 8.8). Applied by the grain executor.
      clean: turns a decoded text into the text that is scored and submitted (a module-level
        function); None keeps it.
      submission: format of the predictions of a test split: a name in
        `ofa_jax.evaluation.submission`, or a module-level function from a row of
        `predictions/<task>.jsonl` to its entry in the file; "" writes none.
    """

    decoder_prompt: str = "none"
    ends_with_eos: bool = True
    max_tokens: int | None = None
    answers: AnswerList | None = None
    method: str = "search"
    decoding: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ranking: str = ""
    renormalize: bool = True
    empty_prompts: float = 0.0
    decoder_input_noise: float = 0.0
    clean: Callable[[str], str] | None = None
    submission: str | Callable[[Mapping[str, object]], Mapping[str, object]] = ""

    def __post_init__(self) -> None:
        for name, known in (("decoder_prompt", DECODER_PROMPTS), ("method", METHODS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Answering.{name} must be one of {', '.join(known)}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.decoder_prompt != "none" and self.max_tokens is None:
            raise ValueError("Answering: a decoder prompt needs max_tokens, the longest answer")
        if self.method == "candidates" and self.answers is None:
            raise ValueError("Answering: method 'candidates' needs answers")
        for name in ("decoder_input_noise", "empty_prompts"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Answering.{name} must be in [0, 1), got {getattr(self, name)}")

    def prompt(self, inputs: np.ndarray) -> np.ndarray:
        """What the decoder reads after bos and before the answer.

        Args:
          inputs: int32[s] source with bos and eos, unpadded.

        Returns:
          int32[p], empty without a decoder prompt.
        """
        if self.decoder_prompt == "none":
            return inputs[:0]
        return inputs[1:-1] if self.decoder_prompt == "source" else inputs[1:]

    def prompts(self, inputs: np.ndarray) -> np.ndarray | None:
        """The decoder prompts of a batch.

        Args:
          inputs: int32[b, s] sources with bos and eos, padded right with 0.

        Returns:
          int32[b, s - 1] padded right with 0, or None without a decoder prompt.
        """
        if self.decoder_prompt == "none":
            return None
        prompts = np.zeros_like(inputs[:, 1:])
        for row, source in zip(prompts, inputs):
            prompt = self.prompt(source[source != vocab.PAD_ID])
            row[: len(prompt)] = prompt
        return prompts

    def shape_target(self, features: Features, lengths: Mapping[str, int]) -> tuple[Features, int]:
        """Cuts the answer, puts the prompt in front, and cuts the source so that both fit.

        OFA-NOTE: SPEC 3.2. Where source and prompt are too long for the static shapes, both lose
        the same end (before eos), so that the prompt still repeats the source.

        Args:
          features: of `Instruction.encode`: "inputs" int32[s], "targets" int32[t] with eos.
          lengths: task feature lengths.

        Returns:
          (features with new "inputs" and "targets", number of prompt positions in "targets").

        Raises:
          InstructionError: no room for a prompt.
        """
        answer = features["targets"][:-1]
        if self.max_tokens is not None:
            answer = answer[: self.max_tokens]
        ending = features["targets"][-1:] if self.ends_with_eos else features["targets"][:0]
        inputs = features["inputs"]
        if self.decoder_prompt != "none":
            reserved = (self.max_tokens or 0) + int(self.ends_with_eos)
            extra = 2 if self.decoder_prompt == "source" else 1
            room = min(lengths["inputs"], lengths["targets"] - reserved + extra)
            if room < 3:
                raise InstructionError(
                    f"task_feature_lengths['targets'] = {lengths['targets']} leaves no room for "
                    f"the decoder prompt: the answer alone may take {reserved} tokens"
                )
            if len(inputs) > room:
                inputs = np.concatenate([inputs[: room - 1], inputs[-1:]])
        prompt = self.prompt(inputs)
        targets = np.concatenate([prompt, answer, ending]).astype(np.int32)
        return {**features, "inputs": inputs, "targets": targets}, len(prompt)

    def with_noise(
        self, inputs: np.ndarray, code_start: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Decoder inputs of training with some tokens replaced at random (SPEC 8.8).

        Args:
          inputs: int32[t], bos first.
          code_start: first id that is neither special nor text.
          rng: the example's generator.

        Returns:
          int32[t]: the inputs, of which a share is replaced; bos never is.
        """
        replaced = rng.random(len(inputs)) < self.decoder_input_noise
        replaced[0] = False
        noise = rng.integers(vocab.NUM_SPECIALS, code_start, len(inputs))
        return np.where(replaced, noise, inputs).astype(np.int32)


FREE_ANSWER = Answering()
"""No prompt, no closed set: how pretraining tasks are answered."""


# What a file of answers may hold, by its suffix.
ANSWER_FILES = (".txt", ".json", ".pkl")
# Larger ones are no list of answers, in bytes.
_LARGEST_FILE = 2**22


@functools.lru_cache(maxsize=16)
def read_answers(path: str) -> tuple[str, ...]:
    """The answers of a file, in order, without blanks around them.

    Args:
      path: `.txt` (a line each, UTF-8 with or without byte order mark, blank lines ignored),
        `.json` or `.pkl` (a list, or a table in either direction: answer -> number as the official
        `trainval_ans2label.pkl`, SPEC 8.3, or number -> answer; numbers order the answers). A
        pickle runs no code.

    Raises:
      ValueError: the file is missing, unreadable, empty, of another kind, or names an answer
        twice.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(f"{path} does not exist; it should hold the list of answers")
    if (size := file.stat().st_size) > _LARGEST_FILE:
        raise ValueError(f"{path} has {size} bytes, too many for a list of answers")
    suffix = file.suffix.lower()
    try:
        if suffix == ".txt":
            lines = file.read_text(encoding="utf-8-sig").split("\n")
            answers: Any = [line for line in lines if line.strip()]
        elif suffix == ".json":
            answers = schema.read_json(file, ValueError)
        elif suffix == ".pkl":
            answers = load_restricted(file.read_bytes(), placeholders=False)
        else:
            raise ValueError(f"its suffix is none of {', '.join(ANSWER_FILES)}")
        is_table = isinstance(answers, Mapping) and answers
        return _checked(_ordered(answers) if is_table else answers)
    except ValueError as error:
        raise ValueError(f"{path} is no list of answers: {error}") from error


def allowed_answers(given: str | Sequence[str]) -> tuple[str, ...]:
    """The only answers that a user allows to a free instruction.

    Args:
      given: a list, the same joined by commas, or a file for `read_answers`. Answers in capitals
        throughout are taken in lower case, as OFA's texts are, with a warning.

    Returns:
      The answers, in order.

    Raises:
      ValueError: there is none, one stands there twice, or the file cannot be read.
    """
    if isinstance(given, str):
        if pathlib.Path(given).suffix.lower() in ANSWER_FILES or os.path.isfile(given):
            answers = AnswerList(path=given).load()
        else:
            answers = _checked([answer for answer in given.split(",") if answer.strip()])
    else:
        answers = _checked(given)
    in_capitals = "".join(answers).isupper() and any(answer[1:].isupper() for answer in answers)
    if not in_capitals:
        return answers
    logger.warning("the allowed answers are in capitals; they are taken in lower case")
    return _checked([answer.lower() for answer in answers])


@functools.lru_cache(maxsize=16)
def answer_ids(
    answers: tuple[str, ...], tokenizer: Tokenizer, prefix: str, longest: int | None
) -> tuple[tuple[int, ...], ...]:
    """Ids of each answer, without bos and eos.

    Args:
      answers: in order.
      tokenizer: of the model.
      prefix: stands in front of each, " " in all official tasks.
      longest: most tokens of an answer; None is any number.

    Raises:
      ValueError: an answer is too long, unknown to the vocabulary, or the same to it as another.
    """
    rows: dict[tuple[int, ...], str] = {}
    for answer in answers:
        ids = tuple(tokenizer.encode_text(prefix + answer))
        if longest is not None and len(ids) > longest:
            raise ValueError(f"answer {answer!r} has {len(ids)} tokens, the target holds {longest}")
        if vocab.UNK_ID in ids:
            raise ValueError(f"answer {answer!r} has characters that the vocabulary does not know")
        if ids in rows:
            raise ValueError(f"answers {rows[ids]!r} and {answer!r} are the same to the vocabulary")
        rows[ids] = answer
    return tuple(rows)


def _ordered(table: Mapping[Any, Any]) -> list[Any]:
    """The answers of a table, in the order of their numbers, whichever side those are on."""
    sides = [list(table), list(table.values())]
    ranks = [_numeric(side) for side in sides]
    if min(ranks) < 0 or min(ranks) > 1 or ranks[0] == ranks[1]:
        raise ValueError("its table is neither answer -> number nor number -> answer")
    answers, numbers = sorted(sides, key=lambda side: _numeric(side))
    values = [int(number) if isinstance(number, str) else number for number in numbers]
    return [answers[index] for index in sorted(range(len(answers)), key=values.__getitem__)]


def _numeric(side: Sequence[object]) -> int:
    """2 for numbers, 1 for whole numbers written as texts (keys of JSON), 0 for texts, else -1."""
    if all(map(_is_number, side)):
        return 2
    if not all(isinstance(value, str) for value in side):
        return -1
    return int(all(re.fullmatch(r"\s*-?[0-9]{1,18}\s*", str(value)) for value in side))


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _checked(raw: object) -> tuple[str, ...]:
    """Answers without blanks around them; raises ValueError where they are no closed set."""
    if not raw:
        raise ValueError("the list is empty")
    if not isinstance(raw, list | tuple):
        raise ValueError(f"it holds a {type(raw).__name__}, not a list or a table with numbers")
    for number, answer in enumerate(raw):
        if not (isinstance(answer, str) or _is_number(answer)) or not str(answer).strip():
            raise ValueError(f"entry {number} is {schema.shown(answer)}, not a text")
    answers = tuple(str(answer).strip() for answer in raw)
    if len(set(answers)) < len(answers):
        [(twice, _)] = collections.Counter(answers).most_common(1)
        raise ValueError(f"answer {twice!r} stands there twice")
    return answers


@functools.lru_cache(maxsize=16)
def _answer_set(answers: tuple[str, ...]) -> frozenset[str]:
    return frozenset(answers)
