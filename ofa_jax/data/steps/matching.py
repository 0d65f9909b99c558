"""Preparation steps of image-text matching over official data: right and wrong pairs (SPEC 4.3.2).

Wrong captions and answers come from the files of the directory `negative_sample`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib

import numpy as np

from ofa_jax.checkpoint.bucket import is_remote
from ofa_jax.data.ops import negatives
from ofa_jax.data.sources import bucket_file, locations
from ofa_jax.data.sources.example import Example, InstructionError
from ofa_jax.schema import parse_json


@dataclasses.dataclass(frozen=True)
class MatchCaption:
    """Keeps the caption or, half of the time, replaces it; sets `answer` to yes or no.

    Attributes:
      directory: holds `all_captions.txt` and `object.txt`.
    """

    directory: str

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() < 0.5:
            return {**example, "answer": "yes"}
        caption = negatives.negative_caption(
            example["caption"],
            example.get("objects", ()),
            _lines(self.directory, "all_captions.txt"),
            _lines(self.directory, "object.txt"),
            rng,
        )
        return {**example, "caption": caption, "answer": "no"}


@dataclasses.dataclass(frozen=True)
class MatchAnswer:
    """Sets `candidate` to the best answer or a wrong one, `answer` to yes or no.

    Attributes:
      directory: holds `type2ans.json`.
    """

    directory: str

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        right = example["answer"]
        if not right:
            raise InstructionError(f"example {example.get('image_id', '?')!r} has no answers")
        if rng.random() < 0.5:
            return {**example, "candidate": right, "answer": "yes"}
        by_type, types = _answers(self.directory)
        wrong = negatives.negative_answer(right, example["confidence"], by_type, types, rng)
        return {**example, "candidate": wrong, "answer": "no"}


@dataclasses.dataclass(frozen=True)
class SkipNoisyStart:
    """Leaves the first two target tokens of one data set out of the loss (SPEC 4.3.1)."""

    dataset: str = "cc12m"
    tokens: int = 2

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        if example.get("dataset") != self.dataset:
            return example
        return {**example, "loss_skip_prefix": self.tokens}


def _text(path: str) -> str:
    if is_remote(path):
        found = bucket_file.read_file(path)
    else:
        found = pathlib.Path(path).read_bytes() if os.path.isfile(path) else None
    if found is None:
        raise ValueError(f"{path} does not exist; image-text matching draws wrong pairs from it")
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason})") from error


@functools.lru_cache(maxsize=8)
def _lines(directory: str, name: str) -> tuple[str, ...]:
    text = _text(f"{locations.resolve(directory)}/{name}")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


@functools.lru_cache(maxsize=8)
def _answers(directory: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    path = f"{locations.resolve(directory)}/type2ans.json"
    by_type = parse_json(_text(path), path)
    lists = by_type.values() if isinstance(by_type, dict) else [None]
    if not all(isinstance(one, list) and all(isinstance(a, str) for a in one) for one in lists):
        raise ValueError(f"{path} must hold a list of answers for each type")
    return by_type, negatives.types_of_answers(by_type)
