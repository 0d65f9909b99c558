"""Views without colors or without shapes: nothing in them has the name that is not to be told."""

import colorsys
import dataclasses

import numpy as np
import pytest

from ofa_jax.data.ops.hidden_words import UNREAD_WORDS, UNSCORED_WORDS
from ofa_jax.data.steps.selection import ChooseQuestion
from ofa_jax.scenes import presets, renderer, views
from ofa_jax.scenes.presets import preset
from ofa_jax.scenes.source import ScenesSource
from ofa_jax.scenes.truth import holds, parse

WORLDS = ("tiny", "small", "base")


def hue(paint):
    return colorsys.rgb_to_hsv(*(channel / 255 for channel in paint))[0]


@pytest.mark.parametrize("world", WORLDS)
def test_paints_without_a_name(world):
    config, rng = preset(world), np.random.default_rng(0)
    for color in config.colors:
        assert views.has_name(presets.COLORS[color], config)
    for background in config.backgrounds:
        for _ in range(200):
            paint = views.unnamed_paint(config, background, rng)
            assert not views.has_name(paint, config)
            gaps = [abs(hue(paint) - hue(presets.COLORS[color])) for color in config.colors]
            assert max(paint) - min(paint) <= 64 or min(min(gap, 1 - gap) for gap in gaps) >= 0.07
            behind = presets.BACKGROUNDS[background]
            assert np.linalg.norm(np.subtract(paint, behind)) >= 100


def test_forms_resemble_no_shape_with_a_name():
    side = 32
    named = {
        shape: renderer.shape_layers(shape, side, "solid")[0] > 0.5 for shape in presets.SHAPES
    }
    assert len(set(renderer.forms())) > 30
    for form in renderer.forms():
        covered = renderer.shape_layers(form, side, "solid")[0] > 0.5
        for shape, other in named.items():
            assert (covered & other).sum() < 0.8 * (covered | other).sum(), (form, shape)


@pytest.mark.parametrize("world", WORLDS)
def test_what_a_view_keeps_and_what_it_changes(world):
    source, rng = ScenesSource(world), np.random.default_rng(1)
    for index in range(20):
        scene = source.scene(index)
        image = renderer.render(scene)
        background = np.array(presets.BACKGROUNDS[scene.background])
        inside = np.zeros(image.shape[:2], bool)
        for o in scene.objects:
            x0, y0, x1, y1 = o.box
            inside[y0:y1, x0:x1] = True
        example = {"scene": scene.to_dict(), "image": image}
        repainted = views.SceneViews(world, 1.0, 0.0)(example, rng)["image"]
        reshaped = views.SceneViews(world, 0.0, 1.0)(example, rng)["image"]
        worn = views.SceneViews(world, 0.0, 0.0, worn=1.0)(example, rng)
        assert worn[UNSCORED_WORDS] == ()
        for view in (repainted, reshaped, worn["image"]):
            assert view.dtype == np.uint8
            assert (view[~inside] == background).all()
            for o in scene.objects:
                x0, y0, x1, y1 = o.box
                assert (view[y0:y1, x0:x1] != image[y0:y1, x0:x1]).any()
        # What was painted is painted still, and nothing else.
        same = (repainted != background).any(-1) == (image != background).any(-1)
        assert same.mean() > 0.98


def test_shares_of_views_and_what_they_do_not_tell():
    config, source = preset("tiny"), ScenesSource("tiny")
    step = views.SceneViews("tiny", without_colors=0.5, without_shapes=0.3)
    rng = np.random.default_rng(2)
    hidden = [step(source[index], rng).get(UNSCORED_WORDS, ()) for index in range(600)]
    assert np.mean(["red" in words for words in hidden]) == pytest.approx(0.5, abs=0.07)
    assert np.mean(["circle" in words for words in hidden]) == pytest.approx(0.3, abs=0.07)
    assert "an orange" in views.color_words(config)
    assert "crosses" in views.shape_words(config)
    for shares in ((0.7, 0.4), (-0.1, 0.5)):
        with pytest.raises(ValueError, match="without_colors"):
            views.SceneViews("tiny", *shares)
    with pytest.raises(ValueError, match="worn"):
        views.SceneViews("tiny", worn=2.0)


def test_worn_paint_stays_within_its_object():
    rng = np.random.default_rng(5)
    left = np.stack([views.random_wear(12, rng) for _ in range(200)])
    assert left.shape == (200, 12, 12, 1)
    assert 0 <= left.min() < 0.1
    assert left.max() <= 1
    # Most of the paint is left: what the thing is can still be told.
    assert (left > 0.9).mean() > 0.5


