"""The directory `negative_sample`: what wrong captions and answers are drawn from (SPEC 4.3.2).

The official release brings it; people with other data collect it from their prepared data sets, by
`python -m ofa_jax.negatives DATA_DIR`. `ofa_jax.data.steps.matching` reads it.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterable

import numpy as np

from ofa_jax.data.ops.negatives import HOW_MANY, OTHER
from ofa_jax.data.sources.example import Example, Records
from ofa_jax.data.steps.text import plain_answer

DIRECTORY = "negative_sample"
CAPTIONS, OBJECTS, ANSWERS = "all_captions.txt", "object.txt", "type2ans.json"

# A beginning of questions is a type if so many questions have it; the others are "other".
_FEWEST_QUESTIONS = 20
_TYPE_WORDS = 2


def question_type(question: str) -> str:
    """The type of a question: "how many", or its first two words.

    Args:
      question: any.

    Returns:
      Lower case words; "other" for a question without any.
    """
    words = question.lower().replace("?", " ").split()
    beginning = " ".join(words[:_TYPE_WORDS])
    return HOW_MANY if beginning == HOW_MANY else beginning or OTHER


@dataclasses.dataclass
class NegativeSample:
    """Texts that are right for other images.

    Attributes:
      captions: each once, in order of appearance.
      objects: names of objects with their counts.
      answers: type of question to answers with their counts.
    """

    captions: dict[str, None] = dataclasses.field(default_factory=dict)
    objects: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    answers: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)

    def add(self, example: Example) -> None:
        """Takes what one example of the flat schema has."""
        for caption in example.get("captions", ()):
            if line := " ".join(str(caption).split()):
                self.captions[line] = None
        names = (*example.get("labels", ()), *example.get("objects", ()))
        self.objects.update(line for name in names if (line := " ".join(str(name).split())))
        answers = example.get("answers", ())
        if example.get("question") and len(answers):
            confidences = example.get("answer_conf", np.ones(len(answers)))
            if best := plain_answer(str(answers[int(np.argmax(confidences))])):
                asked = question_type(str(example["question"]))
                self.answers.setdefault(asked, collections.Counter())[best] += 1

    def add_records(self, records: Records, limit: int) -> int:
        """Takes at most `limit` records, evenly spread; unreadable ones are left out.

        Returns:
          Number of records taken.
        """
        taken = 0
        for number in np.linspace(0, len(records) - 1, min(limit, len(records))).astype(np.int64):
            try:
                self.add(records[int(number)])
            except ValueError:
                continue
            taken += 1
        return taken

    def answers_by_type(self) -> dict[str, list[str]]:
        """Type to its answers, most frequent first; an answer belongs to one type.

        Beginnings of few questions, and of one answer only, become "other", which exists always
        where there are answers; where nothing is left for it, it holds all of them.
        """
        kept = {
            asked: counts
            for asked, counts in self.answers.items()
            if asked != OTHER and sum(counts.values()) >= _FEWEST_QUESTIONS and len(counts) > 1
        }
        best: dict[str, tuple[int, str]] = {}
        totals: collections.Counter[str] = collections.Counter()
        for asked, counts in self.answers.items():
            totals.update(counts)
            for answer, count in counts.items():
                place = (count, asked if asked in kept else OTHER)
                best[answer] = max(best.get(answer, place), place)
        if not totals:
            return {}
        by_type: dict[str, list[str]] = {asked: [] for asked in sorted(kept)}
        by_type[OTHER] = []
        for answer, _ in totals.most_common():
            by_type[best[answer][1]].append(answer)
        if len(by_type[OTHER]) < 2:
            by_type[OTHER] = [answer for answer, _ in totals.most_common()]
        return {asked: answers for asked, answers in by_type.items() if answers}

    def write(self, data_dir: str | pathlib.Path) -> list[pathlib.Path]:
        """Writes the files for which there is material.

        Args:
          data_dir: the directory `negative_sample` is made in it.

        Returns:
          The written files.
        """
        directory = pathlib.Path(data_dir) / DIRECTORY
        directory.mkdir(parents=True, exist_ok=True)
        written = []
        for name, lines in ((CAPTIONS, list(self.captions)), (OBJECTS, sorted(self.objects))):
            if lines:
                (directory / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
                written.append(directory / name)
        if by_type := self.answers_by_type():
            text = json.dumps(by_type, ensure_ascii=False, indent=1) + "\n"
            (directory / ANSWERS).write_text(text, "utf-8")
            written.append(directory / ANSWERS)
        return written


def existing(data_dir: str | pathlib.Path) -> list[str]:
    """Names of the files that are there already."""
    directory = pathlib.Path(data_dir) / DIRECTORY
    return [name for name in (CAPTIONS, OBJECTS, ANSWERS) if (directory / name).exists()]


def prepared_directories(data_dir: str | pathlib.Path) -> Iterable[pathlib.Path]:
    """Directories of prepared data sets below a directory, by name."""
    for directory in sorted(pathlib.Path(data_dir).iterdir()):
        if directory.is_dir() and any(directory.glob("*.array_record")):
            yield directory
