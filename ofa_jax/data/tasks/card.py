"""What must be known of a task to ask it by hand, as plain data that the directory of a run keeps.

Evaluation takes its examples from a source and prepares them by the task's steps. Who asks by hand
has an image and a few fields (a question, a region): a card holds the instruction, the clean-up of
texts and the recipe of the answer, so that the row is the one that evaluation would make. A card is
data: reading one imports nothing that it names.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from ofa_jax.atomic import JsonObject, write_json
from ofa_jax.data.sources.example import Example, InstructionError
from ofa_jax.data.steps import Step, finetuning, text
from ofa_jax.data.tasks.answering import Answering, AnswerList
from ofa_jax.data.tasks.features import FeatureRow, pad_row
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.task import LENGTH_KEYS, OFATask
from ofa_jax.schema import read_json
from ofa_jax.text import cleaning
from ofa_jax.text.tokenizer import Tokenizer

# Steps that work on texts which a person can give; all others choose from records or move pixels.
TEXT_STEPS: Mapping[str, tuple[type, str]] = {
    "CleanText": (text.CleanText, ""),
    "LowerCase": (text.LowerCase, ""),
    "QuestionWithObjects": (finetuning.QuestionWithObjects, "question"),
    "Entailment": (finetuning.Entailment, "hypothesis"),
    "Sentences": (finetuning.Sentences, "sentence1"),
    "Article": (finetuning.Article, "text"),
    "FirstReferring": (finetuning.FirstReferring, "caption"),
}
"""Class name to (class, the field without which it has nothing to do; "" is its own `field`)."""

# Tokens or pixels; more than any model here reads.
_LARGEST_LENGTH = 16_384


@dataclasses.dataclass(frozen=True)
class TaskCard:
    """A task as someone asks it by hand.

    Attributes:
      name: of the task in the registry.
      family: under which it is reported, and by which it can be asked too.
      instruction: its first wording, in the instruction language.
      lengths: task_feature_lengths.
      answering: recipe of the answer; a closed set stands in it word by word.
      text_steps: clean-up of texts.
    """

    name: str
    family: str
    instruction: Instruction
    lengths: Mapping[str, int]
    answering: Answering
    text_steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, task: OFATask, lengths: Mapping[str, int]) -> TaskCard:
        """The card of a registered task.

        Args:
          lengths: task feature lengths.

        Raises:
          ValueError: its list of answers cannot be read.
        """
        answering = task.answering
        if answering.answers is not None:
            answering = dataclasses.replace(answering, answers=AnswerList(answering.answers.load()))
        used = task.prepare if task.eval_prepare is None else task.eval_prepare
        known = [step for step, _ in TEXT_STEPS.values()]
        kept = tuple(step for step in used if type(step) in known)
        return cls(task.name, task.family, task.instructions[0], dict(lengths), answering, kept)

    @staticmethod
    def checked_lengths(lengths: object) -> dict[str, int]:
        """Lengths from a file as numbers that can be.

        Raises:
          ValueError: others than inputs, targets and image, or numbers out of bounds.
        """
        if not isinstance(lengths, Mapping) or set(lengths) != set(LENGTH_KEYS):
            raise ValueError(f"lengths must be those of {', '.join(LENGTH_KEYS)}, got {lengths!r}")
        for name, value in lengths.items():
            if type(value) is not int or not 0 <= value <= _LARGEST_LENGTH:
                raise ValueError(f"{name} must be 0 to {_LARGEST_LENGTH:,}, got {value!r}")
        return dict(lengths)

    @property
    def fields(self) -> tuple[str, ...]:
        """What must be given besides the image: "region", "question", ..."""
        return tuple(
            piece.field
            for piece in self.instruction.source
            if not isinstance(piece, str) and piece != self.instruction.image_slot
        )

    @property
    def makes_whole_images(self) -> bool:
        """Whether it answers a text with the codes of an image."""
        return self.instruction.target_slot.modality == "CODE" and not self.instruction.image_slot

    def task(self, tokenizer: Tokenizer) -> OFATask:
        """The task without a source.

        Args:
          tokenizer: of the model.
        """
        return OFATask(
            name=self.name,
            family=self.family,
            instructions=(self.instruction,),
            source=_NoSource(),
            tokenizer=lambda: tokenizer,
            answering=self.answering,
        )

    def row(
        self, tokenizer: Tokenizer, image: np.ndarray | None, given: Mapping[str, object]
    ) -> FeatureRow:
        """The row of a question, as evaluation makes it.

        Args:
          tokenizer: of the model.
          image: uint8[y, x, 3] of the model's size, or None for a task without one.
          given: the fields; boxes in pixels of that image.

        Returns:
          See `features.pad_row`; the target is empty.

        Raises:
          InstructionError: a field or the image is missing, is not of this task, or does not fit.
        """
        slot = self.instruction.image_slot
        wanted = ", ".join(self.fields) or "no field"
        if (slot is None) != (image is None):
            raise InstructionError(
                f"task {self.name!r} reads {'no' if slot is None else 'an'} image"
            )
        if unknown := sorted(given.keys() - set(self.fields) - {"objects"}):
            raise InstructionError(
                f"task {self.name!r} has no field {unknown[0]!r}; it has {wanted}"
            )
        if missing := [field for field in self.fields if given.get(field) is None]:
            raise InstructionError(f"task {self.name!r} needs {missing[0]!r}; it has {wanted}")
        example = dict(given)
        rng = np.random.default_rng(0)
        for step in self.text_steps:
            example = _cleaned(step, example, rng)
        if slot is not None:
            example[slot.field] = image
        features = self.task(tokenizer).features(
            example, rng, self.lengths, train=False, with_target=False
        )
        return pad_row(features, self.lengths, 0)

    def to_json(self) -> JsonObject:
        """The card as data; functions of others, which no data can name, are left out."""
        answering = {
            field.name: getattr(self.answering, field.name)
            for field in dataclasses.fields(Answering)
        }
        answering["decoding"] = dict(self.answering.decoding)
        answering["answers"] = self.answering.answers and list(self.answering.answers.load())
        answering["clean"] = _name_of(self.answering.clean)
        if not isinstance(self.answering.submission, str):
            answering["submission"] = ""
        return {
            "name": self.name,
            "family": self.family,
            "instruction": self.instruction.text,
            "task_feature_lengths": dict(self.lengths),
            "answering": answering,
            "text_steps": [_step_to_json(step) for step in self.text_steps],
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> TaskCard:
        """The card of `to_json`.

        Raises:
          ValueError: something that this version does not know; the message names it.
        """
        try:
            answering = dict(data["answering"])
            answers = answering.pop("answers")
            clean = answering.pop("clean")
            return cls(
                str(data["name"]),
                str(data["family"]),
                Instruction.parse(str(data["instruction"])),
                cls.checked_lengths(data["task_feature_lengths"]),
                Answering(
                    **answering,
                    answers=None if answers is None else AnswerList(tuple(map(str, answers))),
                    clean=_cleaner(clean),
                ),
                tuple(_step_from_json(step) for step in data["text_steps"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"no card of a task: {error!r} in {str(data)[:200]}") from error


def find_card(cards: Sequence[TaskCard], name: str) -> TaskCard:
    """The card of a task by its name or family.

    Raises:
      ValueError: none, or several of the family.
    """
    found = [card for card in cards if card.name == name]
    found = found or [card for card in cards if card.family == name]
    if len(found) == 1:
        return found[0]
    known = ", ".join(card.name for card in (found or cards)) or "none"
    several = "is the family of several tasks" if found else "is no task of this model"
    raise ValueError(f"task {name!r} {several}; there are {known}")


class _NoSource:
    def open(self, split: str) -> NoReturn:
        raise ValueError(f"a card has no records (asked for split {split!r})")


def _cleaned(step: Any, example: Example, rng: np.random.Generator) -> Example:
    field = TEXT_STEPS[type(step).__name__][1] or step.field
    if field not in example:
        return example
    if isinstance(step, finetuning.FirstReferring):
        # Evaluation finds the expression in a list, beside the box that is asked for.
        example = {**example, "refexps": [example["caption"]]}
    return step(example, rng)


def _name_of(function: Callable[..., object] | None) -> str | None:
    name = getattr(function, "__name__", "")
    return name if function is not None and getattr(cleaning, name, None) is function else None


def _cleaner(name: str | None) -> Callable[[str], str] | None:
    if name is None:
        return None
    function = vars(cleaning).get(name)
    if name.startswith("_") or getattr(function, "__module__", "") != cleaning.__name__:
        raise ValueError(f"no text clean-up {name!r}")
    return function


def _step_to_json(step: Any) -> JsonObject:
    values = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    if "clean" in values:
        values["clean"] = _name_of(values["clean"])
    return {"step": type(step).__name__, **values}


def _step_from_json(data: JsonObject) -> Step:
    values = dict(data)
    name = values.pop("step")
    if name not in TEXT_STEPS:
        raise ValueError(f"no text step {name!r}")
    if "clean" in values:
        values["clean"] = _cleaner(values["clean"])
    return TEXT_STEPS[name][0](**values)


CARDS_FILE = "config.json"


def write_cards(
    directory: str | os.PathLike,
    mixture: str,
    cards: Sequence[TaskCard],
    settings: Mapping[str, object] | None = None,
) -> None:
    """Writes `config.json`: what a run was trained and evaluated on, and how, as data.

    Args:
      directory: of the run.
      mixture: name of the mixture or task.
      cards: of its tasks, those that it never trains included.
      settings: of the run, by the part that they configure.
    """
    content = {
        "mixture": mixture,
        "tasks": [card.to_json() for card in cards],
        "settings": dict(settings or {}),
    }
    write_json(pathlib.Path(directory) / CARDS_FILE, content)


def read_settings(directory: str | os.PathLike) -> JsonObject:
    """The settings of a run; {} where its `config.json` says none.

    Raises:
      ValueError: the file cannot be read; the message names it.
    """
    path = pathlib.Path(directory) / CARDS_FILE
    found = read_json(path, expected=dict).get("settings") if path.is_file() else None
    return found if isinstance(found, dict) else {}


def read_cards(directory: str | os.PathLike) -> tuple[TaskCard, ...]:
    """The cards of a run; () where the directory has none.

    Raises:
      ValueError: the file cannot be read; the message names it.
    """
    path = pathlib.Path(directory) / CARDS_FILE
    if not path.is_file():
        return ()
    try:
        tasks = read_json(path, expected=dict).get("tasks", [])
        return tuple(TaskCard.from_json(card) for card in tasks)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe the tasks of a run: {error}") from error