def test_what_a_text_names_stays():
    source, rng = ScenesSource("tiny"), np.random.default_rng(3)
    step = views.SceneViews("tiny", 1.0, 0.0, told_by=("question", "answer"))
    example = {**source[0], "question": "what color is the square", "answer": "yellow"}
    assert (step(example, rng)["image"] == example["image"]).all()
    assert step(example, rng)[UNSCORED_WORDS] == ()
    example = {**source[0], "question": "what shape is the object", "answer": "square"}
    assert (step(example, rng)["image"] != example["image"]).any()


@pytest.mark.parametrize("world", WORLDS)
def test_no_view_draws_a_held_out_pair(world):
    """By enumeration over every object of many scenes, in both views."""
    config, source, rng = preset(world), ScenesSource(world), np.random.default_rng(4)
    for index in range(300):
        scene = source.scene(index)
        for o in scene.objects:
            # Without colors no paint is one that a color names, whatever the shape.
            assert not views.has_name(views.unnamed_paint(config, scene.background, rng), config)
            # Without shapes no shape is one that a word names, whatever the color.
            assert views.unnamed_shape(config, rng) not in config.shapes
            assert (o.color, o.shape) not in config.held_out


@pytest.mark.parametrize("world", WORLDS)
def test_questions_for_one_attribute_speak_of_the_other_nowhere(world):
    config, source, rng = preset(world), ScenesSource(world), np.random.default_rng(6)
    colors, shapes = set(config.colors), set(views.shape_words(config))
    asked, counted = 0, 0
    for index in range(400):
        plain = ChooseQuestion()(source[index], rng)
        view = views.QuestionViews(world, worn=0.0)(plain, rng)
        words = set(f"{view['question']} {view['answer']}".split())
        if plain["question_kind"] not in ("color", "shape"):
            assert view["question"] == plain["question"]
            assert view["answer"] == plain["answer"]
            assert (view["image"] == plain["image"]).all()
            continue
        asked += 1
        counted += view["question"] == "how many objects are there"
        hidden = shapes if plain["question_kind"] == "color" else colors
        assert not words & hidden
        assert (view["image"] != plain["image"]).any()
        scene = source.scene(index)
        if view["question"] == "how many objects are there":
            assert view["answer"] == str(len(scene.objects))
        else:
            assert view["answer"] in {getattr(o, plain["question_kind"]) for o in scene.objects}
    assert asked > 60
    assert counted < asked / 3


@pytest.mark.parametrize("world", WORLDS)
def test_matching_of_texts_without_colors_or_without_shapes(world):
    config, source, rng = preset(world), ScenesSource(world), np.random.default_rng(8)
    colors, shapes = set(config.colors), set(views.shape_words(config))
    answers, of_neighbors = [], 0
    for index in range(400):
        scene = source.scene(index)
        example = views.MatchViews(world)(source[index], rng)
        words = set(f"{example['caption']} {example['region_caption']}".split())
        assert not (words & colors and words & shapes)
        assert (example["image"] != source[index]["image"]).any()
        # What is true of the view is true of the scene, of which it shows less.
        right = example["answer"] == "yes"
        assert holds(parse(example["caption"]), scene) == right
        number = next(i for i, o in enumerate(scene.objects) if (o.box == example["region"]).all())
        one = dataclasses.replace(scene, objects=(scene.objects[number],))
        assert holds(parse(example["region_caption"]), one) == right
        others = [o for i, o in enumerate(scene.objects) if i != number]
        if others and not right:
            rest = dataclasses.replace(scene, objects=tuple(others))
            of_neighbors += holds(parse(example["region_caption"]), rest)
        answers.append(right)
    assert np.mean(answers) == pytest.approx(0.5, abs=0.08)
    assert of_neighbors > 40


def test_sentences_without_colors_or_without_shapes():
    config, rng = preset("tiny"), np.random.default_rng(7)
    step = views.SentenceViews("tiny", without_colors=0.25)
    found = [step({"text": "a red circle"}, rng) for _ in range(400)]
    assert all(one[UNREAD_WORDS] == one[UNSCORED_WORDS] for one in found)
    hidden = {one[UNREAD_WORDS] for one in found}
    assert hidden == {views.color_words(config), views.shape_words(config)}
    without_colors = np.mean(["red" in one[UNREAD_WORDS] for one in found])
    assert without_colors == pytest.approx(0.25, abs=0.07)
