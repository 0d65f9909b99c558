"""Tasks whose examples say their number, for tests of batches."""

import dataclasses
import functools

import numpy as np

from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout
from tasks import instructions

SIZE = 8


LENGTHS = {"inputs": 40, "targets": 12, "image": SIZE}


COLORS = ("red", "green", "blue", "white", "black", "pink", "gray")


@functools.cache
def small_tokenizer():
    text = TrainedBPE.train([" what is the complete text of an image of a dog"] * 4, num_merges=64)
    return Tokenizer(text, VocabLayout(num_text=text.num_text, num_codes=16, num_bins=16))


@dataclasses.dataclass(frozen=True)
class NumberedRecords:
    """Images whose pixels say which record of which split they are."""

    size: int
    split: str

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        return {
            "image": np.full((SIZE, SIZE, 3), index, np.uint8),
            "image_id": f"{self.split}-{index}",
            "caption": COLORS[index % len(COLORS)],
            "text": "an image of a dog on an image of a dog",
        }


@dataclasses.dataclass(frozen=True)
class Numbered:
    size: int = 10

    def open(self, split):
        if split not in ("train", "validation"):
            raise ValueError(f"no split {split!r}")
        return NumberedRecords(self.size, split)


@dataclasses.dataclass(frozen=True)
class Flicker:
    """A preparation step that draws: the corner pixel becomes a random number."""

    def __call__(self, example, rng):
        image = example["image"].copy()
        image[0, 0, 0] = rng.integers(256)
        return {**example, "image": image}


def make_task(name, line=instructions.CAPTIONING, *, size=10, **options):
    lines = [line] if isinstance(line, str) else line
    return OFATask(
        name=name,
        family=name,
        instructions=tuple(Instruction.parse(text) for text in lines),
        source=Numbered(size),
        tokenizer=small_tokenizer,
        **options,
    )
