"""What can be said about a scene: captions, false captions, referring expressions, statements.

All functions are pure: the same scene and dice give the same sentences. No sentence names a
colour-shape pair in `forbidden`, be it as true or as false, so that the held-out pairs of the
split `compositions` are really unheard of. (A pair named only in false captions would teach that
it does not exist.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from ofa_jax.scenes import world
from ofa_jax.scenes.grammar import (
    Assertion,
    Attribution,
    Inference,
    Listing,
    Noun,
    Phrase,
    Reference,
    Related,
    Sentence,
)
from ofa_jax.scenes.presets import ScenesConfig
from ofa_jax.scenes.truth import holds, matches, referents
from ofa_jax.scenes.world import Dice, Scene, SceneObject

Pairs = Collection[tuple[str, str]]
Caption = Listing | Related

_LISTED = 3
_PROBABILITY_OF_SIZE = 0.5
_MUTATION_TRIES = 12
# More words in its two nouns would make an inference longer than 17 words.
_INFERENCE_WORDS = 3


def describe(thing: SceneObject, *, sized: bool = True) -> Noun:
    """The noun with all attributes of an object, with or without its size."""
    return Noun(thing.color, thing.shape, thing.size if sized else "")


def region_caption(thing: SceneObject) -> str:
    """The one description of a region, e.g. "a small red circle": exact match is meaningful."""
    return describe(thing).indefinite


def label(thing: SceneObject) -> str:
    """The detection label of an object, e.g. "red circle"."""
    return f"{thing.color} {thing.shape}"


def _listing(things: Sequence[SceneObject], scene: Scene, sized: bool) -> tuple[Phrase, ...]:
    """Phrases of up to three kinds from left to right, like kinds counted together."""
    phrases: list[Phrase] = []
    for thing in things:
        noun = describe(thing, sized=sized)
        if len(phrases) < _LISTED and all(phrase.noun != noun for phrase in phrases):
            count = sum(matches(noun, other) for other in scene.objects)
            phrases.append(Phrase(noun, count))
    return tuple(phrases)


def _relation(scene: Scene, sized: bool, background: str, dice: Dice) -> Related | None:
    """A true relation between two objects of different kinds, None if there are no two."""
    nouns = [describe(thing, sized=sized) for thing in scene.objects]
    numbers = range(len(nouns))
    choices = [(i, j) for i in numbers for j in numbers if nouns[i] != nouns[j]]
    if not choices:
        return None
    i, j = dice.pick(choices)
    relation = world.main_relation(scene.objects[i], scene.objects[j])
    return Related(nouns[i], relation, nouns[j], background)


def _caption(form: str, scene: Scene, dice: Dice) -> Caption | None:
    sized = dice.chance(_PROBABILITY_OF_SIZE)
    background = scene.background if form.endswith("_background") else ""
    if form.startswith("relation"):
        return _relation(scene, sized, background, dice)
    if form.startswith("single"):
        one = [dice.pick(scene.objects)]
        return Listing(_listing(one, scene, sized), background)
    everything = _listing(scene.objects, scene, sized)
    if form == "there_is":
        return Listing(everything, opening="there")
    if form == "background_with":
        return Listing(everything, scene.background, "with")
    return Listing(everything, background)


def captions(scene: Scene, config: ScenesConfig, dice: Dice) -> list[Caption]:
    """True captions of a scene, all different.

    Args:
      config: its world: which forms there are and how many captions are wanted.
      dice: source of chance.

    Returns:
      One to `config.num_captions` captions. The first has the form `config.caption_forms[0]`,
      by default the complete one: all kinds of objects (three at most) from left to right, and
      the background. The others come in random order.
    """
    first, *others = config.caption_forms
    forms = [first, *dice.shuffled(others)]
    if len(scene.objects) > 1:
        # Once more: another object, another relation.
        forms += dice.shuffled(others)
    found: dict[str, Caption] = {}
    for form in forms:
        caption = _caption(form, scene, dice)
        if caption is not None:
            found.setdefault(str(caption), caption)
            if len(found) == config.num_captions:
                break
    return list(found.values())


def any_caption(scene: Scene, config: ScenesConfig, dice: Dice) -> Caption:
    """One true caption of a scene, of a form drawn by lot."""
    while True:
        caption = _caption(dice.pick(config.caption_forms), scene, dice)
        if caption is not None:
            return caption


def _other(names: Sequence[str], current: str, dice: Dice) -> str:
    return dice.pick([name for name in names if name != current])


def _mutated_noun(noun: Noun, field: str, config: ScenesConfig, dice: Dice) -> Noun:
    names = {"color": config.colors, "shape": config.shapes, "size": config.size_names}[field]
    return dataclasses.replace(noun, **{field: _other(names, getattr(noun, field), dice)})


def _mutations(caption: Caption, config: ScenesConfig) -> list[tuple[int, str]]:
    """The words of a caption that can be exchanged: (position of the noun or -1, field)."""
    slots = [(-1, "background")] if caption.background and len(config.backgrounds) > 1 else []
    if isinstance(caption, Related):
        slots.append((-1, "relation"))
    elif max(config.object_counts) > 2:
        slots += [(i, "count") for i, phrase in enumerate(caption.phrases) if phrase.count > 1]
    for i, noun in enumerate(caption.nouns()):
        slots += [(i, field) for field in ("color", "shape", "size") if getattr(noun, field)]
    return slots


def _mutate(caption: Caption, slot: tuple[int, str], config: ScenesConfig, dice: Dice) -> Caption:
    """The caption with one word exchanged."""
    position, field = slot
    if field == "background":
        other = _other(config.backgrounds, caption.background, dice)
        return dataclasses.replace(caption, background=other)
    if isinstance(caption, Related):
        if field == "relation":
            # Only the opposite keeps the number of words, and it is always false between two
            # kinds that occur once.
            opposite = world.OPPOSITES[caption.relation]
            return dataclasses.replace(caption, relation=opposite)
        noun = _mutated_noun((caption.first, caption.second)[position], field, config, dice)
        if position == 0:
            return dataclasses.replace(caption, first=noun)
        return dataclasses.replace(caption, second=noun)
    phrases = list(caption.phrases)
    phrase = phrases[position]
    if field == "count":
        counts = range(2, max(config.object_counts) + 1)
        other = dice.pick([count for count in counts if count != phrase.count])
        phrases[position] = dataclasses.replace(phrase, count=other)
    else:
        noun = _mutated_noun(phrase.noun, field, config, dice)
        phrases[position] = dataclasses.replace(phrase, noun=noun)
    return dataclasses.replace(caption, phrases=tuple(phrases))


def _speakable(sentence: Caption, forbidden: Pairs) -> bool:
    """Whether a caption names no forbidden pair and no kind twice, as true captions never do."""
    nouns = list(sentence.nouns())
    return len(set(nouns)) == len(nouns) and not any(noun.pair in forbidden for noun in nouns)


def hard_negative(
    scene: Scene, caption: Caption, config: ScenesConfig, forbidden: Pairs, dice: Dice
) -> Caption | None:
    """A false caption that differs from a true one in one word (and perhaps in its article).

    The word is a colour, shape, size, number, relation or background, each occurrence as likely.

    Args:
      caption: a caption of `captions`.
      forbidden: (color, shape) pairs that must not be named.
      dice: source of chance.

    Returns:
      A caption that `holds` proves false, or None if none was found.
    """
    slots = _mutations(caption, config)
    for _ in range(_MUTATION_TRIES):
        mutant = _mutate(caption, dice.pick(slots), config, dice)
        if _speakable(mutant, forbidden) and not holds(mutant, scene):
            return mutant
    return None


def easy_negative(scene: Scene, config: ScenesConfig, split: str, dice: Dice) -> Caption:
    """A false caption that is true of another, imaginary scene of the same split."""
    while True:
        other = world.draw_scene(config, dice, split)
        caption = any_caption(other, config, dice)
        if not holds(caption, scene):
            return caption


def negatives(
    scene: Scene,
    true_captions: Sequence[Caption],
    config: ScenesConfig,
    split: str,
    dice: Dice,
    hardness: float = 1.0,
) -> list[tuple[Caption, str]]:
    """False captions for image-text matching.

    Args:
      split: decides which pairs may be named.
      dice: source of chance.
      hardness: probability that a false caption is a true one with one word changed; the others
        are captions of other scenes. A curriculum may raise it from 0 to 1.

    Returns:
      `config.num_negatives` different pairs (caption, "hard" or "easy"); no caption is true.
    """
    forbidden = config.forbidden_pairs(split)
    found: dict[Caption, str] = {}
    while len(found) < config.num_negatives:
        mutant = None
        if dice.chance(hardness):
            caption = dice.pick(true_captions)
            mutant = hard_negative(scene, caption, config, forbidden, dice)
        if mutant is not None:
            found.setdefault(mutant, "hard")
        else:
            found.setdefault(easy_negative(scene, config, split, dice), "easy")
    return list(found.items())


def _attribute_nouns(thing: SceneObject) -> list[list[Noun]]:
    """Nouns that fit an object, by the number of attributes that they name."""
    color, shape, size = thing.color, thing.shape, thing.size
    levels = [[Noun(color), Noun("", shape)], [Noun(color, shape)]]
    if size:
        levels[1] += [Noun("", shape, size), Noun(color, "", size)]
        levels.append([Noun(color, shape, size)])
    return levels


def shortest_noun(scene: Scene, index: int, dice: Dice) -> Noun | None:
    """The noun with the fewest attributes that fits one object only, None if there is none."""
    for level in _attribute_nouns(scene.objects[index]):
        fitting = [noun for noun in level if sum(matches(noun, o) for o in scene.objects) == 1]
        if fitting:
            return dice.pick(fitting)
    return None


def related_reference(scene: Scene, index: int, noun: Noun, dice: Dice) -> Reference | None:
    """A reference by relation to an anchor, as in "the red circle left of the blue square".

    Args:
      index: the object that is meant.
      noun: how it is called.
      dice: source of chance.

    Returns:
      An unambiguous reference whose anchor is unambiguous too, or None.
    """
    choices = []
    for anchor, thing in enumerate(scene.objects):
        if anchor == index:
            continue
        anchor_noun = describe(thing, sized=False)
        if referents(Reference(anchor_noun), scene) != [anchor]:
            anchor_noun = describe(thing)
        relation = world.main_relation(scene.objects[index], thing)
        reference = Reference(noun, relation, anchor_noun)
        if anchor_noun != noun and referents(reference, scene) == [index]:
            choices.append(reference)
    return dice.pick(choices) if choices else None


def referring_expressions(scene: Scene, dice: Dice) -> list[tuple[Reference, int]]:
    """References to the objects of a scene, all unambiguous.

    Each object gets the shortest phrase of attributes and, where that is another one, colour and
    shape (and size, if needed) together; if attributes do not tell it from the others, a phrase
    by relation; if that is ambiguous too, nothing.

    Args:
      dice: source of chance.

    Returns:
      (reference, index of the object) in order of the objects; never empty.
    """
    found: list[tuple[Reference, int]] = []
    for index, thing in enumerate(scene.objects):
        noun = shortest_noun(scene, index, dice)
        if noun is None:
            reference = related_reference(scene, index, describe(thing, sized=False), dice)
            if reference is not None:
                found.append((reference, index))
            continue
        found.append((Reference(noun), index))
        for complete in (describe(thing, sized=False), describe(thing)):
            if complete == noun:
                break
            if referents(Reference(complete), scene) == [index]:
                found.append((Reference(complete), index))
                break
    return found


def statement(config: ScenesConfig, split: str, dice: Dice) -> Sentence:
    """A sentence about an imaginary scene of several objects, for text infilling.

    Half are captions. Of the others most are inferences, which say the same thing twice ("the
    circle is left of the square so the square is right of the circle"), so that what is masked
    can be worked out; the rest are plain relations and attributions.

    Args:
      split: decides which pairs may be named.
      dice: source of chance.

    Returns:
      The sentence, of 17 words at most if it is no caption; true of the imaginary scene.
    """
    several = min(2, max(config.object_counts))
    scene = world.draw_scene(config, dice, split)
    while len(scene.objects) < several:
        scene = world.draw_scene(config, dice, split)
    chance = dice.random()
    nouns: dict[int, Noun] = {}
    for index in range(len(scene.objects)):
        noun = shortest_noun(scene, index, dice)
        if noun is not None:
            nouns[index] = noun
    known = list(nouns)
    if chance < 0.4 and len(known) > 1:
        first, second = dice.shuffled(known)[:2]
        relation = world.main_relation(scene.objects[first], scene.objects[second])
        premise = Assertion(nouns[first], relation, nouns[second])
        words = f"{nouns[first]} {nouns[second]}".split()
        if chance < 0.1 or len(words) > _INFERENCE_WORDS:
            return premise
        conclusion = Assertion(nouns[second], world.OPPOSITES[relation], nouns[first])
        return Inference(premise, conclusion)
    if chance < 0.5:
        thing = scene.objects[dice.pick(known)]
        subject = Reference(Noun("", thing.shape))
        if len(referents(subject, scene)) == 1:
            field = "size" if thing.size and dice.chance(0.5) else "color"
            return Attribution(subject, field, getattr(thing, field))
    return any_caption(scene, config, dice)
