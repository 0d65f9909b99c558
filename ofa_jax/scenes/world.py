"""The world of `scenes`: what a scene is made of and how one is drawn by lot.

First station of the embedded data set: `presets` chooses a world, this module samples a scene
graph, `renderer` paints it, `descriptions` and `questions` talk about it, `truth` judges what a
model says about it. A scene is a pure function of (preset, seed, split, index): no files, any
order, exact resume.
"""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ofa_jax.scenes.presets import SPLITS, ScenesConfig

RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
OPPOSITES: dict[str, str] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}

_BUCKETS = 8
_SPLIT_BUCKETS: dict[str, tuple[int, ...]] = {
    "train": (0, 1, 2, 3, 4, 5),
    "validation": (6,),
    "test": (7,),
    "compositions": tuple(range(_BUCKETS)),
    "unseen_style": (7,),
}
_PLACEMENT_TRIES = 40

T = TypeVar("T")


class Dice(random.Random):
    """Draws that are stable across processes, platforms and versions of Python.

    Only `random()` of the standard generator is guaranteed never to change, so every draw here
    comes from it. It is also ten times faster than single draws of a numpy generator.
    """

    def below(self, limit: int) -> int:
        """A uniform integer in [0, limit)."""
        return int(self.random() * limit)

    def pick(self, items: Sequence[T]) -> T:
        """A uniform element of a non-empty sequence."""
        return items[int(self.random() * len(items))]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in uniform random order (Fisher-Yates)."""
        out = list(items)
        for last in range(len(out) - 1, 0, -1):
            other = int(self.random() * (last + 1))
            out[last], out[other] = out[other], out[last]
        return out


def dice_for(seed: int, split: str, index: int, streams: int) -> list[int]:
    """Seeds of the independent streams of one example.

    Args:
      seed: seed of the data set, not negative.
      split: name in `SPLITS`.
      index: number of the example in its split, not negative.
      streams: how many streams are wanted. A longer list begins with the shorter one.

    Returns:
      `streams` integers; each makes one `Dice`.

    Raises:
      ValueError: for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of scenes; known: {', '.join(SPLITS)}")
    sequence = np.random.SeedSequence((seed, SPLITS.index(split), index))
    return sequence.generate_state(streams, np.uint64).tolist()


@dataclasses.dataclass(frozen=True, slots=True)
class SceneObject:
    """One object of a scene.

    Attributes:
      color: name in `presets.COLORS`.
      shape: name in `presets.SHAPES`.
      size: name in `presets.SIZES`, or "" in worlds where all objects have about the same size.
      box: (x0, y0, x1, y1) in pixels; x1 and y1 are one past the last painted pixel.
      brightness: added to the three channels of the colour (0..255 scale).
    """

    color: str
    shape: str
    size: str
    box: tuple[int, int, int, int]
    brightness: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """A scene graph. Objects stand from left to right (by x0, then y0).

    Attributes:
      pixels: side of the square image.
      background: name in `presets.BACKGROUNDS`.
      style: name of the drawing style, see `renderer`.
      objects: the objects; their boxes do not overlap.
    """

    pixels: int
    background: str
    style: str
    objects: tuple[SceneObject, ...]

    def to_dict(self) -> dict[str, object]:
        """The scene as plain dicts, lists, strings and integers (ready for JSON)."""
        return {
            "pixels": self.pixels,
            "background": self.background,
            "style": self.style,
            "objects": [
                {
                    "color": o.color,
                    "shape": o.shape,
                    "size": o.size,
                    "box": list(o.box),
                    "brightness": o.brightness,
                }
                for o in self.objects
            ],
        }

    @classmethod
    def from_dict(cls, scene: Mapping[str, Any]) -> Scene:
        """Inverse of `to_dict`.

        Args:
          scene: a mapping as written by `to_dict`.

        Returns:
          The scene.

        Raises:
          ValueError: if an entry is missing.
        """
        try:
            objects = tuple(
                SceneObject(
                    o["color"], o["shape"], o["size"], tuple(o["box"]), o.get("brightness", 0)
                )
                for o in scene["objects"]
            )
            return cls(scene["pixels"], scene["background"], scene["style"], objects)
        except KeyError as error:
            raise ValueError(f"a scene needs the entry {error}; see Scene.to_dict") from None


