"""Questions about a scene and about single regions of it, with their answers.

Only what has one right answer is asked. Questions carry no question mark, as in the official
pretraining data (SPEC 4.3.3); the instruction adds one where it wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from ofa_jax.scenes import world
from ofa_jax.scenes.descriptions import Pairs, describe, related_reference
from ofa_jax.scenes.grammar import Noun, Reference, plural
from ofa_jax.scenes.presets import ScenesConfig
from ofa_jax.scenes.truth import matches, referents
from ofa_jax.scenes.world import Dice, Scene

# Share of each type among the questions, before types that a scene does not allow are left out.
TYPE_WEIGHTS: dict[str, float] = {
    "color": 0.26,
    "shape": 0.2,
    "count": 0.18,
    "existence": 0.16,
    "relation": 0.12,
    "background": 0.08,
    "size": 0.12,
}
COLOR_WORDINGS: tuple[str, ...] = (
    "what color is the object",
    "what is the color of the object",
    "which color does the object have",
    "what color is this thing",
)
SHAPE_WORDINGS: tuple[str, ...] = (
    "what shape is the object",
    "what is the shape of the object",
    "which shape does the object have",
    "what shape is this thing",
)
SIZE_WORDINGS: tuple[str, ...] = (
    "what size is the object",
    "what is the size of the object",
    "which size does the object have",
    "what size is this thing",
)
# Of questions for an attribute of an object of the image. The splits have the first.
ATTRIBUTE_WORDINGS: tuple[str, ...] = (
    "what {attribute} is {reference}",
    "what is the {attribute} of {reference}",
    "which {attribute} does {reference} have",
)
_REGION_WORDINGS = {"color": COLOR_WORDINGS, "shape": SHAPE_WORDINGS, "size": SIZE_WORDINGS}


class QuestionAnswer(TypedDict):
    """A question about an image. `kind` is a key of `TYPE_WEIGHTS`."""

    question: str
    answer: str
    kind: str


class RegionQuestionAnswer(TypedDict):
    """A question about one box.

    `candidates` are all answers that the question allows, so chance is 1 / len(candidates).
    `needs_region` tells that other objects of the image would give another answer.
    """

    question: str
    answer: str
    kind: str
    box_index: int
    candidates: tuple[str, ...]
    needs_region: bool


def _reference_without(scene: Scene, index: int, field: str, dice: Dice) -> Reference | None:
    """A reference to an object that does not give one attribute away."""
    thing = scene.objects[index]
    attributes = {"color": thing.color, "shape": thing.shape, "size": thing.size}
    del attributes[field]
    bare = Noun(color=attributes.get("color", ""), shape=attributes.get("shape", ""))
    plain = [bare]
    if field == "size":
        plain += [Noun(color=thing.color), Noun(shape=thing.shape)]
    elif thing.size:
        plain.append(Noun(bare.color, bare.shape, thing.size))
    if len(scene.objects) == 1:
        plain.append(Noun())
    references = [Reference(noun) for noun in plain]
    references = [r for r in references if referents(r, scene) == [index]]
    # Relations also where they are not needed, so that they are learnt.
    if not references or dice.chance(0.2):
        related = related_reference(scene, index, Noun(), dice)
        references = [related] if related is not None else references
    return dice.pick(references) if references else None


def attribute_question(
    scene: Scene, field: str, dice: Dice, wordings: Sequence[str] = ATTRIBUTE_WORDINGS[:1]
) -> tuple[str, str] | None:
    """A question for one attribute of one object, and its answer.

    Args:
      scene: attributes of its objects that are empty are not spoken of.
      field: "color", "shape" or "size".
      dice: source of chance.
      wordings: one of them is drawn, where there are several, and "the object" is "this thing" as
        often.

    Returns:
      "what shape is the red object", "square"; None where no phrase fits one object only.
    """
    for index in dice.shuffled(range(len(scene.objects))):
        reference = _reference_without(scene, index, field, dice)
        if reference is not None:
            wording, named = wordings[0], str(reference)
            if len(wordings) > 1:
                wording = dice.pick(wordings)
                if named == str(Reference(Noun())) and dice.chance(0.5):
                    named = "this thing"
            question = wording.format(attribute=field, reference=named)
            return question, getattr(scene.objects[index], field)
    return None


def _count(scene: Scene, config: ScenesConfig, dice: Dice) -> tuple[str, str]:
    what = dice.below(3)
    present = dice.pick(scene.objects)
    if what == 0:
        words, noun = "objects", Noun()
    elif what == 1:
        color = present.color if dice.chance(0.5) else dice.pick(config.colors)
        words, noun = f"{color} objects", Noun(color)
    else:
        shape = present.shape if dice.chance(0.5) else dice.pick(config.shapes)
        words, noun = plural(shape), Noun(shape=shape)
    number = sum(matches(noun, thing) for thing in scene.objects)
    return f"how many {words} are there", str(number)


def _existence(
    scene: Scene, config: ScenesConfig, forbidden: Pairs, dice: Dice
) -> tuple[str, str] | None:
    thing = dice.pick(scene.objects)
    if dice.chance(0.5):
        noun = describe(thing, sized=False)
        what = dice.random()
        if what < 0.2:
            noun = Noun(thing.color)
        elif what < 0.4:
            noun = Noun(shape=thing.shape)
        return f"is there {noun.indefinite}", "yes"
    choices = [Noun(thing.color, shape) for shape in config.shapes]
    choices += [Noun(color, thing.shape) for color in config.colors]
    what = dice.random()
    if what < 0.2:
        choices = [Noun(color) for color in config.colors]
    elif what < 0.4:
        choices = [Noun(shape=shape) for shape in config.shapes]
    choices = [
        noun
        for noun in choices
        if noun.pair not in forbidden and not any(matches(noun, o) for o in scene.objects)
    ]
    return (f"is there {dice.pick(choices).indefinite}", "no") if choices else None


def _relation(scene: Scene, dice: Dice) -> tuple[str, str] | None:
    nouns = [describe(thing, sized=False) for thing in scene.objects]
    unique = [i for i, noun in enumerate(nouns) if nouns.count(noun) == 1]
    if len(unique) < 2:
        return None
    first, second = dice.shuffled(unique)[:2]
    relation = world.main_relation(scene.objects[first], scene.objects[second])
    answer = "yes" if dice.chance(0.5) else "no"
    if answer == "no":
        relation = world.OPPOSITES[relation]
    return f"is the {nouns[first]} {relation} the {nouns[second]}", answer


def _question(
    question_type: str, scene: Scene, config: ScenesConfig, forbidden: Pairs, dice: Dice
) -> tuple[str, str] | None:
    if question_type == "count":
        return _count(scene, config, dice)
    if question_type == "existence":
        return _existence(scene, config, forbidden, dice)
    if question_type == "relation":
        return _relation(scene, dice)
    if question_type == "background":
        return "what color is the background", scene.background
    return attribute_question(scene, question_type, dice)


def _weighted(weights: dict[str, float], dice: Dice) -> str:
    """A key, drawn in proportion to its weight."""
    point = dice.random() * sum(weights.values())
    for question_type, weight in weights.items():
        point -= weight
        if point < 0:
            return question_type
    return next(reversed(weights))


def questions(scene: Scene, config: ScenesConfig, split: str, dice: Dice) -> list[QuestionAnswer]:
    """Questions about the whole image, each of another type.

    Args:
      split: decides which colour-shape pairs may be named.
      dice: source of chance.

    Returns:
      One to `config.num_questions` questions. Yes and no are equally likely answers.
    """
    forbidden = config.forbidden_pairs(split)
    weights = dict(TYPE_WEIGHTS)
    if not config.size_names:
        del weights["size"]
    found: list[QuestionAnswer] = []
    while weights and len(found) < config.num_questions:
        question_type = _weighted(weights, dice)
        del weights[question_type]
        asked = _question(question_type, scene, config, forbidden, dice)
        if asked is not None:
            found.append({"question": asked[0], "answer": asked[1], "kind": question_type})
    return found


def region_questions(scene: Scene, config: ScenesConfig, dice: Dice) -> list[RegionQuestionAnswer]:
    """Questions about each object by its box: grounded question answering, never trained.

    Args:
      config: its world, which gives the possible answers.
      dice: chooses the wordings.

    Returns:
      For every object one question about its colour, one about its shape and, where sizes are
      spoken of, one about its size.
    """
    candidates = {"color": config.colors, "shape": config.shapes}
    if config.size_names:
        candidates["size"] = config.size_names
    found: list[RegionQuestionAnswer] = []
    for index, thing in enumerate(scene.objects):
        for question_type, names in candidates.items():
            answer = getattr(thing, question_type)
            found.append(
                {
                    "question": dice.pick(_REGION_WORDINGS[question_type]),
                    "answer": answer,
                    "kind": question_type,
                    "box_index": index,
                    "candidates": names,
                    "needs_region": any(getattr(o, question_type) != answer for o in scene.objects),
                }
            )
    return found
