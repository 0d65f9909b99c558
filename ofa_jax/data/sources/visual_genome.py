"""Visual Genome's JSON files: region descriptions, questions, objects.

Images are named by their number and lie in the directories `VG_100K` and `VG_100K_2`; give both.
"""

from __future__ import annotations

import abc
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ofa_jax.atomic import JsonObject
from ofa_jax.data.sources import split_paths
from ofa_jax.data.sources.annotated_images import (
    AnnotatedImages,
    AnnotatedRow,
    BoxedImages,
    MadeRows,
    read_items,
)
from ofa_jax.data.sources.box_units import corners
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.left_out import LeftOut
from ofa_jax.data.sources.values import identifier, optional_text, text


@dataclasses.dataclass(frozen=True, kw_only=True)
class _VisualGenome(AnnotatedImages):
    """What the three files have in common: a list with an entry per image.

    Attributes:
      annotations: the JSON files.
    """

    annotations: split_paths.Paths

    @abc.abstractmethod
    def examples(self, entry: JsonObject, place: str, left_out: LeftOut) -> Iterable[Any]:
        """What is kept of the examples of one image."""

    def fields(self, kept: Any) -> Example:
        """Fields of one example."""
        return kept

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """Rows in the order of the file."""
        entries: list[tuple[str, int | str, Any]] = []
        relative = getattr(self, "boxes", "") == "fractions"
        for path in split_paths.files(self.annotations, split, "Visual Genome annotations"):

            def read(entry: JsonObject, path=path) -> None:
                number = identifier(entry["image_id"] if "image_id" in entry else entry["id"])
                found = self.examples(entry, f"{path}, image {number}", left_out)
                entries.extend((path, number, kept) for kept in found)

            read_items(path, read, left_out)

        def make(entry: tuple[str, int | str, Any]) -> AnnotatedRow:
            path, number, kept = entry
            fields = {"image_id": str(number), **self.fields(kept)}
            question = f", question {fields['example_id']}" if "example_id" in fields else ""
            place = f"{path}, image {number}{question}"
            return AnnotatedRow(place, f"{number}.jpg", fields, relative)

        return MadeRows(make, entries)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualGenomeRegions(_VisualGenome, BoxedImages):
    """`region_descriptions.json`: one example per image, a phrase for each of its boxes."""

    def examples(self, entry: JsonObject, place: str, left_out: LeftOut) -> Iterable[Example]:
        """Phrases of one image; blank ones, of which the files have some, are left out."""

        def read(region: JsonObject) -> tuple[str, list[float]]:
            phrase = text(region["phrase"], "the phrase").strip()
            return phrase, corners([region[key] for key in _REGION])

        if regions := left_out.read_each(entry["regions"], read, f"{place}, regions"):
            phrases = [phrase for phrase, _ in regions]
            yield {
                "boxes": np.array([box for _, box in regions], np.float32),
                "region_captions": phrases,
                "refexps": phrases,
                "refexp_box_index": list(range(len(phrases))),
                "type": "visual_grounding",
            }


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualGenomeQuestions(_VisualGenome):
    """`question_answers.json`: one example per question, with its one answer."""

    def examples(self, entry: JsonObject, place: str, left_out: LeftOut) -> list[tuple[str, ...]]:
        """Identifier, question and answer of one image's pairs."""

        def read(pair: JsonObject) -> tuple[str, ...]:
            answer = optional_text(pair["answer"], "the answer")
            if answer is None:
                raise SourceError("there is no answer", Reason.NO_ANSWER)
            question = text(pair["question"], "the question")
            return text(pair["qa_id"], "qa_id"), question, sys.intern(answer)

        return left_out.read_each(entry["qas"], read, f"{place}, qas")

    def fields(self, kept: tuple[str, ...]) -> Example:
        """Fields of one question."""
        number, question, answer = kept
        return {
            "example_id": number,
            "question": question,
            "answers": [answer],
            "answer_conf": [1.0],
            "type": "qa",
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualGenomeObjects(_VisualGenome, BoxedImages):
    """`objects.json`: one example per image; the first of an object's names is its label."""

    def examples(self, entry: JsonObject, place: str, left_out: LeftOut) -> Iterable[Example]:
        """Objects of one image; those without name are left out."""

        def read(one: JsonObject) -> tuple[str, list[float]]:
            name = text(next(iter(one["names"]), None), "the name").strip()
            return name, corners([one[key] for key in _OBJECT])

        if objects := left_out.read_each(entry["objects"], read, f"{place}, objects"):
            labels = [name for name, _ in objects]
            yield {
                "boxes": np.array([box for _, box in objects], np.float32),
                "labels": labels,
                "objects": list(dict.fromkeys(labels)),
                "type": "detection",
            }


_REGION = ("x", "y", "width", "height")
_OBJECT = ("x", "y", "w", "h")
