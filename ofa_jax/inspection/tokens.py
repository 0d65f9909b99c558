"""The exact token ids that tasks would feed to the model, beside their text.

Third station of an inspection. A task matches a data set if at least one of its records goes
through the task's own preparation; nothing here knows what a task needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ofa_jax import vocab
from ofa_jax.data.sources.example import Example
from ofa_jax.data.tasks.instruction import Features
from ofa_jax.data.tasks.task import Lengths, OFATask
from ofa_jax.text.tokenizer import Tokenizer

_GREY = 128


@dataclasses.dataclass(frozen=True)
class Piece:
    """One token.

    Attributes:
      token_id: internal id.
      text: what it stands for; `<s>` and `</s>` for bos and eos.
      trained: whether it counts in the loss; True for tokens of the source.
    """

    token_id: int
    text: str
    trained: bool = True


@dataclasses.dataclass(frozen=True)
class TokenExample:
    """One record as a task feeds it.

    Attributes:
      record: its number.
      image_id: its identifier.
      inputs: tokens of the source.
      targets: tokens of the target.
      source_text: the source decoded.
      target_text: the target decoded.
      weight: largest loss weight of a target token.
      image: uint8[y, x, 3] that the model reads, a hole painted grey; None without image.
      regions: boxes in the task's source and target, float32[n, 4], pixels of `image`.
    """

    record: int
    image_id: str
    inputs: tuple[Piece, ...]
    targets: tuple[Piece, ...]
    source_text: str
    target_text: str
    weight: float
    image: np.ndarray | None
    regions: np.ndarray


@dataclasses.dataclass(frozen=True)
class TaskView:
    """What one task makes of a data set.

    Attributes:
      task: the task.
      examples: the first records that it could read.
      tried: records that were tried.
      refusal: why it could not read the last record that failed; "" where none failed.
    """

    task: OFATask
    examples: tuple[TokenExample, ...]
    tried: int
    refusal: str

    @property
    def matches(self) -> bool:
        """Whether the task can use this data set."""
        return bool(self.examples)


def pieces(
    ids: Iterable[int], tokenizer: Tokenizer, weights: Sequence[float] | np.ndarray | None = None
) -> tuple[Piece, ...]:
    """Tokens one by one, each with its own text.

    Args:
      ids: internal ids.
      tokenizer: of the task.
      weights: loss weight of each, where they are targets.
    """
    names = {vocab.PAD_ID: "<pad>", vocab.BOS_ID: "<s>", vocab.EOS_ID: "</s>"}
    found = []
    for place, token in enumerate(map(int, ids)):
        text = names.get(token) or tokenizer.decode([token])
        found.append(Piece(token, text, weights is None or bool(weights[place] > 0)))
    return tuple(found)


def regions_of(ids: Iterable[int], tokenizer: Tokenizer) -> np.ndarray:
    """float32[n, 4]: boxes of the complete groups of four bins, in pixels of the model input."""
    layout = tokenizer.layout
    found, run = [], []
    for token in [*map(int, ids), vocab.EOS_ID]:
        if token >= layout.bin_start:
            run.append(token)
            continue
        for start in range(0, len(run) - 3, 4):
            box = tokenizer.decode_box(np.array(run[start : start + 4]))
            found += [] if box is None else [box]
        run = []
    return np.array(found, np.float32).reshape(-1, 4)


def _seen(features: Features) -> np.ndarray:
    """The image as the model sees it: a hole is 0 after normalization, which is mid grey."""
    x0, y0, x1, y1 = features["image_hole"].tolist()
    image = features["image"].copy()
    image[y0:y1, x0:x1] = _GREY
    return image


def view(
    task: OFATask,
    records: Mapping[int, Example],
    lengths: Lengths,
    *,
    seed: int = 0,
    most: int = 3,
) -> TaskView:
    """Feeds records to a task until some went through.

    Args:
      task: the task; its own source is not opened.
      records: number of each record, on which its random draws depend, to the record.
      lengths: task feature lengths.
      seed: seed of the preparation.
      most: examples that are wanted.

    Returns:
      What came of it.

    Raises:
      ValueError: the task's vocabulary cannot be loaded.
    """
    tokenizer = task.tokenizer()
    examples: list[TokenExample] = []
    tried, refusal = 0, ""
    for number, record in records.items():
        tried += 1
        try:
            rng = task.rng(seed, 0, number)
            prepared = task.prepared(record, rng, lengths, train=True)
            features = task.features(prepared, rng, lengths, train=True)
        except Exception as error:  # Whatever a task does with a record it was not made for.
            missing = f"there is no field {error}" if isinstance(error, KeyError) else str(error)
            refusal = " ".join(missing.split())
            continue
        weights = features["loss_weights"]
        ids = [*features["inputs"], *features["targets"]]
        examples.append(
            TokenExample(
                record=number,
                image_id=str(record.get("image_id", "")),
                inputs=pieces(features["inputs"], tokenizer),
                targets=pieces(features["targets"], tokenizer, weights),
                source_text=tokenizer.decode(features["inputs"]),
                target_text=tokenizer.decode(features["targets"]),
                weight=float(weights.max()),
                image=_seen(features) if features["image_mask"][0] else None,
                regions=regions_of(ids, tokenizer),
            )
        )
        if len(examples) == most:
            break
    return TaskView(task, tuple(examples), tried, refusal)


def views(
    tasks: Iterable[OFATask],
    records: Mapping[int, Example],
    lengths: Lengths,
    *,
    seed: int = 0,
    most: int = 3,
) -> list[TaskView]:
    """`view` for several tasks; those that match come first."""
    found = [view(task, records, lengths, seed=seed, most=most) for task in tasks]
    return sorted(found, key=lambda one: not one.matches)
