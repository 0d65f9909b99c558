"""Views of a scene in which one attribute has no name, so that each is learnt by itself.

A world in which a red thing is one of three shapes, without an exception, teaches that rule before
it teaches shapes, and a fourth shape in red is not named (docs/composition.md). Here colors are
learnt from things of no named shape, and shapes from things of no named color: whatever a rule
would say of the pair is not to be seen. What cannot be seen is not scored, either.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

from ofa_jax.data.ops.hidden_words import UNREAD_WORDS, UNSCORED_WORDS
from ofa_jax.data.sources.example import Example
from ofa_jax.scenes import grammar, presets, renderer
from ofa_jax.scenes.descriptions import captions, describe, hard_negative
from ofa_jax.scenes.presets import ScenesConfig, preset
from ofa_jax.scenes.questions import ATTRIBUTE_WORDINGS, attribute_question
from ofa_jax.scenes.world import Dice, Scene

# A paint has no name if its hue (0..1) is this far from that of every color that has one, or if it
# has hardly any: if its strongest and weakest channel (0..255) are no further apart than this.
FROM_HUES = 0.075
FAINTEST_HUE = 64.0
# Distance of red, green and blue (0..255 each) from the background that it must stand out from.
FROM_BACKGROUND = 110.0
_SHARE_OF_GRAYS = 0.3
# A form in the place of a shape is one that other worlds name this often, where there are any.
_SHARE_OF_OTHER_SHAPES = 0.5
# Share of the false descriptions that are true of another object of the image, where there is one.
_SHARE_OF_NEIGHBORS = 0.8

Paint = tuple[float, float, float]
Attribute = Literal["color", "shape"]
_OTHER_ATTRIBUTE: dict[str, Attribute] = {"color": "shape", "shape": "color"}


def _hue(paint: Paint) -> float:
    return colorsys.rgb_to_hsv(*(channel / 255 for channel in paint))[0]


@functools.cache
def _hues(colors: tuple[str, ...]) -> np.ndarray:
    return np.array([_hue(presets.COLORS[color]) for color in colors])


def has_name(paint: Paint, config: ScenesConfig) -> bool:
    """Whether a paint might be called by one of the colors of a world."""
    apart = np.abs(_hues(config.colors) - _hue(paint))
    is_near = float(np.minimum(apart, 1 - apart).min()) < FROM_HUES
    return is_near and max(paint) - min(paint) > FAINTEST_HUE


def unnamed_paint(config: ScenesConfig, background: str, rng: np.random.Generator) -> Paint:
    """A paint that no color of a world names, and that stands out from the background."""
    behind = np.array(presets.BACKGROUNDS[background], np.float64)
    while True:
        gray = rng.random() < _SHARE_OF_GRAYS
        drawn = np.full(3, rng.uniform(0, 255)) if gray else rng.uniform(0, 255, 3)
        paint: Paint = tuple(drawn.tolist())
        if np.linalg.norm(drawn - behind) >= FROM_BACKGROUND and not has_name(paint, config):
            return paint


def unnamed_shape(config: ScenesConfig, rng: np.random.Generator) -> str:
    """A shape that has no name in a world: one of another world, or a form without any."""
    others = [shape for shape in presets.SHAPES if shape not in config.shapes]
    forms = renderer.forms()
    choices = others if others and rng.random() < _SHARE_OF_OTHER_SHAPES else forms
    return choices[rng.integers(len(choices))]


def random_wear(side: int, rng: np.random.Generator) -> np.ndarray:
    """float32[side, side, 1] in 0..1: paint that has come off in a few soft spots.

    Heights at the corners of a coarse grid, drawn by lot, are smoothed over the surface, and the
    lowest tenth to half of it loses up to all of its paint.
    """
    cells = int(rng.integers(2, 5))
    at = np.linspace(0, cells, side)
    near = np.maximum(1 - np.abs(at[:, None] - np.arange(cells + 1)), 0)
    heights = near @ rng.random((cells + 1, cells + 1)) @ near.T
    level = np.quantile(heights, rng.uniform(0.1, 0.5))
    left = np.clip((heights - level) * 6 + 0.5, rng.uniform(0.0, 0.4), 1.0)
    return left[..., None].astype(np.float32)


@functools.cache
def color_words(config: ScenesConfig) -> tuple[str, ...]:
    """Words of a text that tell a color, with the article that goes by its first letter."""
    return (*config.colors, *(f"{grammar.article(color)} {color}" for color in config.colors))


@functools.cache
def shape_words(config: ScenesConfig) -> tuple[str, ...]:
    """Words of a text that tell a shape, of one or of several."""
    return (*config.shapes, *map(grammar.plural, config.shapes))


@dataclasses.dataclass(frozen=True)
class SceneViews:
    """Step of training: shows the scenes without colors, without shapes, with worn paint.

    In the target the words of what is not to be seen are left unscored.

    Attributes:
      preset: the world, a name in `presets.PRESETS` or a configuration.
      without_colors: share of the scenes whose objects have paints without a name.
      without_shapes: share of the scenes whose objects have shapes without a name.
      worn: share of the objects, of every scene, that have lost some of their paint.
      unread: share of the examples in which the decoder reads neither colors nor shapes of what it
        said, so that it learns each from the image; without it only what is not to be seen.
      told_by: fields with texts that speak of the scene; what one of them names is to be seen.
    """

    preset: str | ScenesConfig = "tiny"
    without_colors: float = 0.65
    without_shapes: float = 0.35
    worn: float = 0.1
    unread: float = 0.8
    told_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shares = (self.without_colors, self.without_shapes)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(
                "SceneViews.without_colors and without_shapes must be shares of at most 1 "
                f"together, got {self.without_colors} and {self.without_shapes}"
            )
        for name in ("worn", "unread"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"SceneViews.{name} must be a share, got {getattr(self, name)}")

    def _hidden(
        self, example: Example, config: ScenesConfig, rng: np.random.Generator
    ) -> tuple[str, ...]:
        """Words of the attribute that is not to be seen, if any."""
        drawn = rng.random()
        if drawn < self.without_colors:
            hidden = color_words(config)
        elif drawn < self.without_colors + self.without_shapes:
            hidden = shape_words(config)
        else:
            return ()
        told = {word for field in self.told_by for word in str(example[field]).split()}
        return () if told.intersection(hidden) else hidden

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        config = preset(self.preset)
        scene = Scene.from_dict(example["scene"])
        hidden = self._hidden(example, config, rng)
        paints = None
        if hidden and hidden[0] in config.colors:
            paints = [unnamed_paint(config, scene.background, rng) for _ in scene.objects]
        elif hidden:
            unnamed = [
                dataclasses.replace(o, shape=unnamed_shape(config, rng)) for o in scene.objects
            ]
            scene = dataclasses.replace(scene, objects=tuple(unnamed))
        wear = [
            random_wear(o.box[2] - o.box[0], rng) if rng.random() < self.worn else None
            for o in scene.objects
        ]
        if hidden or any(left is not None for left in wear):
            example = {**example, "image": renderer.render(scene, paints, wear)}
        unread = hidden
        if rng.random() < self.unread:
            unread = (*color_words(config), *shape_words(config))
        return {**example, UNSCORED_WORDS: hidden, UNREAD_WORDS: unread}


@dataclasses.dataclass(frozen=True)
class SentenceViews:
    """Step of training for text infilling: hides the colors of a text, or its shapes.

    What is hidden is neither read nor scored, so that texts do not tell which shapes a color has.

    Attributes:
      preset: the world, a name in `presets.PRESETS` or a configuration.
      without_colors: share of the texts without colors; the others are without shapes.
    """

    preset: str | ScenesConfig = "tiny"
    without_colors: float = 0.5

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        config = preset(self.preset)
        without_colors = rng.random() < self.without_colors
        hidden = color_words(config) if without_colors else shape_words(config)
        return {**example, UNSCORED_WORDS: hidden, UNREAD_WORDS: hidden}


def _without(scene: Scene, attribute: Attribute) -> Scene:
    """The scene with that attribute of its objects left empty: no phrase then speaks of it."""
    bare = [
        dataclasses.replace(o, color="")
        if attribute == "color"
        else dataclasses.replace(o, shape="")
        for o in scene.objects
    ]
    return dataclasses.replace(scene, objects=tuple(bare))


def _view_without(
    config: ScenesConfig, attribute: Attribute | None, worn: float
) -> Callable[[Example, np.random.Generator], Example]:
    colors, shapes = float(attribute == "color"), float(attribute == "shape")
    return SceneViews(config, colors, shapes, worn, unread=0.0)


def _dice(rng: np.random.Generator) -> Dice:
    return Dice(int(rng.integers(2**62)))


@dataclasses.dataclass(frozen=True)
class QuestionViews:
    """Step of training behind `ChooseQuestion`: asks for a color or a shape without the other.

    A question for a shape is asked of a view without colors, and speaks of none ("what shape is
    the object left of the circle"); one for a color likewise, each in several wordings. All others
    stay.

    Attributes:
      preset: the world, a name in `presets.PRESETS` or a configuration.
      worn: share of the objects that have lost some of their paint.
    """

    preset: str | ScenesConfig = "tiny"
    worn: float = 0.1

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        asked = example["question_kind"]
        hidden = _OTHER_ATTRIBUTE.get(asked)
        if hidden is not None:
            scene = Scene.from_dict(example["scene"])
            found = attribute_question(
                _without(scene, hidden), asked, _dice(rng), ATTRIBUTE_WORDINGS
            )
            # Where nothing else tells the objects apart, they are counted.
            question, answer = found or ("how many objects are there", str(len(scene.objects)))
            example = {**example, "question": question, "answer": answer}
        return _view_without(preset(self.preset), hidden, self.worn)(example, rng)


@dataclasses.dataclass(frozen=True)
class MatchViews:
    """Step of training for matching: texts without colors or shapes, of a view without them.

    Sets `caption`, a true one or, half of the time, one with a word changed, `region` with
    `region_caption`, which are as true, and `answer`, yes or no. Of regions another task speaks,
    too: a model that meets "region:" in one only takes the word for that task's name
    (docs/composition.md).

    Attributes:
      preset: the world, a name in `presets.PRESETS` or a configuration.
      without_colors: share of the views without colors; the others are without shapes.
      worn: share of the objects that have lost some of their paint.
    """

    preset: str | ScenesConfig = "tiny"
    without_colors: float = 0.5
    worn: float = 0.1

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        config, dice = preset(self.preset), _dice(rng)
        hidden: Attribute = "color" if dice.chance(self.without_colors) else "shape"
        scene = _without(Scene.from_dict(example["scene"]), hidden)
        caption = dice.pick(captions(scene, config, dice))
        # No noun has both attributes, so none is a pair that is held out.
        false = hard_negative(scene, caption, config, (), dice) if dice.chance(0.5) else None
        number = dice.below(len(scene.objects))
        told = describe(scene.objects[number])
        texts = {"caption": str(caption), "region_caption": told.indefinite, "answer": "yes"}
        if false is not None:
            other = _another(told, scene, config, dice)
            texts = {"caption": str(false), "region_caption": other.indefinite, "answer": "no"}
        region = np.array(scene.objects[number].box, np.float32)
        example = {**example, "region": region, **texts}
        return _view_without(config, hidden, self.worn)(example, rng)


def _another(noun: grammar.Noun, scene: Scene, config: ScenesConfig, dice: Dice) -> grammar.Noun:
    """A noun of one attribute that is not true of an object: that of a neighbor, or any."""
    neighbors = [other for o in scene.objects if (other := describe(o)) != noun]
    if neighbors and dice.chance(_SHARE_OF_NEIGHBORS):
        return dice.pick(neighbors)
    if noun.color:
        return dataclasses.replace(
            noun, color=dice.pick([color for color in config.colors if color != noun.color])
        )
    return dataclasses.replace(
        noun, shape=dice.pick([shape for shape in config.shapes if shape != noun.shape])
    )
