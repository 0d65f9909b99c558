"""Visual Genome's JSON files: region descriptions, questions, objects.

Pictures are named by their number and lie in the folders `VG_100K` and `VG_100K_2`; give both.
"""

from __future__ import annotations

import abc
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ofa_jax.data.sources import split_paths
from ofa_jax.data.sources.annotated_pictures import (
    AnnotatedPictures,
    MadeRows,
    Row,
    corners,
    read_items,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _VisualGenome(AnnotatedPictures):
    """What the three files have in common: a list with an entry per picture.

    Attributes:
      annotations: the JSON files.
    """

    annotations: split_paths.Paths

    @abc.abstractmethod
    def examples(self, entry: Any) -> Iterable[Any]:
        """What is kept of the examples of one picture."""

    def fields(self, kept: Any) -> dict[str, Any]:
        """Fields of one example."""
        return kept

    def table(self, split: str) -> Sequence[Row]:
        """Rows in the order of the file."""
        entries: list[tuple[str, int, Any]] = []
        for path in split_paths.files(self.annotations, split, "Visual Genome annotations"):

            def read(entry: Any, path=path) -> None:
                number = int(entry["image_id"] if "image_id" in entry else entry["id"])
                entries.extend((path, number, kept) for kept in self.examples(entry))

            read_items(path, read)

        def make(entry: tuple[str, int, Any]) -> Row:
            path, number, kept = entry
            fields = {"image_id": str(number), **self.fields(kept)}
            question = f", question {fields['example_id']}" if "example_id" in fields else ""
            return Row(f"{path}, image {number}{question}", f"{number}.jpg", fields)

        return MadeRows(make, entries)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualGenomeRegions(_VisualGenome):
    """`region_descriptions.json`: one example per picture, a phrase for each of its boxes."""

    def examples(self, entry: Any) -> Iterable[dict[str, Any]]:
        """Phrases of one picture; blank ones, of which the files have some, are left out."""
        regions = [region for region in entry["regions"] if str(region["phrase"]).strip()]
        if regions:
            phrases = [str(region["phrase"]).strip() for region in regions]
            boxes = [corners([region[key] for key in _REGION]) for region in regions]
            yield {
                "boxes": np.array(boxes, np.float32),
                "region_captions": phrases,
                "refexps": phrases,
                "refexp_box_index": list(range(len(phrases))),
                "type": "visual_grounding",
            }


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualGenomeQuestions(_VisualGenome):
    """`question_answers.json`: one example per question, with its one answer."""

    def examples(self, entry: Any) -> Iterable[tuple[int, str, str]]:
        """Identifier, question and answer of one picture's pairs."""
        for pair in entry["qas"]:
            yield pair["qa_id"], str(pair["question"]), sys.intern(str(pair["answer"]))

    def fields(self, kept: tuple[int, str, str]) -> dict[str, Any]:
        """Fields of one question."""
        identifier, question, answer = kept
        return {
            "example_id": str(identifier),
            "question": question,
            "answers": [answer],
            "answer_conf": [1.0],
            "type": "qa",
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualGenomeObjects(_VisualGenome):
    """`objects.json`: one example per picture; the first of an object's names is its label."""

    def examples(self, entry: Any) -> Iterable[dict[str, Any]]:
        """Objects of one picture; those without name are left out."""
        objects = [one for one in entry["objects"] if one["names"] and one["names"][0].strip()]
        if objects:
            labels = [one["names"][0].strip() for one in objects]
            boxes = [corners([one[key] for key in _OBJECT]) for one in objects]
            yield {
                "boxes": np.array(boxes, np.float32),
                "labels": labels,
                "objects": list(dict.fromkeys(labels)),
                "type": "detection",
            }


_REGION = ("x", "y", "width", "height")
_OBJECT = ("x", "y", "w", "h")
