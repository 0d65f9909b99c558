"""The judge: reads its own grammar exactly, and is right about what it reads."""

import re

import pytest

from ofa_jax.scenes import descriptions, presets, world
from ofa_jax.scenes.grammar import Listing, Noun, Phrase, Related
from ofa_jax.scenes.presets import PRESETS, preset
from ofa_jax.scenes.source import ScenesSource
from ofa_jax.scenes.truth import GrammarError, holds, parse, referents, truth
from ofa_jax.scenes.world import Dice, Scene, SceneObject

# A red circle top left, a small blue square below it, two stars on the right.
SCENE = Scene(
    64,
    "gray",
    "solid",
    (
        SceneObject("red", "circle", "large", (2, 2, 26, 26)),
        SceneObject("blue", "square", "small", (4, 40, 16, 52)),
        SceneObject("orange", "star", "small", (40, 4, 52, 16)),
        SceneObject("orange", "star", "small", (40, 40, 54, 54)),
    ),
)

TRUE = [
    "a red circle",
    "a large red circle",
    "an orange star",
    "a circle",
    "an object",
    "a red object on a gray background",
    "two orange stars",
    "four objects",
    "two small stars and a circle",
    "a red circle and a blue square",
    "a red circle, a blue square and two orange stars on a gray background",
    "an orange star and an orange star",
    "there is a red circle",
    "there are two orange stars and a blue square",
    "a gray background with a blue square and a red circle",
    "a red circle above a blue square",
    "a blue square below a red circle on a gray background",
    "an orange star right of a red circle",
    "an orange star above an orange star",
    "the circle",
    "the red object",
    "the star below the circle",
    "the circle above the blue square",
    "the circle is red",
    "the square is small",
    "the circle is above the square",
    "the circle is above the square so the square is below the circle",
    "the background is gray",
    "  A Red Circle . ",
    "a red circle,a blue square and a star",
]
FALSE = [
    "a green circle",
    "a small red circle",
    "a red circle on a white background",
    "a red circle and a circle",
    "two red circles",
    "three stars",
    "two objects",
    "a red circle and two red circles",
    "there are three orange stars",
    "a white background with a red circle",
    "a red circle below a blue square",
    "a red circle left of a blue square",
    "a red circle left of a red circle",
    "the star",
    "the green circle",
    "the star above the star",
    "the object right of the star",
    "the circle is blue",
    "the star is orange",
    "the circle is large so",
    "the circle is below the square",
    "the circle is above the star",
    "the circle is above the square so the square is above the circle",
    "the circle is above the circle",
    "the background is white",
]
UNREADABLE = [
    ("", "empty"),
    (" . ", "empty"),
    ("red circle", "'a' or 'an'"),
    ("a orange star", "'a' does not go with 'orange'"),
    ("an red circle", "'an' does not go with 'red'"),
    ("a red", "circle"),
    ("a red red circle", "circle"),
    ("a red small circle", "circle"),
    ("a mauve circle", "mauve"),
    ("two red circle", "circles"),
    ("one red circle", "'a' or 'an'"),
    ("a red circle and", "the end"),
    ("a red circle, a blue square", "'and'"),
    ("a red circle and a blue square and a star", "nothing more"),
    ("a red circle on a gray", "background"),
    ("a red circle on a red background", "white"),
    ("a red circle on the gray background", "'a' or 'an'"),
    ("a red circle left a blue square", "nothing more"),
    ("a red circle left of the blue square", "'a' or 'an'"),
    ("two orange stars above a circle", "nothing more"),
    ("there is two orange stars", "does not go with"),
    ("there a red circle", "'is' or 'are'"),
    ("a gray background", "'with'"),
    ("the circle is", "a colour"),
    ("the circle is star", "a colour"),
    ("the background is red", "white"),
    ("the circle is above the square so the square is small", "one plain relation"),
    ("the star below the circle is above the square", "a colour"),
    ("what color is the circle", "'a' or 'an'"),
]


@pytest.mark.parametrize("caption", TRUE)
def test_true_sentences(caption):
    assert truth(SCENE, caption)
    assert truth(SCENE.to_dict(), caption)


@pytest.mark.parametrize("caption", FALSE)
def test_false_sentences(caption):
    assert not truth(SCENE, caption)


@pytest.mark.parametrize(("text", "reason"), UNREADABLE)
def test_unreadable_texts_say_why(text, reason):
    with pytest.raises(GrammarError, match=re.escape(reason)):
        parse(text)
    assert not truth(SCENE, text)


def test_something_else_than_a_sentence_is_refused():
    with pytest.raises(TypeError, match="not a sentence"):
        holds("a red circle", SCENE)


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("split", presets.SPLITS)
def test_generated_sentences_read_back_and_are_judged_right(name, split):
    """Every caption is true, every negative false, every reference means its object."""
    config = preset(name)
    source = ScenesSource(name, split, seed=5, hardness=0.7)
    for index in range(200):
        example = source[index]
        scene = source.scene(index)
        for caption in example["captions"]:
            assert str(parse(caption)) == caption
            assert truth(example["scene"], caption), caption
        for caption in example["negatives"]:
            assert str(parse(caption)) == caption
            assert not truth(example["scene"], caption), caption
        for reference, box in zip(example["refexps"], example["refexp_box_index"], strict=True):
            tree = parse(reference)
            assert str(tree) == reference
            assert referents(tree, scene) == [box]
            assert truth(scene, reference)
        for number, caption in enumerate(example["region_captions"]):
            assert truth(scene, caption)
            assert scene.objects[number].color in caption
        assert str(parse(example["text"])) == example["text"]
        imaginary = world.draw_scene(config, Dice(index), split)
        sentence = descriptions.any_caption(imaginary, config, Dice(index))
        assert parse(str(sentence)) == sentence
        assert holds(sentence, imaginary)


def test_statements_are_true_of_some_scene():
    """An inference never contradicts itself: both halves say the same."""
    config = preset("small")
    inferences = 0
    for number in range(2000):
        text = str(descriptions.statement(config, "train", Dice(number)))
        if " so " in text:
            inferences += 1
            found = re.fullmatch(r"the (.*) is (.*) the (.*) so the (.*) is (.*) the (.*)", text)
            a, relation, b, c, opposite, d = found.groups()
            assert (a, b) == (d, c)
            assert world.OPPOSITES[relation] == opposite
    assert inferences > 200


def test_lists_need_different_objects_even_where_the_first_choice_is_wrong():
    scene = Scene(
        64,
        "gray",
        "solid",
        (
            SceneObject("red", "circle", "", (0, 0, 10, 10)),
            SceneObject("blue", "circle", "", (20, 0, 30, 10)),
        ),
    )
    circle, red = Phrase(Noun(shape="circle")), Phrase(Noun("red", "circle"))
    assert holds(Listing((circle, red)), scene)
    assert holds(Listing((red, circle)), scene)
    assert not holds(Listing((red, circle, circle)), scene)
    assert holds(Related(Noun(shape="circle"), "left of", Noun("blue")), scene)
