"""Questions about images in JSON files: VQAv2 and GQA; one example per question."""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ofa_jax.atomic import JsonObject
from ofa_jax.data.sources import split_paths
from ofa_jax.data.sources.annotated_images import (
    AnnotatedImages,
    AnnotatedRow,
    MadeRows,
    Unique,
    read_items,
)
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.left_out import LeftOut
from ofa_jax.data.sources.schema import may_lack_truth
from ofa_jax.data.sources.values import flag, identifier, optional_text, text


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
class VqaV2(AnnotatedImages):
    """`v2_OpenEnded_mscoco_*_questions.json` with `v2_mscoco_*_annotations.json`.

    Attributes:
      questions: the files of questions.
      annotations: the files of answers; "" for a test set, whose answers are not published.
      image_name: file name of an image; `{subset}` stands for the files' `data_subtype` (or the
        split), `{image_id}` for the number.
    """

    questions: split_paths.Paths
    annotations: split_paths.Paths = ""
    image_name: str = "COCO_{subset}_{image_id:012d}.jpg"

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """Joins questions and answers; questions that people did not answer are left out."""
        answers = Unique("annotation of question")

        def read_answers(entry: JsonObject) -> None:
            place = f"question {entry['question_id']}, answers"
            given = left_out.read_each(
                entry["answers"], lambda one: sys.intern(text(one["answer"], "the answer")), place
            )
            answers.add(identifier(entry["question_id"], "question_id"), tuple(given))

        if self.annotations:
            for path in split_paths.files(self.annotations, split, "VQAv2 annotations"):
                read_items(path, {"annotations": read_answers}, left_out)
        questions = Unique("question")
        files: dict[int | str, str] = {}
        subsets: dict[str, str] = {}
        for path in split_paths.files(self.questions, split, "VQAv2 questions"):
            subsets[path] = _subset(path, split)

            def read_question(entry: JsonObject, path=path) -> None:
                image = identifier(entry["image_id"], "image_id")
                words = text(entry["question"], "the question")
                shown = text(entry["question_id"], "question_id")
                questions.add(key := identifier(shown), (image, shown, words))
                files.setdefault(key, path)

            read_items(path, {"questions": read_question}, left_out)
        entries: list[tuple[_Question, tuple[str, ...]]] = []
        for key in questions:
            try:
                question, given = _Question(files[key], *questions[key]), ()
                if self.annotations:
                    given = answers.get(key, ())
                    if not given and not may_lack_truth(split):
                        raise SourceError("there is no answer", Reason.NO_ANSWER)
                entries.append((question, given))
            except SourceError as error:
                left_out.add_error(f"{files[key]}, question {key}", error)

        def make(entry: tuple[_Question, tuple[str, ...]]) -> AnnotatedRow:
            question, given = entry
            name = self.image_name.format(subset=subsets[question.path], image_id=question.image)
            return question.row(name, given)

        return MadeRows(make, entries)


class _Question(NamedTuple):
    """What is kept of a question: file, image, identifier, text."""

    path: str
    image: int | str
    identifier: str
    text: str

    def row(self, name: str, given: Sequence[str]) -> AnnotatedRow:
        """The row, with the answers that people gave."""
        fields: Example = {
            "image_id": str(self.image),
            "example_id": self.identifier,
            "question": self.text,
            "type": "qa",
        }
        if given:
            fields["answers"], fields["answer_conf"] = answer_confidences(given)
        return AnnotatedRow(f"{self.path}, question {self.identifier}", name, fields)


def _subset(path: str, split: str) -> str:
    """The directory name in images' file names, such as train2014; test-dev has test's images."""
    found: list[str] = []
    try:
        read_items(path, {"data_subtype": lambda value: found.append(text(value))}, LeftOut())
    except SourceError:
        return split
    return found[0].replace("test-dev", "test") if found else split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gqa(AnnotatedImages):
    """GQA's `*_questions.json`: a mapping of question ids.

    Attributes:
      questions: the files.
      full_answers: whether answers are sentences (`fullAnswer`), not words.
      balanced_only: whether to keep only the questions marked `isBalanced`.
    """

    questions: split_paths.Paths
    full_answers: bool = False
    balanced_only: bool = False

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """One row per question; test sets have no answers."""
        entries: list[tuple[_Question, tuple[str, ...]]] = []
        field = "fullAnswer" if self.full_answers else "answer"
        for path in split_paths.files(self.questions, split, "GQA questions"):

            def read(pair: tuple[str, JsonObject], path=path) -> None:
                shown, entry = pair
                if self.balanced_only and not flag(entry["isBalanced"], "isBalanced"):
                    return
                image = sys.intern(text(entry["imageId"], "imageId"))
                words = text(entry["question"], "the question")
                given: tuple[str, ...] = ()
                if (answer := optional_text(entry.get(field), "the answer")) is not None:
                    given = (sys.intern(answer),)
                elif field in entry and not may_lack_truth(split):
                    raise SourceError("there is no answer", Reason.NO_ANSWER)
                entries.append((_Question(path, image, shown, words), given))

            read_items(path, read, left_out)

        def make(entry: tuple[_Question, tuple[str, ...]]) -> AnnotatedRow:
            question, given = entry
            return question.row(f"{question.image}.jpg", given)

        return MadeRows(make, entries)
