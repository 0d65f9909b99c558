"""Questions about pictures in JSON files: VQAv2 and GQA; one example per question."""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ofa_jax.data.instruction import Example
from ofa_jax.data.sources import split_paths
from ofa_jax.data.sources.annotated_pictures import AnnotatedPictures, MadeRows, Row, read_items
from ofa_jax.data.sources.errors import SourceError


def answer_confidences(given: Sequence[str]) -> tuple[list[str], list[float]]:
    """Distinct answers of several people and how far each counts as right.

    The confidence of OFA's files is the official accuracy of the answer (DATA 3): the mean, over
    leaving one person out, of min(1, agreeing others / 3). Of ten people 1, 2, 3, 4 or more who
    agree give .3, .6, .9, 1.

    Args:
      given: one answer per person, at least one.

    Returns:
      The answers, most confident first, then in order of appearance, and their confidences.
    """
    people = len(given)
    if people < 2:
        return list(given), [1.0] * people
    agreeing = collections.Counter(given)

    def confidence(count: int) -> float:
        with_it = count * min(1.0, (count - 1) / 3)
        without_it = (people - count) * min(1.0, count / 3)
        return round((with_it + without_it) / people, 6)

    ordered = sorted(agreeing, key=lambda answer: -agreeing[answer])
    return ordered, [confidence(agreeing[answer]) for answer in ordered]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VqaV2(AnnotatedPictures):
    """`v2_OpenEnded_mscoco_*_questions.json` with `v2_mscoco_*_annotations.json`.

    Attributes:
      questions: the files of questions.
      annotations: the files of answers; "" for a test set, whose answers are not published.
      image_name: file name of a picture; `{subset}` stands for the files' `data_subtype` (or the
        split), `{image_id}` for the number.
    """

    questions: split_paths.Paths
    annotations: split_paths.Paths = ""
    image_name: str = "COCO_{subset}_{image_id:012d}.jpg"

    def table(self, split: str) -> Sequence[Row]:
        """Joins questions and answers."""
        answers: dict[int | str, tuple[str, ...]] = {}

        def read_answers(entry: Any) -> None:
            given = (sys.intern(str(one["answer"])) for one in entry["answers"])
            answers[entry["question_id"]] = tuple(given)

        if self.annotations:
            for path in split_paths.files(self.annotations, split, "VQAv2 annotations"):
                read_items(path, {"annotations": read_answers})
        entries: list[_Question] = []
        subsets: dict[str, str] = {}
        for path in split_paths.files(self.questions, split, "VQAv2 questions"):
            subsets[path] = _subset(path, split)

            def read_question(entry: Any, path=path) -> None:
                identifier = entry["question_id"]
                if self.annotations and identifier not in answers:
                    raise ValueError(f"question {identifier} has no answers")
                text = str(entry["question"])
                entries.append(_Question(path, int(entry["image_id"]), identifier, text))

            read_items(path, {"questions": read_question})

        def make(entry: _Question) -> Row:
            name = self.image_name.format(subset=subsets[entry.path], image_id=entry.image)
            return entry.row(name, answers.get(entry.identifier))

        return MadeRows(make, entries)


class _Question(NamedTuple):
    """What is kept of a question: file, picture, identifier, text."""

    path: str
    image: int | str
    identifier: int | str
    text: str

    def row(self, name: str, given: Sequence[str] | None) -> Row:
        """The row, with the answers that people gave."""
        fields: Example = {
            "image_id": str(self.image),
            "example_id": str(self.identifier),
            "question": self.text,
            "type": "qa",
        }
        if given:
            fields["answers"], fields["answer_conf"] = answer_confidences(given)
        return Row(f"{self.path}, question {self.identifier}", name, fields)


def _subset(path: str, split: str) -> str:
    """The folder name in pictures' file names, such as train2014; test-dev has test's pictures."""
    found: list[str] = []
    try:
        read_items(path, {"data_subtype": lambda value: found.append(str(value))})
    except SourceError:
        return split
    return found[0].replace("test-dev", "test") if found else split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gqa(AnnotatedPictures):
    """GQA's `*_questions.json`: a mapping of question ids.

    Attributes:
      questions: the files.
      full_answers: whether answers are sentences (`fullAnswer`), not words.
      balanced_only: whether to keep only the questions marked `isBalanced`.
    """

    questions: split_paths.Paths
    full_answers: bool = False
    balanced_only: bool = False

    def table(self, split: str) -> Sequence[Row]:
        """One row per question; test sets have no answers."""
        entries: list[tuple[_Question, str | None]] = []
        field = "fullAnswer" if self.full_answers else "answer"
        for path in split_paths.files(self.questions, split, "GQA questions"):

            def read(pair: Any, path=path) -> None:
                identifier, entry = pair
                if self.balanced_only and not entry["isBalanced"]:
                    return
                image, text = sys.intern(str(entry["imageId"])), str(entry["question"])
                answer = sys.intern(str(entry[field])) if field in entry else None
                entries.append((_Question(path, image, identifier, text), answer))

            read_items(path, read)

        def make(entry: tuple[_Question, str | None]) -> Row:
            question, answer = entry
            return question.row(f"{question.image}.jpg", None if answer is None else [answer])

        return MadeRows(make, entries)