def relation_holds(first: SceneObject, relation: str, second: SceneObject) -> bool:
    """Whether two objects stand in a spatial relation.

    A relation is strict: "left of" means that the whole first box lies left of the second one.
    Boxes never overlap, so at least one relation holds between any two objects, and a relation
    and its opposite never hold together.

    Args:
      first: subject of the relation.
      relation: name in `RELATIONS`.
      second: anchor of the relation.

    Returns:
      Whether it holds.
    """
    a, b = first.box, second.box
    if relation == "left of":
        return a[2] <= b[0]
    if relation == "right of":
        return b[2] <= a[0]
    if relation == "above":
        return a[3] <= b[1]
    return b[3] <= a[1]


def main_relation(first: SceneObject, second: SceneObject) -> str:
    """The relation that describes two objects best: along the axis with the wider gap.

    Args:
      first: subject of the relation.
      second: anchor of the relation.

    Returns:
      Name in `RELATIONS`; it always holds.
    """
    a, b = first.box, second.box
    gaps = (b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3])
    return RELATIONS[gaps.index(max(gaps))]


def _separate(a: tuple[int, int, int, int], b: tuple[int, int, int, int], gap: int) -> bool:
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]


def _place(sides: Sequence[int], config: ScenesConfig, dice: Dice) -> list[tuple] | None:
    """Boxes of the given sides that do not overlap, or None if the lot was unlucky."""
    boxes: list[tuple[int, int, int, int]] = []
    for side in sides:
        for _ in range(_PLACEMENT_TRIES):
            places = (config.pixels - side) // config.grid + 1
            x, y = dice.below(places) * config.grid, dice.below(places) * config.grid
            box = (x, y, x + side, y + side)
            if all(_separate(box, other, config.gap) for other in boxes):
                boxes.append(box)
                break
        else:
            return None
    return boxes


def _draw_objects(
    config: ScenesConfig, dice: Dice, split: str, count: int
) -> list[SceneObject] | None:
    """Objects of a scene, or None if the lot was unlucky."""
    if split == "compositions":
        pairs = [dice.pick(config.held_out)]
        pairs += [dice.pick(config.all_pairs) for _ in range(count - 1)]
    else:
        pairs = [dice.pick(config.seen_pairs) for _ in range(count)]
    sizes = [dice.pick(config.sizes) for _ in range(count)]
    # Something must be describable without ambiguity, for grounding and for questions.
    looks = [(pair, size[0]) for pair, size in zip(pairs, sizes)]
    if all(looks.count(look) > 1 for look in looks):
        return None
    grid = config.grid
    sides = [low + dice.below((high - low) // grid + 1) * grid for _, low, high in sizes]
    boxes = _place(sides, config, dice)
    if boxes is None:
        return None
    jitter = config.brightness_jitter
    return [
        SceneObject(
            color, shape, size[0], box, dice.below(2 * jitter + 1) - jitter if jitter else 0
        )
        for (color, shape), size, box in zip(pairs, sizes, boxes)
    ]


def draw_scene(config: ScenesConfig, dice: Dice, split: str = "train") -> Scene:
    """Draws a scene from the distribution of a split, whether or not it belongs to that split.

    Also makes the imaginary scenes that sentences without an image speak about.

    Args:
      dice: source of chance.
      split: decides on colour-shape pairs and drawing styles.

    Returns:
      A scene. In "compositions" at least one object has a held-out colour-shape pair, in the
      other splits none has. At least one object differs from all others in colour, shape or size.
    """
    drawn = None
    count = dice.pick(config.object_counts)
    while drawn is None:
        drawn = _draw_objects(config, dice, split, count)
    objects = sorted(drawn, key=lambda o: o.box)
    styles = config.unseen_styles if split == "unseen_style" else config.styles
    return Scene(config.pixels, dice.pick(config.backgrounds), dice.pick(styles), tuple(objects))


def _bucket(scene: Scene) -> int:
    """Which of the disjoint shares of all possible layouts a scene falls into."""
    parts = [scene.background]
    parts += [f"{o.color},{o.shape},{o.box}" for o in scene.objects]
    return zlib.crc32(";".join(parts).encode()) % _BUCKETS


def sample_scene(config: ScenesConfig, split: str, dice: Dice) -> Scene:
    """Draws a scene that belongs to a split.

    All layouts (background, colours, shapes, boxes) are divided by a hash into shares for train,
    validation and test, so no image of one is ever an image of another, whatever the seeds:
    the small worlds would otherwise repeat themselves.

    Args:
      split: name in `SPLITS`.
      dice: source of chance.

    Returns:
      The scene.
    """
    buckets = _SPLIT_BUCKETS[split]
    while True:
        scene = draw_scene(config, dice, split)
        if _bucket(scene) in buckets:
            return scene
