"""The embedded data set `scenes` as a random-access source of examples.

Last station of this package and first of the input pipeline: `ScenesSource` puts image and
annotations of one scene together in the flat example schema. It is cheap to make, picklable, and
needs no files, so worker processes and hosts simply make their own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ofa_jax.scenes import descriptions, world
from ofa_jax.scenes.descriptions import label, region_caption
from ofa_jax.scenes.presets import ScenesConfig, preset
from ofa_jax.scenes.questions import questions, region_questions
from ofa_jax.scenes.renderer import render
from ofa_jax.scenes.world import Dice, Scene

Example = dict[str, Any]

# One stream of chance per kind of annotation, so that changing one leaves the others alone. New
# streams go to the end.
_STREAMS = ("scene", "captions", "questions", "regions", "references", "negatives", "text")

# What an example takes in memory beside its image, rounded up (measured: 5 to 7 kB).
_BYTES_OF_WORDS = 7_500


class ScenesSource:
    """One split of `scenes`.

    Attributes:
      config: the world.
      split: name in `presets.SPLITS`.
      seed: seed of the data set.
      hardness: share of false captions that are one-word changes (see `descriptions.negatives`).
      cache_size: number of examples kept in memory (least recently used go first); 0 keeps none.
        An example of `tiny` takes 8 kB, of `small` 19 kB, of `base` 58 kB.
    """

    def __init__(
        self,
        preset_name: str | ScenesConfig = "tiny",
        split: str = "train",
        seed: int = 0,
        *,
        hardness: float = 1.0,
        cache_size: int = 0,
    ):
        """Makes the source; nothing is drawn yet.

        Args:
          preset_name: name in `presets.PRESETS`, or a configuration.
          split: name in `presets.SPLITS`.
          seed: seed of the data set, not negative.
          hardness: see the class.
          cache_size: see the class.

        Raises:
          ValueError: for an unknown preset or split, or a number out of range.
        """
        self.config = preset(preset_name)
        self.split = split
        self.seed = seed
        self.hardness = hardness
        self.cache_size = cache_size
        self._size = self.config.split_size(split)
        if seed < 0:
            raise ValueError(f"the seed of scenes must not be negative, got {seed}")
        if not 0 <= hardness <= 1:
            raise ValueError(f"hardness must lie in 0..1, got {hardness}")
        self._open_cache()

    def _open_cache(self) -> None:
        self._example = self._make
        if self.cache_size:
            self._example = functools.lru_cache(self.cache_size)(self._make)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_example"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open_cache()

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"ScenesSource({self.config.name!r}, {self.split!r}, seed={self.seed})"

    def _dice(self, index: int) -> list[int]:
        if not 0 <= index < self._size:
            raise IndexError(f"{self!r} has {self._size} examples, index {index} is out of range")
        return world.dice_for(self.seed, self.split, index, len(_STREAMS))

    def scene(self, index: int) -> Scene:
        """The scene graph of one example, without image and words."""
        return world.sample_scene(self.config, self.split, Dice(self._dice(index)[0]))

    def images(self, indices: Iterable[int]) -> np.ndarray:
        """uint8[examples, y, x, 3]: the images of some examples, without their words."""
        return np.stack([render(self.scene(index)) for index in indices])

    def __getitem__(self, index: int) -> Example:
        """One example.

        Args:
          index: number in [0, len(self)).

        Returns:
          A new dict (its values are shared with the cache: do not write into them) with

          - image uint8[y, x, 3], image_id str, dataset "scenes", type "scene";
          - boxes float32[n, 4] xyxy in pixels, labels ["red circle", ...], region_captions
            ["a small red circle", ...]: one for each object, from left to right;
          - captions: true ones, the first complete; negatives: false ones; negative_kinds:
            "hard" or "easy" for each;
          - refexps and refexp_box_index int32[refexps]; some objects may have none;
          - qa: dicts question, answer, kind; question, answers, answer_conf: the first of them;
          - region_qa: dicts question, answer, kind, box_index, candidates, needs_region;
          - text: a sentence about an imaginary scene;
          - scene: the scene graph as a plain dict, for `truth`.

        Raises:
          IndexError: for an index out of range.
        """
        return dict(self._example(int(index)))

    def _make(self, index: int) -> Example:
        config, split = self.config, self.split
        dice = dict(zip(_STREAMS, map(Dice, self._dice(index))))
        scene = world.sample_scene(config, split, dice["scene"])
        captions = descriptions.captions(scene, config, dice["captions"])
        false = descriptions.negatives(
            scene, captions, config, split, dice["negatives"], self.hardness
        )
        references = descriptions.referring_expressions(scene, dice["references"])
        qa = questions(scene, config, split, dice["questions"])
        return {
            "image": render(scene),
            "image_id": f"scenes-{config.name}-{split}-{self.seed}-{index}",
            "dataset": "scenes",
            "type": "scene",
            "boxes": np.array([o.box for o in scene.objects], np.float32),
            "labels": [label(o) for o in scene.objects],
            "region_captions": [region_caption(o) for o in scene.objects],
            "captions": [str(caption) for caption in captions],
            "negatives": [str(caption) for caption, _ in false],
            "negative_kinds": [difficulty for _, difficulty in false],
            "refexps": [str(reference) for reference, _ in references],
            "refexp_box_index": np.array([i for _, i in references], np.int32),
            "qa": qa,
            "question": qa[0]["question"],
            "answers": [qa[0]["answer"]],
            "answer_conf": [1.0],
            "region_qa": region_questions(scene, config, dice["regions"]),
            "text": sentence(config, split, self.seed, index),
            "scene": scene.to_dict(),
        }


def sentence(config: ScenesConfig, split: str, seed: int, index: int) -> str:
    """The text of one example, for text infilling, without the rest of it."""
    stream = world.dice_for(seed, split, index, len(_STREAMS))[_STREAMS.index("text")]
    return str(descriptions.statement(config, split, Dice(stream)))


@functools.lru_cache(maxsize=32)
def _shared(
    config: ScenesConfig, split: str, seed: int, hardness: float, cache_size: int
) -> ScenesSource:
    return ScenesSource(config, split, seed, hardness=hardness, cache_size=cache_size)


@dataclasses.dataclass(frozen=True)
class ScenesSplits:
    """All splits of `scenes`, opened by name (the protocol `ofa_jax.data.tasks.task.Source`).

    Tasks over equal worlds share one source per process, and so its cache: what the captioning
    task drew, the grounding task need not draw again.

    Attributes:
      preset: name in `presets.PRESETS`, or a configuration.
      seed: seed of the data set.
      hardness: see `ScenesSource`.
      cache_megabytes: upper limit of the memory that the examples of one split may fill; the
        default holds all of `tiny`. 0 keeps none.
    """

    preset: str | ScenesConfig = "tiny"
    seed: int = 0
    hardness: float = 1.0
    cache_megabytes: int = 256

    def open(self, split: str) -> ScenesSource:
        """The source of one split.

        Raises:
          ValueError: for an unknown preset or split.
        """
        config = preset(self.preset)
        bytes_per_example = 3 * config.pixels**2 + _BYTES_OF_WORDS
        cache_size = self.cache_megabytes * 1_000_000 // bytes_per_example
        return _shared(config, split, self.seed, self.hardness, cache_size)


def corpus(
    preset_name: str | ScenesConfig,
    instructions: Iterable[str] = (),
    *,
    num_scenes: int = 600,
    seed: int = 0,
) -> list[str]:
    """Text to train the small BPE on.

    Comes from the training split, so held-out pairs do not occur; all single words do.

    Args:
      preset_name: name in `presets.PRESETS`, or a configuration.
      instructions: wordings of the tasks; they are repeated, to count as often as the sentences.
      num_scenes: scenes whose sentences are taken.
      seed: seed of the data set.

    Returns:
      Sentences with one leading space, as words stand in the model's input.
    """
    source = ScenesSource(preset_name, "train", seed)
    config = source.config
    lines: list[str] = []
    for index in range(min(num_scenes, len(source))):
        example = source[index]
        lines += example["captions"] + example["negatives"] + example["refexps"]
        lines += example["labels"] + example["region_captions"] + [example["text"]]
        for entry in (*example["qa"], *example["region_qa"]):
            lines += [entry["question"], entry["answer"]]
    words = (*config.colors, *config.shapes, *config.backgrounds, *config.size_names, "yes", "no")
    lines += words * 20
    lines += list(instructions) * max(num_scenes // 4, 1)
    return [" " + line.strip() for line in lines]
